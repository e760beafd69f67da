"""Per-pixel Gaussian blur: each output pixel averages its neighbourhood with its *own* sigma.

    out(p) = sum_q w(q - p; s_p) rgb(q) / sum_q w(q - p; s_p),   |q - p|_inf <= ceil(3 s_p)

A gather on sRGB values with edge-repeating borders (numpy `symmetric`, scipy `reflect`), repeated
as often as the support needs; sigma below 0.1 px leaves the pixel alone.

- `gaussian_gather_reference`: the formula as written, float64, one pixel at a time. The truth.
- `gaussian_gather`: the same sum in float32 on all cores. The weights are separable, so a pixel
  first sums its window's rows into one row, weighted, and then that row. Channels stay interleaved
  and the row is cut into pieces of fixed width, which compile to straight vector code. No fastmath
  flag that lets the compiler assume away NaN or infinity.

Both take sigma as float32, since the support jumps where 3 sigma is an integer.
"""

import math
from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

from hded.errors import HDEDError

MIN_SIGMA_PX = 0.1
SUPPORT_SIGMAS = 3.0


def gaussian_gather(rgb: NDArray, sigma_px: NDArray) -> NDArray[np.float32]:
    """Blur rgb (H, W, 3), uint8 or floats in [0, 1], by sigma_px (H, W) -> float32 in [0, 1].

    Within 1e-4 of `gaussian_gather_reference`. Any strides.
    Raises HDEDError for shapes or dtypes that do not fit, and for a sigma that is NaN, infinite
    or negative.
    """
    image, sigma = _checked(rgb, sigma_px, np.float32)
    radius = _radius(float(sigma.max()))
    height, width = sigma.shape
    border = ((radius, radius), (radius, radius), (0, 0))
    padded = np.pad(image, border, mode="symmetric").reshape(height + 2 * radius, -1)
    # a row's last piece may read past its end; what it reads there has no weight
    rows = np.pad(padded, ((0, 0), (0, WIDEST)))
    out = np.empty((height, width, 3), np.float32)
    _gather(rows, sigma, radius, out)
    return out


def gaussian_gather_reference(rgb: NDArray, sigma_px: NDArray) -> NDArray[np.float64]:
    """Blur exactly: the same arguments and errors as `gaussian_gather`, float64, slowly."""
    image, sigma = _checked(rgb, sigma_px, np.float64)
    sigma = sigma.astype(np.float64)
    radius = _radius(float(sigma.max()))
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    out = image.copy()
    for y, x in zip(*np.nonzero(sigma >= MIN_SIGMA_PX), strict=True):
        r = _radius(sigma[y, x])
        offset = np.arange(-r, r + 1, dtype=np.float64)
        weight = np.exp(-(offset**2) / (2 * sigma[y, x] ** 2))
        weight = np.outer(weight, weight)
        window = padded[y + radius - r : y + radius + r + 1, x + radius - r : x + radius + r + 1]
        out[y, x] = (weight[..., None] * window).sum((0, 1)) / weight.sum()
    return out


def _checked(rgb: NDArray, sigma_px: NDArray, dtype: type) -> tuple[NDArray, NDArray]:
    rgb, sigma = np.asarray(rgb), np.asarray(sigma_px)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise HDEDError(f"blur: rgb has shape {rgb.shape}; (H, W, 3) with H, W > 0 is needed")
    if rgb.dtype != np.uint8 and not np.issubdtype(rgb.dtype, np.floating):
        raise HDEDError(f"blur: rgb is {rgb.dtype}; uint8, or floats in [0, 1], are needed")
    if sigma.shape != rgb.shape[:2]:
        raise HDEDError(f"blur: sigma has shape {sigma.shape}, the image {rgb.shape[:2]}")
    with np.errstate(over="ignore"):
        sigma = np.ascontiguousarray(sigma, np.float32) if np.isrealobj(sigma) else sigma
    if not np.isrealobj(sigma) or not (np.isfinite(sigma).all() and (sigma >= 0).all()):
        raise HDEDError("blur: sigma has NaN, infinite or negative pixels; mask them to 0")
    image = rgb.astype(dtype) / dtype(255) if rgb.dtype == np.uint8 else rgb.astype(dtype)
    return image, sigma


def _radius(sigma: float) -> int:
    """Support [px] either side of the centre."""
    return math.ceil(SUPPORT_SIGMAS * sigma)


# contract and reassoc allow multiply-adds and vector sums; nothing assumes that numbers are finite
FASTMATH = {"reassoc", "contract", "nsz"}


def _sum_rows(width: int) -> Callable[..., None]:
    """Compile the weighted sum of `count` rows over `width` neighbouring values."""

    @numba.njit(fastmath=FASTMATH)
    def sum_rows(rows, top, left, weight, count, acc, start):
        # views, since numba checks each index of `acc[start + i]` for being negative
        piece = acc[start : start + width]
        for i in range(width):
            piece[i] = np.float32(0)
        for j in range(count):
            w = weight[j]
            row = rows[top + j, left + start : left + start + width]
            for i in range(width):
                piece[i] += w * row[i]

    return sum_rows


WIDEST = 64
_sum16, _sum32, _sum48, _sum64 = (_sum_rows(width) for width in (16, 32, 48, WIDEST))


@numba.njit(parallel=True, cache=True, fastmath=FASTMATH)
def _gather(rows, sigma, pad, out):
    """Fill out (H, W, 3) from rows (H + 2 pad, 3 (W + 2 pad) + WIDEST)."""
    height, width = sigma.shape
    for y in numba.prange(height):
        weight = np.empty(2 * pad + 1, np.float32)
        acc = np.empty(3 * (2 * pad + 1) + WIDEST, np.float32)
        last, r, norm = np.float32(-1), 0, np.float32(0)
        for x in range(width):
            s = sigma[y, x]
            if s < np.float32(MIN_SIGMA_PX):
                for c in range(3):
                    out[y, x, c] = rows[y + pad, 3 * (x + pad) + c]
                continue
            if s != last:  # flat depth repeats its weights
                last = s
                r = math.ceil(SUPPORT_SIGMAS * np.float64(s))
                k = np.float32(-0.5) / (s * s)
                weight[r] = total = np.float32(1)
                for i in range(1, r + 1):
                    w = math.exp(k * np.float32(i * i))
                    weight[r - i] = weight[r + i] = w
                    total += w + w
                norm = np.float32(1) / (total * total)
            count = 2 * r + 1
            top, left, start, end = y + pad - r, 3 * (x + pad - r), 0, 3 * count
            while end - start > 48:
                _sum64(rows, top, left, weight, count, acc, start)
                start += 64
            if end - start > 32:
                _sum48(rows, top, left, weight, count, acc, start)
            elif end - start > 16:
                _sum32(rows, top, left, weight, count, acc, start)
            elif end - start > 0:
                _sum16(rows, top, left, weight, count, acc, start)
            red, green, blue = np.float32(0), np.float32(0), np.float32(0)
            for i in range(count):
                w = weight[i]
                red += w * acc[3 * i]
                green += w * acc[3 * i + 1]
                blue += w * acc[3 * i + 2]
            out[y, x, 0] = red * norm
            out[y, x, 1] = green * norm
            out[y, x, 2] = blue * norm
