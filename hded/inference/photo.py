"""Depth and all-in-focus image of a photograph, at the photograph's own size.

A large photograph is processed in overlapping tiles that are blended, one row of tiles at a time:
apart from the photograph and its results, memory does not grow with its height.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hded.common.errors import HDEDError
from hded.common.image_io import open_upright
from hded.common.resize import resize_bilinear, resize_rgb
from hded.inference import Predictor

TILE_PX = 1024
OVERLAP_PX = 192
MAX_MM = 65535  # of a 16-bit image: 65.5 m
PREVIEW = "viridis"  # near is dark, far is light, as in the report's figures


@dataclass(frozen=True, slots=True)
class Estimate:
    """Outputs for a photograph (H, W): uint16 millimetres, uint8 rgb; None without that head."""

    depth_mm: NDArray[np.uint16] | None
    all_in_focus: NDArray[np.uint8] | None

    @property
    def saturated(self) -> float:
        """Share of pixels at the largest depth that 16 bits of millimetres hold, 65.535 m."""
        return 0.0 if self.depth_mm is None else float((self.depth_mm == MAX_MM).mean())


def read_photo(path: Path | BinaryIO) -> NDArray[np.uint8]:
    """Return an image as (H, W, 3) uint8 sRGB, upright according to its EXIF orientation."""
    return np.asarray(open_upright(path))


def estimate(
    predictor: Predictor,
    rgb: NDArray[np.uint8],
    tile_px: int = TILE_PX,
    overlap_px: int = OVERLAP_PX,
) -> Estimate:
    """Return the network's outputs for a photograph (H, W, 3), at its own size.

    A network trained on resized frames is given the whole photograph at its training size, and its
    outputs are enlarged. Any other network is given native pixels, in tiles if a side is longer
    than `tile_px`. Raises HDEDError unless the overlap is smaller than a tile.
    """
    if not 0 <= overlap_px < tile_px:
        raise HDEDError(f"overlap {overlap_px} px must be less than the tile's {tile_px} px")
    height, width = rgb.shape[:2]
    heads = predictor.network.heads
    depth_mm = np.empty((height, width), np.uint16) if "depth" in heads else None
    image = np.empty((height, width, 3), np.uint8) if "all_in_focus" in heads else None
    if predictor.geometry == "resize":
        outputs = predictor(rgb)
        if depth_mm is not None:
            depth_mm[:] = _millimetres(resize_bilinear(outputs["depth"], (height, width)))
        if image is not None:
            image[:] = resize_rgb(outputs["all_in_focus"], (height, width))
        return Estimate(depth_mm, image)
    for rows, outputs in _bands(predictor, rgb, tile_px, overlap_px):
        if depth_mm is not None:
            depth_mm[rows] = _millimetres(outputs["depth"])
        if image is not None:
            image[rows] = np.rint(outputs["all_in_focus"])
    return Estimate(depth_mm, image)


def _bands(
    predictor: Predictor, rgb: NDArray[np.uint8], tile_px: int, overlap_px: int
) -> Iterator[tuple[slice, dict[str, NDArray]]]:
    """Yield blended outputs for bands of rows, from top to bottom."""
    height, width = rgb.shape[:2]
    tops, lefts = (_starts(n, tile_px, overlap_px) for n in (height, width))
    # weighted values and weights of the rows that are not yet yielded: (rows, W, channels)
    sums: dict[str, NDArray[np.float32]] = {}
    weights = np.zeros((0, width, 1), np.float32)
    given = 0
    for top, after in zip(tops, [*tops[1:], height], strict=True):
        bottom = min(top + tile_px, height)
        more = ((0, bottom - given - len(weights)), (0, 0), (0, 0))
        weights = np.pad(weights, more)
        sums = {name: np.pad(values, more) for name, values in sums.items()}
        for left in lefts:
            right = min(left + tile_px, width)
            place = slice(top - given, bottom - given), slice(left, right)
            outputs = predictor(rgb[top:bottom, left:right])
            weight = (
                _ramp(top, bottom, height, overlap_px)[:, None, None]
                * _ramp(left, right, width, overlap_px)[:, None]
            )
            weights[place] += weight
            for name, values in outputs.items():
                values = values.reshape(*values.shape[:2], -1).astype(np.float32)
                if name not in sums:
                    sums[name] = np.zeros((*weights.shape[:2], values.shape[-1]), np.float32)
                sums[name][place] += weight * values
        done = after - given
        blended = {name: values[:done] / weights[:done] for name, values in sums.items()}
        yield (
            slice(given, after),
            {n: v[..., 0] if v.shape[-1] == 1 else v for n, v in blended.items()},
        )
        weights = weights[done:]
        sums = {name: values[done:] for name, values in sums.items()}
        given = after


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the first pixel of each tile along one axis; the last tile ends at the border."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _ramp(start: int, stop: int, length: int, overlap: int) -> NDArray[np.float32]:
    """Return weights that rise from a tile's border inwards, except at the photograph's border."""
    places = np.arange(stop - start, dtype=np.float32) + 1
    rise = np.full(stop - start, overlap + 1, np.float32)
    if start > 0:
        rise = np.minimum(rise, places)
    if stop < length:
        rise = np.minimum(rise, places[::-1])
    return rise / np.float32(overlap + 1)


def _millimetres(depth_m: NDArray) -> NDArray[np.uint16]:
    return np.clip(np.rint(depth_m * 1000), 0, MAX_MM).astype(np.uint16)


def preview(depth_mm: NDArray[np.uint16]) -> Image.Image:
    """Return the depth map in colour between its 1st and 99th percentile, near dark, far light."""
    import matplotlib as mpl

    low, high = np.percentile(depth_mm, (1, 99))
    shown = np.clip((depth_mm - low) / max(high - low, 1), 0, 1)
    return Image.fromarray(mpl.colormaps[PREVIEW](shown, bytes=True)[..., :3])
