"""Support, borders and argument checks, shared by every implementation of the blur."""

import math

import numpy as np
from numpy.typing import NDArray

from hded.common.errors import HDEDError

MIN_SIGMA_PX = 0.1
SUPPORT_SIGMAS = 3.0


def radius_px(sigma_px: float) -> int:
    """Return the support on either side of the centre; 0 for a sigma too small to blur."""
    if sigma_px < np.float32(MIN_SIGMA_PX):
        return 0
    return math.ceil(SUPPORT_SIGMAS * sigma_px)


def radii_px(sigma_px: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return `radius_px` of every pixel."""
    radius = np.ceil(SUPPORT_SIGMAS * sigma_px.astype(np.float64)).astype(np.int64)
    return np.where(sigma_px < np.float32(MIN_SIGMA_PX), 0, radius)


def border_indices(length: int, margin_px: int, radius: int) -> NDArray[np.intp]:
    """Return the indices of `length` positions and `radius` more on either side of an axis.

    The axis has length + 2 margin_px values, of which the positions are the middle; beyond them it
    is mirrored, edges repeated, as often as needed.
    """
    inside = np.arange(length + 2 * margin_px)
    beyond = radius - margin_px
    if beyond <= 0:
        return inside[-beyond : len(inside) + beyond]
    return np.pad(inside, beyond, mode="symmetric")


def check_image(
    rgb: NDArray, sigma_px: NDArray, margin_px: int
) -> tuple[NDArray, NDArray[np.float32]]:
    """Return both as arrays, sigma as contiguous float32; raises HDEDError where they do not fit.

    rgb: (H + 2 margin_px, W + 2 margin_px, 3), uint8 or finite floats; sigma_px: (H, W).
    """
    rgb, sigma = np.asarray(rgb), np.asarray(sigma_px)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise HDEDError(f"blur: rgb has shape {rgb.shape}; (H, W, 3) with H, W > 0 is needed")
    if rgb.dtype != np.uint8 and not np.issubdtype(rgb.dtype, np.floating):
        raise HDEDError(f"blur: rgb is {rgb.dtype}; pass uint8, or floats in [0, 1]")
    if margin_px < 0 or sigma.shape != tuple(n - 2 * margin_px for n in rgb.shape[:2]):
        raise HDEDError(
            f"blur: sigma has shape {sigma.shape}, the image {rgb.shape[:2]}"
            + (f" with a margin of {margin_px} px" if margin_px else "")
        )
    if not sigma.size:
        raise HDEDError(f"blur: the margin of {margin_px} px leaves no pixel of {rgb.shape[:2]}")
    with np.errstate(over="ignore"):
        sigma = np.ascontiguousarray(sigma, np.float32) if np.isrealobj(sigma) else sigma
    if not np.isrealobj(sigma) or not (np.isfinite(sigma).all() and (sigma >= 0).all()):
        raise HDEDError("blur: sigma has NaN, infinite or negative pixels; mask them to 0")
    if rgb.dtype != np.uint8 and not np.isfinite(rgb).all():
        raise HDEDError("blur: rgb has NaN or infinite pixels; pass finite values in [0, 1]")
    return rgb, sigma
