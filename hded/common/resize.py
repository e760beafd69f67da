"""Resizing: one rule for each quantity, the same in training and evaluation."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BLOCK_ROWS = 256


def row_blocks(height: int) -> Iterator[slice]:
    """Yield the rows of a large image in blocks, so that what is computed of them stays small."""
    return (slice(top, min(top + BLOCK_ROWS, height)) for top in range(0, height, BLOCK_ROWS))


def resize_rgb(rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return rgb (h, w, 3) uint8 resized to `size` (H, W): antialiased bilinear, uint8."""
    height, width = size
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))


def resize_nearest(grid: NDArray, size: tuple[int, int]) -> NDArray:
    """Return (h, w) of any dtype resampled to `size` (H, W), nearest neighbour of pixel centres.

    For measured depth, which must not be interpolated across edges and holes.
    """
    rows, columns = (
        ((np.arange(out) + 0.5) * source / out).astype(np.intp)
        for out, source in zip(size, grid.shape, strict=True)
    )
    return np.ascontiguousarray(grid[rows[:, None], columns])


def resize_bilinear(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a predicted depth map (h, w) at `size` (H, W), bilinear on pixel centres."""
    height, width = size
    return np.asarray(Image.fromarray(depth).resize((width, height), Image.Resampling.BILINEAR))
