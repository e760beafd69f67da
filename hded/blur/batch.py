"""The per-pixel Gaussian blur for batches of torch tensors, on any device, differentiable.

- On the CPU in float32 without gradients: `gaussian_gather`, image by image.
- On CUDA with Triton: the kernels of `triton_kernels`, forward and backward.
- Everywhere else, and in float64 on the CPU: `torch_ops`.

For autograd the blur is a single operation: the padded image, sigma and the result are kept in
memory, not the hundreds of shifted sums. The gradient is that of the formula with the support held
constant: where 3 sigma passes an integer the support jumps, and the jump has no gradient.
"""

import importlib.util
import math
from functools import cache
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from hded.blur import torch_ops
from hded.blur.cpu import gaussian_gather
from hded.blur.support import border_indices, radius_px
from hded.common.errors import HDEDError


def gaussian_gather_batch(
    rgb: Tensor, sigma_px: Tensor, margin_px: int = 0, *, max_sigma_px: float | None = None
) -> Tensor:
    """Blur rgb (B, 3, H, W) by sigma_px (B, H, W) or (B, 1, H, W) -> (B, 3, H, W) in rgb's dtype.

    Equals `gaussian_gather` of each image within 1e-5. rgb: in [0, 1]; both float32 or float64, of
    any strides, on one device. With `margin_px` rgb is (B, 3, H + 2 margin, W + 2 margin).
    Weights are computed in rgb's dtype. The support is decided with sigma as float32, and so is
    whether sigma is below 0.1 px, where a pixel is copied (the gradient of sigma is 0 there).
    Differentiable once, with respect to rgb and sigma.

    Finding the largest sigma and checking the values waits once for the device. With the bound
    `max_sigma_px` neither is done: a larger sigma counts as the bound (without gradient), a
    negative one as 0, and a NaN makes its own pixel NaN. On the CPU in float32 without gradients
    values are always checked, and a NaN raises HDEDError.
    Raises HDEDError for shapes, dtypes and devices that do not fit, and, without a bound, for NaN
    or infinite values and a negative sigma.
    """
    sigma = _check_form(rgb, sigma_px, margin_px)
    if max_sigma_px is not None:
        if not 0 <= max_sigma_px < math.inf:
            raise HDEDError(
                f"blur: max_sigma_px is {max_sigma_px}; it must be finite and at least 0"
            )
        sigma = sigma.clamp(0, max_sigma_px)
    gradient = torch.is_grad_enabled() and (rgb.requires_grad or sigma.requires_grad)
    if rgb.device.type == "cpu" and rgb.dtype == torch.float32 and not gradient:
        return _by_numba(rgb.detach(), sigma.detach(), margin_px)
    largest = _largest_sigma(rgb, sigma) if max_sigma_px is None else max_sigma_px
    radius = radius_px(float(np.float32(largest)))
    # the padding is even, since the kernels process columns in pairs
    pad = radius + radius % 2
    return _Gather.apply(rgb, sigma.to(rgb.dtype), margin_px, pad)


def _check_form(rgb: Tensor, sigma: Tensor, margin_px: int) -> Tensor:
    """Return sigma as (B, H, W); raises HDEDError where shapes, dtypes or devices do not fit."""
    if rgb.ndim != 4 or rgb.shape[1] != 3 or not rgb.numel():
        raise HDEDError(
            f"blur: rgb has shape {tuple(rgb.shape)}; (B, 3, H, W) with B, H, W > 0 is needed"
        )
    for name, tensor in (("rgb", rgb), ("sigma", sigma)):
        if tensor.dtype not in (torch.float32, torch.float64):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise HDEDError(f"blur: {name} is {kind}; convert it to float32 or float64")
    if rgb.device != sigma.device:
        raise HDEDError(f"blur: rgb is on {rgb.device}, sigma on {sigma.device}; move one of them")
    batch, _, *size = rgb.shape
    shape = (batch, *(n - 2 * margin_px for n in size))
    if margin_px < 0 or tuple(sigma.shape) not in (shape, (batch, 1, *shape[1:])):
        raise HDEDError(
            f"blur: sigma has shape {tuple(sigma.shape)}, the images {tuple(rgb.shape)}"
            + (f" with a margin of {margin_px} px" if margin_px else "")
        )
    if not sigma.numel():
        raise HDEDError(f"blur: the margin of {margin_px} px leaves no pixel of {tuple(size)}")
    return sigma.reshape(shape)


