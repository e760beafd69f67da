"""Stage `defocus`: blur each frame by its depth through the camera, data/defocused/<dataset>.

    python -m pipeline.defocus --dataset nyu

The store holds `defocused` uint8 and `coc`, the signed circle of confusion in px (float16: within
0.01 px at 29 px); frames.csv holds the lens that took each picture.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from hded.blur import gaussian_gather
from hded.errors import HDEDError
from hded.optics import AnyCamera, sigma_of_coc
from hded.params import load_params
from hded.progress import progress
from hded.store import Store, open_store, write_store
from pipeline import stage


def main() -> None:
    """Run the stage."""
    dataset = stage.parser(__doc__, "dataset").parse_args().dataset
    settings = load_params(stage.PARAMS).defocus
    camera = settings.resolve()
    scenes = open_store(stage.SCENES / dataset)
    size = tuple(scenes.attributes["size"])
    arrays = {"defocused": ((*size, 3), np.uint8), "coc": (size, np.float16)}
    records = progress(
        _records(scenes, camera, settings.seed),
        total=len(scenes),
        desc=f"defocus {dataset}",
        unit="frame",
    )
    attributes = {
        "camera": {**camera.describe(scenes.attributes["image_width_px"]), "renderer": "gather"}
    }
    write_store(stage.DEFOCUSED / dataset, scenes.frames, arrays, records, attributes)


def _records(scenes: Store, camera: AnyCamera, seed: int) -> Iterator[dict[str, Any]]:
    width_px = scenes.attributes["image_width_px"]
    for index, name in enumerate(scenes.frames["frame"]):
        depth = scenes.read("depth", index)
        lens = camera.lens(depth, width_px, np.random.default_rng([seed, index]))
        coc = lens.coc_px(depth)
        try:
            image = gaussian_gather(scenes.read("rgb", index), sigma_of_coc(coc, lens.sigma_rule))
        except HDEDError as error:
            raise HDEDError(f"frame {name}: {error}") from error
        yield {
            "defocused": np.rint(image * 255).astype(np.uint8),
            "coc": coc.astype(np.float16),
            "focal_length_m": lens.focal_length_m,
            "aperture_m": lens.aperture_m,
            "focus_distance_m": lens.focus_distance_m,
        }


if __name__ == "__main__":
    stage.run(main)
