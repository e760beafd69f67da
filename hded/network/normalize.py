"""Conversion between uint8 images and the network's format: float32 in [-1, 1], channels first."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_network_range(rgb: Tensor | NDArray[np.uint8]) -> Tensor:
    """Return uint8 rgb (..., H, W, 3) as float32 (..., 3, H, W) in [-1, 1]."""
    tensor = rgb if isinstance(rgb, Tensor) else copy_to_tensor(rgb)
    # contiguous as (B, H, W, 3), the memory layout in which convolutions are fastest
    return tensor.movedim(-1, -3).float() / 127.5 - 1


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """Return an image (..., 3, H, W) in [-1, 1] as uint8 (..., H, W, 3), rounded and clipped."""
    return _counts(image).round().clamp(0, 255).byte().movedim(-3, -1).cpu().numpy()


def to_counts(image: Tensor) -> NDArray[np.float32]:
    """Return what `to_uint8` rounds and clips: float32 (..., H, W, 3), nominally in 0 to 255."""
    return _counts(image).movedim(-3, -1).cpu().numpy()


def _counts(image: Tensor) -> Tensor:
    return (image + 1) * 127.5


def copy_to_tensor(array: NDArray) -> Tensor:
    """Return a copy of `array` as tensor; torch cannot share read-only or flipped arrays."""
    return torch.from_numpy(np.array(array, order="C"))
