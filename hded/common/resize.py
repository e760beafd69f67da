"""Resizing: one rule for each quantity, the same in training and evaluation."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resize_rgb(rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize rgb (h, w, 3) uint8 to `size` (H, W): antialiased bilinear, rounded to uint8."""
    height, width = size
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))


def resize_nearest(grid: NDArray, size: tuple[int, int]) -> NDArray:
    """Resample (h, w) of any dtype to `size` (H, W) by nearest neighbour on pixel centres.

    For measured depth: no value is invented across an edge or a hole.
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
