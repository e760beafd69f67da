"""Structural similarity (Wang et al. 2004), one implementation for the loss and the metric.

11x11 Gaussian window of sigma 1.5, only positions where it fits ("valid"), data range 1,
C1 = 0.01^2, C2 = 0.03^2: what pytorch-msssim computes with `data_range=1`.
"""

import torch
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
    if x.shape[-2] < WINDOW or x.shape[-1] < WINDOW:
        raise HDEDError(
            f"SSIM of an image of {x.shape[-2]}x{x.shape[-1]}: at least {WINDOW}x{WINDOW} is needed"
        )
    offset = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-(offset**2) / (2 * SIGMA**2))
    window = window / window.sum()
    # the five local moments in one pass over a stack
    stack = torch.cat([x, y, x * x, y * y, x * y], 1)
    channels = stack.shape[1]
    column = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    stack = F.conv2d(stack, column, groups=channels)
    stack = F.conv2d(stack, column.transpose(2, 3), groups=channels)
    mean_x, mean_y, xx, yy, xy = stack.chunk(5, 1)
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * cov + C2) / (var_x + var_y + C2)
    return (luminance * structure).mean((1, 2, 3))
