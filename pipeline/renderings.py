"""Stage `renderings`: which defocused images each network reads, data/renderings/<dataset>.

    python -m pipeline.renderings --dataset nyu

Writes <variant>.json for every selected variant: its cameras, with a digest of each one's store.
Training and evaluation depend on this file instead of on all renderings, so a further camera runs
them again only for the variants that read its pictures.
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
        stores = {
            name: fingerprint.of_data(stage.DEFOCUSED / dataset / name)
            for name in params.camera_names(variant, dataset)
        }
        write_json(out / f"{variant}.json", stores)


if __name__ == "__main__":
    stage.run(main)
