"""Per-pixel Gaussian blur: each output pixel averages its neighbourhood with its *own* sigma.

    out(p) = sum_q w(q - p; s_p) rgb(q) / sum_q w(q - p; s_p),   |q - p|_inf <= ceil(3 s_p)

A gather on sRGB values with edge-repeating borders (numpy `symmetric`, scipy `reflect`), repeated
as often as the support needs; sigma below 0.1 px leaves the pixel alone.

- `gaussian_gather_reference`: the formula as written, float64, one pixel at a time. The truth.
- `gaussian_gather`: the same sum in float32 on all cores. The weights are separable, so a pixel
  of radius r costs 2r + 1 row sums with one table of weights. No fastmath flag that lets the
  compiler assume away NaN or infinity.
"""

import math

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
    planes = np.pad(image.transpose(2, 0, 1), ((0, 0), (radius, radius), (radius, radius)),
                    mode="symmetric")  # fmt: skip
    out = np.empty(image.shape, np.float32)
    _gather(np.ascontiguousarray(planes), sigma, radius, out)
    return out


def gaussian_gather_reference(rgb: NDArray, sigma_px: NDArray) -> NDArray[np.float64]:
    """Blur exactly: the same arguments and errors as `gaussian_gather`, float64, slowly."""
    image, sigma = _checked(rgb, sigma_px, np.float64)
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
    if not np.isrealobj(sigma) or not (np.isfinite(sigma).all() and (sigma >= 0).all()):
        raise HDEDError("blur: sigma has NaN, infinite or negative pixels; mask them to 0")
    image = rgb.astype(dtype) / dtype(255) if rgb.dtype == np.uint8 else rgb.astype(dtype)
    return image, np.ascontiguousarray(sigma, dtype)


def _radius(sigma: float) -> int:
    """Support [px] either side of the centre."""
    return math.ceil(SUPPORT_SIGMAS * sigma)


# reassoc and contract let the sums vectorise; nothing here may assume numbers are finite
@numba.njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _gather(planes, sigma, pad, out):  # pragma: no cover - compiled
    height, width = sigma.shape
    for y in numba.prange(height):
        weight = np.empty(2 * pad + 1, np.float32)
        for x in range(width):
            s = sigma[y, x]
            if s < np.float32(0.1):
                for c in range(3):
                    out[y, x, c] = planes[c, y + pad, x + pad]
                continue
            r = int(math.ceil(np.float32(3.0) * s))
            n = 2 * r + 1
            k = np.float32(-0.5) / (s * s)
            norm = np.float32(0.0)
            for i in range(n):
                d = np.float32(i - r)
                w = math.exp(k * d * d)
                weight[i] = w
                norm += w
            norm = np.float32(1.0) / (norm * norm)
            left = x + pad - r
            red, green, blue = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for j in range(n):
                row = y + pad - r + j
                a, b, c = np.float32(0.0), np.float32(0.0), np.float32(0.0)
                for i in range(n):
                    w = weight[i]
                    a += w * planes[0, row, left + i]
                    b += w * planes[1, row, left + i]
                    c += w * planes[2, row, left + i]
                red += weight[j] * a
                green += weight[j] * b
                blue += weight[j] * c
            out[y, x, 0] = red * norm
            out[y, x, 1] = green * norm
            out[y, x, 2] = blue * norm
