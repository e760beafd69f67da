"""Reference implementation of the per-pixel Gaussian blur: float64, one pixel at a time."""

import numpy as np
from numpy.typing import NDArray

from hded.blur.support import MIN_SIGMA_PX, border_indices, check_image, radius_px


def gaussian_gather_reference(
    rgb: NDArray, sigma_px: NDArray, margin_px: int = 0
) -> NDArray[np.float64]:
    """Blur as `gaussian_gather` does, with its arguments and errors, but in float64 and slowly."""
    rgb, sigma32 = check_image(rgb, sigma_px, margin_px)
    image = rgb / 255.0 if rgb.dtype == np.uint8 else rgb.astype(np.float64)
    sigma = sigma32.astype(np.float64)
    height, width = sigma.shape
    radius = radius_px(float(sigma.max()))
    rows = border_indices(height, margin_px, radius)
    columns = border_indices(width, margin_px, radius)
    padded = image[rows[:, None], columns]
    out = padded[radius : radius + height, radius : radius + width].copy()
    for y, x in zip(*np.nonzero(sigma32 >= np.float32(MIN_SIGMA_PX)), strict=True):
        r = radius_px(sigma[y, x])
        offset = np.arange(-r, r + 1, dtype=np.float64)
        weight = np.exp(-(offset**2) / (2 * sigma[y, x] ** 2))
        weight = np.outer(weight, weight)
        window = padded[y + radius - r : y + radius + r + 1, x + radius - r : x + radius + r + 1]
        out[y, x] = (weight[..., None] * window).sum((0, 1)) / weight.sum()
    return out
