"""The per-pixel Gaussian blur on all CPU cores: exact weights in float32, compiled by numba.

- A pixel's kernel is separable and symmetric: two rows at the same distance are added first, then
  two columns, and only the sum is weighted. This saves three quarters of the multiplications.
- A block of neighbouring pixels is processed together, one vector lane each, with weights that are
  zero beyond the lane's own support; the block's largest support bounds the loops. Inner loops have
  a fixed length and run over views, so that the compiler vectorises them.
- Each weight is computed from its predecessor by multiplication in float64 (exp(-k d^2) from
  exp(-k (d - 1)^2)), which needs one exponential per pixel.
- No fastmath flag is set that lets the compiler assume that values are finite.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from hded.blur.support import MIN_SIGMA_PX, SUPPORT_SIGMAS, border_indices, check_image, radius_px

BLOCK = 64  # neighbouring pixels processed together
# contract and reassoc allow fused multiply-adds and vector sums; none assumes finite values
FASTMATH = {"reassoc", "contract", "nsz"}


def gaussian_gather(rgb: NDArray, sigma_px: NDArray, margin_px: int = 0) -> NDArray[np.float32]:
    """Blur rgb (H, W, 3), uint8 or floats in [0, 1], by sigma_px (H, W) -> float32 in [0, 1].

    With `margin_px` the image is larger than sigma by that much on every side, (H + 2 margin,
    W + 2 margin, 3): the surroundings of a crop take part in its blur, and borders are mirrored
    only beyond them. Equals `gaussian_gather_reference` within 1e-4; strides may be any.
    Raises HDEDError for shapes or dtypes that do not fit, for NaN or infinite values, and for a
    negative sigma.
    """
    rgb, sigma = check_image(rgb, sigma_px, margin_px)
    if rgb.dtype != np.uint8:
        rgb = rgb.astype(np.float32, copy=False)
    height, width = sigma.shape
    radius = radius_px(float(sigma.max()))
    rows = border_indices(height, margin_px, radius)
    columns = border_indices(width, margin_px, radius)
    # a row's last block may read past the row's end; these values have weight 0
    planes = np.zeros((3, len(rows), len(columns) + BLOCK), np.float32)
    unit = np.float32(1 / 255 if rgb.dtype == np.uint8 else 1)
    _to_planes(np.ascontiguousarray(rgb), rows, columns, unit, planes)
    out = np.empty((height, width, 3), np.float32)
    _gather(planes, sigma, radius, out)
    return out


@numba.njit(parallel=True, cache=True)
def _to_planes(rgb, rows, columns, unit, planes):
    """Copy rgb (h, w, 3), its borders repeated, into planes (3, len(rows), >= len(columns))."""
    for y in numba.prange(len(rows)):
        source = rgb[rows[y]]
        for c in range(3):
            plane = planes[c, y]
            for x in range(len(columns)):
                plane[x] = np.float32(source[columns[x], c]) * unit


@numba.njit(parallel=True, cache=True, fastmath=FASTMATH)
def _gather(planes, sigma, pad, out):
    """Fill out (H, W, 3) from planes (3, H + 2 pad, W + 2 pad + BLOCK)."""
    height, width = sigma.shape
    for y in numba.prange(height):
        weight = np.empty((pad + 1, BLOCK), np.float32)
        scale = np.empty(BLOCK, np.float32)
        total = np.empty((3, BLOCK), np.float32)
        row = np.empty(BLOCK, np.float32)
        pair = np.empty(2 * pad + BLOCK, np.float32)
        for start in range(0, width, BLOCK):
            count = min(BLOCK, width - start)
            radius = _weigh(sigma[y, start : start + count], weight, scale)
            left, span = start + pad - radius, 2 * radius + BLOCK
            for c in range(3):
                plane, acc = planes[c], total[c]
                _sum_row(plane[y + pad, left : left + span], weight, radius, acc)
                for d in range(1, radius + 1):
                    above = plane[y + pad - d, left : left + span]
                    below = plane[y + pad + d, left : left + span]
                    for i in range(span):
                        pair[i] = above[i] + below[i]
                    _sum_row(pair, weight, radius, row)
                    w = weight[d]
                    for i in range(BLOCK):
                        acc[i] += w[i] * row[i]
            for i in range(count):
                for c in range(3):
                    out[y, start + i, c] = total[c, i] * scale[i]


@numba.njit(cache=True, fastmath=FASTMATH)
def _weigh(sigma, weight, scale):
    """Fill weight (>= radius + 1, BLOCK) and scale (BLOCK), and return the largest radius.

    Row d of `weight` holds the weights at distance d; `scale` normalises. sigma: up to BLOCK
    values; a lane without a pixel is treated as sharp.
    """
    radius = np.zeros(BLOCK, np.int64)
    value, ratio, square, norm = np.ones((4, BLOCK), np.float64)
    largest = 0
    for i in range(len(sigma)):
        if sigma[i] >= np.float32(MIN_SIGMA_PX):
            s = np.float64(sigma[i])
            radius[i] = math.ceil(SUPPORT_SIGMAS * s)
            largest = max(largest, radius[i])
            ratio[i] = math.exp(-0.5 / (s * s))
            square[i] = ratio[i] * ratio[i]
    for i in range(BLOCK):
        weight[0, i] = np.float32(1)
    for d in range(1, largest + 1):
        w = weight[d]
        for i in range(BLOCK):
            # exp(-k d^2) = exp(-k (d - 1)^2) exp(-k (2 d - 1))
            value[i] *= ratio[i]
            ratio[i] *= square[i]
            inside = value[i] if d <= radius[i] else 0.0
            w[i] = np.float32(inside)
            norm[i] += 2 * inside
    for i in range(BLOCK):
        scale[i] = np.float32(1 / (norm[i] * norm[i]))
    return largest


@numba.njit(cache=True, fastmath=FASTMATH)
def _sum_row(row, weight, radius, out):
    """Fill out (BLOCK) with the weighted sums of a row (>= 2 radius + BLOCK) around each pixel."""
    w, centre = weight[0], row[radius : radius + BLOCK]
    for i in range(BLOCK):
        out[i] = w[i] * centre[i]
    d = 1
    while d + 3 <= radius:  # four distances at a time, to load and store `out` less often
        w1, w2, w3, w4 = weight[d], weight[d + 1], weight[d + 2], weight[d + 3]
        l1, r1 = _both_sides(row, radius, d)
        l2, r2 = _both_sides(row, radius, d + 1)
        l3, r3 = _both_sides(row, radius, d + 2)
        l4, r4 = _both_sides(row, radius, d + 3)
        for i in range(BLOCK):
            near = w1[i] * (l1[i] + r1[i]) + w2[i] * (l2[i] + r2[i])
            out[i] += near + w3[i] * (l3[i] + r3[i]) + w4[i] * (l4[i] + r4[i])
        d += 4
    while d <= radius:
        w = weight[d]
        l1, r1 = _both_sides(row, radius, d)
        for i in range(BLOCK):
            out[i] += w[i] * (l1[i] + r1[i])
        d += 1


@numba.njit(cache=True)
def _both_sides(row, radius, d):
    """Return views of the BLOCK values at distance `d` to the left and right of each pixel."""
    left, right = radius - d, radius + d
    return row[left : left + BLOCK], row[right : right + BLOCK]
