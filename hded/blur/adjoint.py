"""The adjoint of the per-pixel Gaussian blur on all CPU cores, compiled by numba.

The blur is linear in the image: blurred = A x, with a matrix A that depends on sigma alone.
Deconvolution needs the product with its transpose, A' y: each pixel's value is spread over its
neighbourhood by the weights with which `gaussian_gather` averages that neighbourhood.

The steps are those of `hded.blur.cpu` in reverse order, for blocks of neighbouring pixels. Threads
work on strips of rows, each into planes of its own, which are added afterwards from top to bottom:
the result does not depend on the number of threads.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from hded.blur.cpu import BLOCK, FASTMATH, _both_sides, _weigh
from hded.blur.support import border_indices, check_image, radius_px

STRIP = 32  # rows


def gaussian_gather_adjoint(rgb: NDArray, sigma_px: NDArray) -> NDArray[np.float32]:
    """Return A' y for y = rgb (H, W, 3), finite floats, and the blur A by sigma_px (H, W).

    It holds that <A x, y> = <x, A' y>, where A x is `gaussian_gather(x, sigma_px)`. What is spread
    beyond the border is added to the pixels that are mirrored there.
    Raises HDEDError for shapes or dtypes that do not fit, for NaN or infinite values, and for a
    negative sigma.
    """
    rgb, sigma = check_image(rgb, sigma_px, 0)
    height, width = sigma.shape
    pad = radius_px(float(sigma.max()))
    # a row's last block may read past the row's end; these values are zero
    values = np.zeros((3, height, width + BLOCK), np.float32)
    values[:, :, :width] = np.moveaxis(rgb, -1, 0)
    count = -(-height // STRIP)
    strips = np.zeros((count, 3, STRIP + 2 * pad, width + 2 * pad + BLOCK), np.float32)
    _scatter(values, sigma, pad, strips)
    rows, columns = border_indices(height, 0, pad), border_indices(width, 0, pad)
    out = np.zeros((3, height, width), np.float32)
    _fold(strips, rows, columns, out)
    return np.moveaxis(out, 0, -1)


@numba.njit(parallel=True, cache=True, fastmath=FASTMATH)
def _scatter(values, sigma, pad, strips):
    """Add the blur's transpose of values (3, H, W + BLOCK) to strips.

    Strip n (3, STRIP + 2 pad, W + 2 pad + BLOCK) gets what rows n STRIP to (n + 1) STRIP spread;
    its first row and column lie `pad` before the strip's.
    """
    height, width = sigma.shape
    for n in numba.prange(len(strips)):
        weight = np.empty((pad + 1, BLOCK), np.float32)
        scale = np.empty(BLOCK, np.float32)
        row = np.empty(BLOCK, np.float32)
        pair = np.empty(2 * pad + BLOCK, np.float32)
        for y in range(n * STRIP, min((n + 1) * STRIP, height)):
            centre = y - n * STRIP + pad
            for start in range(0, width, BLOCK):
                count = min(BLOCK, width - start)
                radius = _weigh(sigma[y, start : start + count], weight, scale)
                left, span = start + pad - radius, 2 * radius + BLOCK
                for c in range(3):
                    value = values[c, y, start : start + BLOCK]
                    for d in range(radius + 1):
                        w = weight[d]
                        for i in range(BLOCK):
                            row[i] = value[i] * scale[i] * w[i]
                        _spread_row(row, weight, radius, pair)
                        above = strips[n, c, centre - d, left : left + span]
                        for i in range(span):
                            above[i] += pair[i]
                        if d:
                            below = strips[n, c, centre + d, left : left + span]
                            for i in range(span):
                                below[i] += pair[i]


@numba.njit(cache=True, fastmath=FASTMATH)
def _spread_row(row, weight, radius, out):
    """Fill out (>= 2 radius + BLOCK) with row (BLOCK) spread by the weights to either side."""
    for i in range(2 * radius + BLOCK):
        out[i] = np.float32(0)
    w, centre = weight[0], out[radius : radius + BLOCK]
    for i in range(BLOCK):
        centre[i] = w[i] * row[i]
    for d in range(1, radius + 1):
        w = weight[d]
        left, right = _both_sides(out, radius, d)
        for i in range(BLOCK):
            left[i] += w[i] * row[i]
        for i in range(BLOCK):
            right[i] += w[i] * row[i]


@numba.njit(parallel=True, cache=True)
def _fold(strips, rows, columns, out):
    """Add the strips to out (3, H, W); what lies beyond the border goes to the mirrored pixels."""
    for c in numba.prange(3):
        for n in range(len(strips)):
            for y in range(strips.shape[2]):
                if n * STRIP + y < len(rows):
                    target, source = out[c, rows[n * STRIP + y]], strips[n, c, y]
                    for x in range(len(columns)):
                        target[columns[x]] += source[x]
