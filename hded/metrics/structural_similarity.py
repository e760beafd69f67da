"""Structural similarity (Wang et al. 2004) of images in float64; the loss uses the same index.

11x11 Gaussian window of sigma 1.5, at positions where it fits only ("valid"), data range 1,
C1 = 0.01^2, C2 = 0.03^2: what pytorch-msssim computes with `data_range=1`.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hded.common.errors import HDEDError

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def ssim_float64(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the mean SSIM of one image: x, y (H, W, C) float64 in [0, 1].

    Raises HDEDError where an image is smaller than the window.
    """
    check_size(*x.shape[:2])
    rows = _index_of_rows(np.ascontiguousarray(x), np.ascontiguousarray(y), gaussian_window())
    return float(rows.mean())


def similarity_index(mean_x, mean_y, squares, xy):
    """Return the SSIM index of the local means of x, y, x^2 + y^2 and x y, tensors or numbers.

    The index depends on the sum of the two variances alone.
    """
    means, mean_squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    luminance = (2 * means + C1) / (mean_squares + C1)
    structure = (2 * (xy - means) + C2) / (squares - mean_squares + C2)
    return luminance * structure


_index_of_numbers = njit(cache=True)(similarity_index)


@njit(nogil=True, cache=True)
def _index_of_rows(x, y, window):
    """Return the mean index of each row of positions: x, y (H, W, C) -> (H - 10,).

    The moments of one row fit into the processor's cache, those of a whole image do not.
    """
    height, width, channels = x.shape
    x, y = x.reshape(height, -1), y.reshape(height, -1)
    positions = (width - WINDOW + 1) * channels
    means = np.empty(height - WINDOW + 1)
    columns, moments = np.empty((4, x.shape[1])), np.empty((4, positions))
    for row in range(len(means)):
        columns[:] = 0
        for k in range(WINDOW):
            for i in range(x.shape[1]):
                a, b = x[row + k, i], y[row + k, i]
                columns[0, i] += window[k] * a
                columns[1, i] += window[k] * b
                columns[2, i] += window[k] * (a * a + b * b)
                columns[3, i] += window[k] * a * b
        moments[:] = 0
        for m in range(4):
            for k in range(WINDOW):
                for i in range(positions):
                    moments[m, i] += window[k] * columns[m, i + k * channels]
        total = 0.0
        for i in range(positions):
            total += _index_of_numbers(moments[0, i], moments[1, i], moments[2, i], moments[3, i])
        means[row] = total / positions
    return means


def gaussian_window() -> NDArray[np.float64]:
    """Return the weights of the window along one axis, whose sum is 1: (11,)."""
    offset = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(offset**2) / (2 * SIGMA**2))
    return window / window.sum()


def check_size(height: int, width: int) -> None:
    """Raise HDEDError where an image is smaller than the window."""
    if min(height, width) < WINDOW:
        raise HDEDError(f"SSIM of a {height}x{width} image: needs at least {WINDOW}x{WINDOW} px")