def _largest_sigma(rgb: Tensor, sigma: Tensor) -> float:
    """Return the largest sigma; raises HDEDError for NaN, infinite or negative values.

    The device is synchronised once for all checks. The extremes are NaN if any value is.
    """
    extremes = (*sigma.detach().float().aminmax(), *rgb.detach().aminmax())
    least, largest, darkest, brightest = torch.stack([x.to(rgb.dtype) for x in extremes]).tolist()
    if not (least >= 0 and largest < math.inf):
        raise HDEDError("blur: sigma has NaN, infinite or negative pixels; mask them to 0")
    if not (math.isfinite(darkest) and math.isfinite(brightest)):
        raise HDEDError("blur: rgb has NaN or infinite pixels; pass finite values in [0, 1]")
    return largest


def _by_numba(rgb: Tensor, sigma: Tensor, margin_px: int) -> Tensor:
    blurred = [
        gaussian_gather(image.permute(1, 2, 0).numpy(), s.numpy(), margin_px)
        for image, s in zip(rgb, sigma, strict=True)
    ]
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in blurred])


class _Gather(torch.autograd.Function):
    """The blur of rgb (B, 3, H + 2 margin, W + 2 margin) by sigma (B, H, W) of the same dtype."""

    @staticmethod
    def forward(ctx, rgb: Tensor, sigma: Tensor, margin_px: int, pad: int) -> Tensor:
        sigma = sigma.contiguous()
        ctx.borders = [border_indices(n, margin_px, pad) for n in sigma.shape[1:]]
        ctx.size = rgb.shape[2:]
        rows, columns = (torch.from_numpy(i).to(rgb.device, non_blocking=True) for i in ctx.borders)
        padded = rgb[:, :, rows[:, None], columns].contiguous()
        with torch.cuda.device_of(padded):
            out = _operations(padded).forward(padded, sigma)
        ctx.save_for_backward(padded, sigma, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        padded, sigma, out = ctx.saved_tensors
        grad, for_rgb, for_sigma = grad.contiguous(), None, None
        operations = _operations(padded)
        with torch.cuda.device_of(padded):
            if ctx.needs_input_grad[0]:
                for_rgb = operations.image_gradient(grad, padded, sigma)
                for dim, (indices, size) in enumerate(zip(ctx.borders, ctx.size, strict=True), 2):
                    for_rgb = _fold(for_rgb, indices, size, dim)
            if ctx.needs_input_grad[1]:
                for_sigma = operations.sigma_gradient(grad, padded, sigma, out)
        return for_rgb, for_sigma, None, None


def _operations(tensor: Tensor) -> ModuleType:
    """Return the module that implements the blur and its gradients on this tensor's device."""
    if tensor.is_cuda and _has_triton():
        from hded.blur import triton_kernels

        return triton_kernels
    return torch_ops


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _fold(gradient: Tensor, indices: NDArray[np.intp], size: int, dim: int) -> Tensor:
    """Sum the gradients of repeated border pixels: position i along `dim` is added to indices[i].

    Returns the gradient with `size` positions along `dim`. Mirrored runs are added one after
    another, so that the order of summation is the same on every device.
    """
    shape = list(gradient.shape)
    shape[dim] = size
    total = gradient.new_zeros(shape)
    start = 0
    # the mirrored axis reverses direction where the edge index repeats
    for run in np.split(indices, np.flatnonzero(np.diff(indices) == 0) + 1):
        piece = gradient.narrow(dim, start, len(run))
        if run[0] > run[-1]:
            piece = piece.flip(dim)
        total.narrow(dim, int(run.min()), len(run)).add_(piece)
        start += len(run)
    return total
