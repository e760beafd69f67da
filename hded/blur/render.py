"""Render a defocused image: depth -> circle of confusion -> blur -> noise -> 8 bits -> JPEG."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hded.blur import gaussian_gather, layered_blur
from hded.blur.holes import fill_holes
from hded.common.errors import HDEDError
from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.optics import (
    IDEAL,
    NOT_DEFOCUSED,
    Camera,
    Renderer,
    Sensor,
    ThinLens,
    describe_cameras,
    sigma_of_coc,
)

PHOTOGRAPHS = "none: photographs"  # in place of a renderer
SENSOR_STREAM = 1  # tells these random numbers from those that draw the lens


def render_defocused(
    rgb: NDArray[np.uint8],
    depth_m: NDArray[np.float32],
    lens: ThinLens,
    renderer: Renderer,
    sensor: Sensor = IDEAL,
    rng: np.random.Generator | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the defocused image (H, W, 3) and its signed CoC (H, W) [px].

    rgb: (H, W, 3), all in focus; depth_m: (H, W), 0 where unknown, where the nearest known depth
    counts. `gather`: each pixel averages its neighbourhood; `layered`: occlusion is respected.
    sensor: adds noise and compression, drawn by `rng`.
    """
    coc = lens.coc_px(fill_holes(depth_m))
    sigma = sigma_of_coc(coc, lens.sigma_rule, lens.softness_px)
    image = layered_blur(rgb, coc, sigma) if renderer == "layered" else gaussian_gather(rgb, sigma)
    return sensor.expose(image, rng or np.random.default_rng(0)), coc


def describe_photographs(
    cameras: Sequence[Camera], image_width_px: int, columns: Collection[str] = ()
) -> dict[str, Any]:
    """Return the description of the camera that took photographs, of which each frame has one.

    What it does to an image, noise and compression among it, is in the photographs already.
    columns: see `hded.optics.describe_cameras`.
    """
    if len(cameras) > 1:
        raise HDEDError(
            f"cameras.{cameras[0].name}: photographs have one focus distance each; give one, not "
            f"{len(cameras)}"
        )
    described = describe_cameras([replace(cameras[0], sensor=IDEAL)], image_width_px, columns)
    return {**described, "renderer": PHOTOGRAPHS}


def check_rendered(dataset: str, truths: Collection[str], camera: Mapping[str, Any]) -> None:
    """Raise HDEDError for renderings of frames that lack what a camera blurs.

    truths: the kinds of truth that the frames have. Photographs may lack one of them, whose place
    in the store a stand-in takes. camera: the description of the camera of the images.
    """
    if camera["name"] == NOT_DEFOCUSED or camera.get("renderer") == PHOTOGRAPHS:
        return
    for truth in (DEPTH, ALL_IN_FOCUS):
        if truth not in truths:
            raise HDEDError(
                f"{dataset}: its frames hold no true {truth.replace('_', '-')}, without which "
                f"camera {camera['name']} cannot blur them; use its photographs, by a camera with "
                "photographs: true"
            )


def sensor_rng(camera: str, seed: int, frame: int, rendering: int = 0) -> np.random.Generator:
    """Return what draws the noise of a test image: by the camera's name, frame and rendering."""
    return np.random.default_rng([crc32(camera.encode()), seed, frame, rendering, SENSOR_STREAM])


def list_renderings(frames: pd.DataFrame, cameras: Sequence[Camera]) -> pd.DataFrame:
    """Return the table of a defocused store: one row for each frame and camera, frame by frame.

    `frame_index` is the frame's position in `frames`, `camera_index` the camera's in `cameras`.
    Several cameras differ in focus distance, which is appended to the frame's name: 0001-1.5m.
    """
    table = frames.loc[frames.index.repeat(len(cameras))].reset_index(drop=True)
    table["frame_index"] = np.repeat(np.arange(len(frames)), len(cameras))
    table["camera_index"] = np.tile(np.arange(len(cameras)), len(frames))
    if len(cameras) > 1:
        focus = [f"{camera.focus_distance_m:.10g}m" for camera in cameras]
        table["frame"] += "-" + pd.Series(focus * len(frames))
    return table
