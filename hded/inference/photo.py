"""Depth and all-in-focus image of a photograph, at the photograph's own size.

A photograph is processed at the size that its `View` asks for. There, a large one is cut into
overlapping tiles that are blended, one row of tiles at a time. Depth is enlarged to the
photograph's own size. What the network changed in the image is added to the photograph, enlarged
where the image was smaller: the photograph keeps what is finer, and its 16 bits per channel where
it has them, of which a network sees 8.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hded.common.deep_image import PER_COUNT, Pixels, decode_deep, eight_bits, encode_deep, is_deep
from hded.common.errors import HDEDError
from hded.common.image_io import (
    ORIENTATION,
    open_image,
    orientation,
    turned_array,
    turned_upright,
)
from hded.common.resize import resize_bilinear, resize_rgb, row_blocks
from hded.inference.doubts import doubts, without_detail
from hded.inference.predictor import Predictor
from hded.inference.view import View
from hded.optics import ThinLens
from hded.optics.photograph import StatedLens, lens_of_exif

TILE_PX = 1024
OVERLAP_PX = 192
LARGEST = 65535  # of a 16-bit image: in millimetres 65.5 m
PREVIEW = "viridis"  # near is dark, far is light, as in the report's figures


@dataclass(frozen=True, slots=True)
class Estimate:
    """Outputs for a photograph (H, W); None without that head.

    `depth`: float32, in metres, or in the unit of its `View`; `all_in_focus`: (H, W, 3), uint8 or
    uint16 as the photograph; `confidence`: float32, the probability that depth is within a factor
    of 1.25, of networks that state it; 0 where the photograph has no detail. `notes`: what makes
    the result doubtful.
    """

    depth: NDArray[np.float32] | None
    all_in_focus: Pixels | None
    confidence: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()

    @property
    def thousandths(self) -> NDArray[np.uint16] | None:
        """Depth in thousandths of its unit, millimetres of metres, within what 16 bits hold."""
        if self.depth is None:
            return None
        found = np.empty(self.depth.shape, np.uint16)
        for rows in row_blocks(len(found)):
            found[rows] = np.clip(np.rint(self.depth[rows] * 1000), 0, LARGEST)
        return found


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph: `rgb` (H, W, 3), upright; its lens as EXIF states it; what it carries.

    `rgb` is uint8, or uint16 of a file with 16 bits per channel. `exif` (without the orientation)
    and `icc_profile` are bytes for a file that is made of it; damaged EXIF is left out.
    """

    rgb: Pixels
    lens: StatedLens
    exif: bytes
    icc_profile: bytes | None

    def save(self, rgb: Pixels, path: Path) -> None:
        """Write an image that was made of the photograph, with its EXIF and its colour profile.

        rgb: (H, W, 3) uint8, or uint16, which is written as PNG.
        """
        if rgb.dtype == np.uint16:
            path.write_bytes(
                encode_deep(rgb.astype(np.uint16, copy=False), self.exif, self.icc_profile)
            )
        else:
            Image.fromarray(rgb).save(path, exif=self.exif, icc_profile=self.icc_profile)


def read_photo(path: Path | BinaryIO) -> Photo:
    """Return a photograph, upright according to its EXIF orientation.

    A colour profile that is not of RGB is left out: it does not fit the converted pixels. Raises
    HDEDError for a file that cannot be read, and for greyscale of more than 16 bits.
    """
    original = open_image(path)
    if is_deep(path):
        rgb = turned_array(decode_deep(path), orientation(original))
    else:
        rgb = np.asarray(turned_upright(original, path)[0])
    try:
        tags = original.getexif()
        tags.pop(ORIENTATION, None)
        exif = tags.tobytes()
    except Exception:  # damaged EXIF makes pillow raise many kinds of errors
        exif = b""
    profile = original.info.get("icc_profile") if original.mode in ("RGB", "RGBA") else None
    return Photo(rgb, lens_of_exif(original), exif, profile)


