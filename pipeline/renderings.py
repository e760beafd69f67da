"""Stage `renderings`: which defocused images each network reads, data/renderings/<dataset>.

    python -m pipeline.renderings --dataset nyu

Writes <variant>.json for every selected variant: the cameras of its training and of its test
images, with a digest of each one's store. Training and evaluation depend on this file instead of on
all renderings, so a further camera runs them again only for the variants that read its pictures.
"""

from hded.common.files import write_json
from hded.config.params import load_params
from pipeline.lib import fingerprint, stage


def main() -> None:
    """Run the stage."""
    dataset = stage.parser(__doc__, "dataset").parse_args().dataset
    params = load_params(stage.PARAMS)
    out = stage.RENDERINGS / dataset
    out.mkdir(parents=True, exist_ok=True)
    for variant in params.run.variants:
        trained_on = params.training_dataset(variant, dataset)
        read = {
            "train": (trained_on, params.camera_names(variant, trained_on)),
            "test": (dataset, params.test_camera_names(variant, dataset)),
        }
        # the frames of another dataset are no dependency of the stages that read this file
        content = {
            use: {
                "dataset": whose,
                "frames": None if whose == dataset else fingerprint.of_data(stage.FRAMES / whose),
                "cameras": {
                    name: fingerprint.of_data(stage.DEFOCUSED / whose / name) for name in names
                },
            }
            for use, (whose, names) in read.items()
        }
        write_json(out / f"{variant}.json", content)


if __name__ == "__main__":
    stage.run(main)
