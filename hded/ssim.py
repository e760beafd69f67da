"""Structural similarity (Wang et al. 2004): for the loss in torch, for the metric in float64.

11x11 Gaussian window of sigma 1.5, only positions where it fits ("valid"), data range 1,
C1 = 0.01^2, C2 = 0.03^2: what pytorch-msssim computes with `data_range=1`. The two functions
differ in who filters: torch's grouped convolution is three times slower in float64 than scipy's.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from torch import Tensor
from torch.nn import functional as F

from hded.errors import HDEDError

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean SSIM of each image: x, y (B, C, H, W) in [0, 1] -> (B,). Differentiable.

    Raises HDEDError where an image is smaller than the window.
    """
    _check_size(*x.shape[-2:])
    window = torch.as_tensor(_window(), dtype=x.dtype, device=x.device)
    stack = torch.cat([x, y, x * x, y * y, x * y], 1)
    channels = stack.shape[1]
    column = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    stack = F.conv2d(stack, column, groups=channels)
    stack = F.conv2d(stack, column.transpose(2, 3), groups=channels)
    return _similarity(*stack.chunk(5, 1)).mean((1, 2, 3))


def ssim_float64(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Mean SSIM of one image: x, y (H, W, C) float64 in [0, 1].

    Raises HDEDError where an image is smaller than the window.
    """
    _check_size(*x.shape[:2])
    window, inside = _window(), slice(WINDOW // 2, -(WINDOW // 2))

    def local_mean(a: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = correlate1d(a, window, axis=0)[inside]
        return correlate1d(rows, window, axis=1)[:, inside]

    moments = [local_mean(a) for a in (x, y, x * x, y * y, x * y)]
    return float(_similarity(*moments).mean())


def _similarity(mean_x: Any, mean_y: Any, xx: Any, yy: Any, xy: Any) -> Any:
    """The SSIM index from the five local moments; tensors or arrays."""
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * cov + C2) / (var_x + var_y + C2)
    return luminance * structure


def _window() -> NDArray[np.float64]:
    offset = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(offset**2) / (2 * SIGMA**2))
    return window / window.sum()


def _check_size(height: int, width: int) -> None:
    if min(height, width) < WINDOW:
        raise HDEDError(f"SSIM of a {height}x{width} image: {WINDOW}x{WINDOW} at least is needed")