def estimate(
    predictor: Predictor,
    rgb: Pixels,
    tile_px: int = TILE_PX,
    overlap_px: int = OVERLAP_PX,
    view: View = View(),  # noqa: B008  (frozen)
) -> Estimate:
    """Return the network's outputs for a photograph (H, W, 3), uint8 or uint16, at its own size.

    A network trained on resized frames is given the whole photograph at its training size, and its
    outputs are enlarged. Any other network is given the photograph resized by `view.scale`, in
    tiles if a side is then longer than `tile_px`. Raises HDEDError unless the overlap is smaller
    than a tile.
    """
    if not 0 <= overlap_px < tile_px:
        raise HDEDError(f"overlap {overlap_px} px must be less than the tile's {tile_px} px")
    size: tuple[int, int] = rgb.shape[:2]
    small = eight_bits(rgb)
    if predictor.geometry == "resize":
        small = resize_rgb(small, (predictor.size_px, predictor.size_px))
        outputs = predictor(small, view.lens)
        depth, image = outputs.get("depth"), outputs.get("all_in_focus")
        sure = outputs.get("confidence")
        if sure is not None:
            sure = np.where(without_detail(small), np.float32(0), sure)
        if image is not None:
            image = resize_rgb(image, size)
            image = image if rgb.dtype == np.uint8 else image * np.uint16(PER_COUNT)
        return Estimate(
            None if depth is None else resize_bilinear(depth, size) * np.float32(view.factor),
            image,
            None if sure is None else resize_bilinear(sure, size),
            tuple(doubts(predictor, small, depth, sure)),
        )
    if view.scale != 1:
        small = resize_rgb(small, (_scaled(size[0], view.scale), _scaled(size[1], view.scale)))
    shape, heads = small.shape[:2], predictor.network.heads
    depth = np.empty(shape, np.float32) if "depth" in heads else None
    image = np.empty_like(rgb) if "all_in_focus" in heads else None
    change = None if image is None or shape == size else np.empty((*shape, 3), np.float32)
    states = "depth" in heads and predictor.network.readout.channels == 2
    sure = np.empty(shape, np.float32) if states else None
    for rows, outputs in _bands(predictor, small, tile_px, overlap_px, view.lens):
        if depth is not None:
            depth[rows] = outputs["depth"]
        if sure is not None:
            sure[rows] = outputs["confidence"]
        if image is not None:
            changed: NDArray[np.float32] = outputs["all_in_focus"] - small[rows].astype(np.float32)
            if change is None:
                image[rows] = _add(rgb[rows], changed)
            else:
                change[rows] = changed
    if sure is not None:
        sure[without_detail(small)] = 0
    notes = tuple(doubts(predictor, small, depth, sure))
    if depth is not None:
        depth *= np.float32(view.factor)
    if shape != size:
        depth, sure = (None if a is None else resize_bilinear(a, size) for a in (depth, sure))
    if image is not None and change is not None:
        for channel in range(3):
            large = resize_bilinear(np.ascontiguousarray(change[..., channel]), size)
            for rows in row_blocks(size[0]):
                image[rows, :, channel] = _add(rgb[rows, :, channel], large[rows])
    return Estimate(depth, image, sure, notes)


def _add(pixels: Pixels, change: NDArray[np.float32]) -> Pixels:
    """Return pixels of 8 or 16 bits, changed by counts of 255."""
    most = np.iinfo(pixels.dtype).max
    values = pixels + np.float32(most // 255) * change
    return np.clip(np.rint(values), 0, most).astype(pixels.dtype)


def _scaled(length: int, scale: float) -> int:
    return max(1, round(length * scale))


def _bands(
    predictor: Predictor,
    rgb: NDArray[np.uint8],
    tile_px: int,
    overlap_px: int,
    lens: ThinLens | None,
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
            outputs = predictor(rgb[top:bottom, left:right], lens, rounded=False)
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


def preview(depth: NDArray[np.uint16]) -> Image.Image:
    """Return the depth map in colour between its 1st and 99th percentile, near dark, far light."""
    import matplotlib as mpl

    low, high = np.percentile(depth, (1, 99))
    shown = np.clip((depth - low) / max(high - low, 1), 0, 1)
    return Image.fromarray(mpl.colormaps[PREVIEW](shown, bytes=True)[..., :3])
