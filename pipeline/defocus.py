"""Stage `defocus`: render each frame defocused, by its depth and the camera.

    python -m pipeline.defocus --dataset nyu --camera paper

A camera that took the photographs of a folder (`photographs`) renders nothing there: its images are
the photographs.

The store data/defocused/<dataset>/<camera> has one rendering of a frame for each focus
distance: `defocused` (uint8) and `coc`, the signed circle of confusion in px (float16: within 0.01
px at 29 px). Test images have the camera's noise and compression; training images do not, since
training draws these anew for each sample. Its frames.csv has each rendering's lens, and for test
frames the PSNR and SSIM of the rendering itself.
reports/defocus/<dataset>/<camera> gets a contact sheet, a histogram of CoC, the blur of this and
every other camera against depth, and the defocused input's scores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hded.blur.holes import fill_holes
from hded.blur.render import (
    describe_photographs,
    list_renderings,
    render_defocused,
    sensor_rng,
)
from hded.common.errors import HDEDError
from hded.common.files import finite, replacing, write_csv, write_json
from hded.config.params import load_params
from hded.config.schema import Defocus
from hded.defocus_diagnostics import (
    BlurCount,
    camera_table,
    contact_sheet,
    input_scores,
    pick_for_sheet,
)
from hded.metrics import psnr, ssim
from hded.optics import IDEAL, LENS_COLUMNS, Camera, describe_cameras
from hded.optics.camera import STATED
from hded.store import MARKER, Store, open_store
from pipeline.lib import fingerprint, stage
from pipeline.lib.blocks import Result, StoreTask, unfinished
from pipeline.lib.tracking import flatten, track


def main() -> None:
    """Run the stage."""
    args = stage.parser(__doc__, "dataset", "camera", scheduler=True).parse_args()
    dataset, cell = args.dataset, Path(args.dataset) / args.camera
    params = load_params(stage.PARAMS)
    settings = params.defocus
    cameras = params.camera(args.camera, "--camera")
    scenes = open_store(stage.FRAMES / dataset)
    width_px = scenes.attributes["image_width_px"]
    columns = scenes.frames.columns
    if set(columns) & set(STATED.values()) and not cameras[0].photographs:
        print(
            f"{dataset}: {args.camera} blurs all frames alike; lenses.csv is for a camera with "
            "photographs: true"
        )
    if "defocused" in scenes.arrays and not cameras[0].photographs:
        print(
            f"{dataset}: {args.camera} renders its images anew; the photographs in defocused/ are "
            "read by a camera with photographs: true"
        )
    camera = {**describe_cameras(cameras, width_px, columns), "renderer": settings.renderer}
    if _took_photographs(cameras, scenes):
        camera = describe_photographs(cameras, width_px, columns)
    table = list_renderings(scenes.frames, cameras)
    size = tuple(scenes.attributes["size"])
    arrays = {"defocused": ((*size, 3), np.uint8), "coc": (size, np.float16)}
    blur = BlurCount(camera["max_coc_px"], camera["sigma_rule"], camera.get("softness_px", 0.0))
    record = Rendering(scenes, table, cameras, settings, blur)
    task = StoreTask(
        f"defocus {dataset} by {args.camera}", table, arrays, record, {"camera": camera}
    )
    depends_on = {"camera": camera, "defocus": settings.model_dump()}
    name = f"defocus/{cell.as_posix()}"
    with unfinished(name, depends_on, [stage.FRAMES / dataset / MARKER]) as draft:
        facts = task.write(stage.DEFOCUSED / cell, draft, args.scheduler)
    for fact in facts:
        blur.include(fact)
    every = {args.camera: cameras} | {name: params.camera(name) for name in params.cameras}
    blurs = camera_table(every, width_px, scenes.attributes["max_depth_m"])
    _show(
        dataset,
        stage.DEFOCUS_REPORT / cell,
        scenes,
        open_store(stage.DEFOCUSED / cell),
        blur,
        blurs,
    )


def _took_photographs(cameras: Sequence[Camera], scenes: Store) -> bool:
    """Return whether the images of a dataset by this camera are photographs, not renderings."""
    return cameras[0].photographs and "defocused" in scenes.arrays


@dataclass(frozen=True, slots=True)
class Rendering:
    """Renders frames of a store: a frame's arrays and columns, and the amount of its blur."""

    scenes: Store
    table: pd.DataFrame
    cameras: Sequence[Camera]
    settings: Defocus
    blur: BlurCount

    def __call__(self, position: int) -> tuple[dict[str, Any], Result]:
        """Return the record of one row of the table."""
        scenes, settings = self.scenes, self.settings
        row = {str(k): v for k, v in self.table.iloc[position].items()}
        width_px = scenes.attributes["image_width_px"]
        known = "all_in_focus" in scenes.attributes["truths"]
        index = row["frame_index"]
        rgb, depth = scenes.read("rgb", index), scenes.read("depth", index)
        rng = np.random.default_rng([settings.seed, index])
        camera = self.cameras[row["camera_index"]].of_frame(row)
        # training draws noise and compression anew for each sample
        test = row["split"] == "test"
        sensor = camera.sensor if test else IDEAL
        noise = sensor_rng(camera.name, settings.seed, index, row["camera_index"])
        try:
            lens = camera.lens(depth, width_px, rng)
            if _took_photographs(self.cameras, scenes):
                image, coc = scenes.read("defocused", index), lens.coc_px(fill_holes(depth))
            else:
                image, coc = render_defocused(rgb, depth, lens, settings.renderer, sensor, noise)
        except HDEDError as error:
            raise HDEDError(f"frame {row['frame']}: {error}") from error
        record = {
            "defocused": image,
            "coc": coc.astype(np.float16),
            **{column: getattr(lens, column) for column in LENS_COLUMNS},
            "psnr": psnr(image, rgb) if test and known else math.nan,
            "ssim": ssim(image, rgb) if test and known else math.nan,
        }
        return record, self.blur.measure(coc, depth)


def _show(
    dataset: str,
    out: Path,
    scenes: Store,
    defocused: Store,
    blur: BlurCount,
    cameras: pd.DataFrame,
) -> None:
    """Write the diagnostics to `out`, and log them to a separate MLflow run."""
    out.mkdir(parents=True, exist_ok=True)
    camera = defocused.attributes["camera"]
    scores = {**input_scores(defocused.frames), **blur.summary()}
    write_json(out / "input.json", finite(scores))
    write_csv(out / "coc.csv", blur.table())
    write_csv(out / "cameras.csv", cameras)
    sheet = contact_sheet(scenes, defocused, pick_for_sheet(defocused.frames))
    with replacing(out / "contact_sheet.jpg") as draft:
        sheet.savefig(draft, pil_kwargs={"quality": 90})
    tags = {
        "stage": "defocus",
        "dataset": dataset,
        "source": scenes.attributes["source"],
        "camera": camera["name"],
    }
    with track(f"{dataset}-defocus-{camera['name']}", tags) as tracker:
        tracker.params({"camera": camera})
        digest = fingerprint.of_data(stage.FRAMES / dataset)
        tracker.dataset(dataset, digest, tags["source"], "defocus", frames=len(scenes))
        tracker.metrics(flatten(scores, "input/", separator="/"))
        tracker.artifacts(out, "defocus")


if __name__ == "__main__":
    # by its name: workers import what is sent to them
    from pipeline import defocus as by_name

    stage.run(by_name.main)
