"""Render a defocused image: depth -> circle of confusion -> blur -> 8 bits."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hded.blur import gaussian_gather, layered_blur
from hded.optics import Camera, Renderer, ThinLens, sigma_of_coc


def render_defocused(
    rgb: NDArray[np.uint8], depth_m: NDArray[np.float32], lens: ThinLens, renderer: Renderer
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the defocused image (H, W, 3) and its signed CoC (H, W) [px].

    rgb: (H, W, 3), all in focus; depth_m: (H, W), 0 where unknown, where the image stays sharp.
    `gather`: each pixel averages its neighbourhood; `layered`: occlusion is respected.
    """
    coc = lens.coc_px(depth_m)
    sigma = sigma_of_coc(coc, lens.sigma_rule)
    if renderer == "layered":
        image = layered_blur(rgb, coc, sigma)
    else:
        image = gaussian_gather(rgb, sigma)
    return np.rint(image * 255).astype(np.uint8), coc


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
