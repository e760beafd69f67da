"""Structural similarity of batches in torch, differentiable, for the loss."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from hded.metrics.structural_similarity import check_size, gaussian_window, similarity_index


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean SSIM of each image: x, y (B, C, H, W) in [0, 1] -> (B,). Differentiable.

    The index is that of `hded.metrics.structural_similarity`. Raises HDEDError where an image is
    smaller than the window.
    """
    check_size(*x.shape[-2:])
    window = _window_on(x.device, x.dtype)
    stack = torch.cat([x, y, x * x + y * y, x * y], 1)
    channels = stack.shape[1]
    column = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    stack = F.conv2d(stack, column, groups=channels)
    stack = F.conv2d(stack, column.transpose(2, 3), groups=channels)
    return similarity_index(*stack.chunk(4, 1)).mean((1, 2, 3))


@cache
def _window_on(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the window, cached on the device: copying it in each step would wait for the GPU."""
    return torch.as_tensor(gaussian_window(), dtype=dtype, device=device)
