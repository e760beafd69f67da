"""The per-pixel Gaussian for batches of torch tensors, differentiable in image and sigma.

Three ways to one result: Triton kernels for float32 on a GPU; numba for float32 on a CPU where no
gradient is asked for; torch operations for everything else. With w_d = exp(-d^2 / 2 s^2) up to the
support and Z their sum over one axis, out = sum_dy sum_dx w_dy w_dx rgb / Z^2. So

    d out / d rgb   = w_dy w_dx / Z^2                                    (a scatter)
    d out / d sigma = sum (w'_dy w_dx + w_dy w'_dx) rgb / Z^2 - 2 out Z'/Z,   w'_d = w_d d^2 / s^3

The support jumps where 3 sigma is an integer; there, and below 0.1 px, sigma has no gradient.
"""

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hded.blur.cpu import gaussian_gather
from hded.blur.support import MIN_SIGMA_PX, SUPPORT_SIGMAS, border_indices, radius_px
from hded.errors import HDEDError


def gaussian_gather_batch(
    rgb: Tensor, sigma_px: Tensor, margin_px: int = 0, *, max_sigma_px: float | None = None
) -> Tensor:
    """Blur rgb (B, 3, H, W), float32 or float64, by sigma_px (B, H, W) or (B, 1, H, W).

    `margin_px`: the image is that much larger than sigma on every side, as in `gaussian_gather`.
    `max_sigma_px` promises that no sigma is larger and that all values are finite: then nothing is
    looked at, and a GPU need not be waited for. A sigma that breaks the promise is cut at its
    support on a GPU. Support and the limit of 0.1 px go by sigma rounded to float32, weights by
    sigma as it is. Raises HDEDError for shapes, types or devices that do not fit, and (without the
    promise) for a sigma that is negative, NaN or infinite, and for an image that is not finite.
    """
    sigma = _check_tensors(rgb, sigma_px, margin_px)
    differentiable = torch.is_grad_enabled() and (rgb.requires_grad or sigma.requires_grad)
    if rgb.device.type == "cpu" and rgb.dtype == torch.float32 and not differentiable:
        return _on_cpu(rgb, sigma, margin_px)
    if max_sigma_px is None:
        max_sigma_px = _largest(rgb, sigma)
    radius = radius_px(float(np.float32(max_sigma_px)))
    padded = _pad(rgb, sigma.shape[-2:], margin_px, radius)
    return _Gather.apply(padded, sigma, radius)


def _check_tensors(rgb: Tensor, sigma_px: Tensor, margin_px: int) -> Tensor:
    """Give sigma as (B, H, W) in the image's dtype."""
    if rgb.ndim != 4 or rgb.shape[1] != 3 or not rgb.numel():
        raise HDEDError(f"blur: rgb has shape {tuple(rgb.shape)}; (B, 3, H, W) is needed")
    if rgb.dtype not in (torch.float32, torch.float64):
        raise HDEDError(f"blur: rgb is {rgb.dtype}; float32 or float64 is needed")
    sigma = sigma_px[:, 0] if sigma_px.ndim == 4 and sigma_px.shape[1] == 1 else sigma_px
    inside = (rgb.shape[0], rgb.shape[2] - 2 * margin_px, rgb.shape[3] - 2 * margin_px)
    if margin_px < 0 or tuple(sigma.shape) != inside or min(inside) < 1:
        margin = f" with a margin of {margin_px} px" if margin_px else ""
        raise HDEDError(
            f"blur: sigma has shape {tuple(sigma_px.shape)}, the images {tuple(rgb.shape)}{margin}"
        )
    if not sigma.is_floating_point():
        raise HDEDError(f"blur: sigma is {sigma.dtype}; a floating type is needed")
    if sigma.device != rgb.device:
        raise HDEDError(f"blur: sigma is on {sigma.device}, rgb on {rgb.device}; move one of them")
    return sigma.to(rgb.dtype)


def _largest(rgb: Tensor, sigma: Tensor) -> float:
    """Give the largest sigma, everything checked while the device is waited for once."""
    with torch.no_grad():
        # float32 can overflow where float64 did not
        low, high = sigma.float().aminmax()
        least, most = rgb.aminmax()  # NaN where any pixel is
        values = torch.stack([low.double(), high.double(), least.double(), most.double()])
    low, high, least, most = values.tolist()
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0):
        raise HDEDError("blur: sigma has NaN, infinite or negative pixels; mask them to 0")
    if not (np.isfinite(least) and np.isfinite(most)):
        raise HDEDError("blur: rgb has NaN or infinite pixels; give finite values in [0, 1]")
    return high


def _on_cpu(rgb: Tensor, sigma: Tensor, margin_px: int) -> Tensor:
    images = rgb.detach().movedim(1, -1).numpy()
    widths = sigma.detach().numpy()
    blurred = [
        torch.from_numpy(gaussian_gather(image, width, margin_px)).movedim(-1, 0)
        for image, width in zip(images, widths, strict=True)
    ]
    return torch.stack(blurred)


def _pad(rgb: Tensor, size: torch.Size, margin_px: int, radius: int) -> Tensor:
    """Bring the surroundings of `size` (H, W) to `radius` on every side, mirrored beyond."""
    if margin_px == radius:
        return rgb
    for axis, length in ((2, size[0]), (3, size[1])):
        indices = torch.from_numpy(border_indices(length, margin_px, radius))
        rgb = rgb.index_select(axis, indices.to(rgb.device))
    return rgb


class _Gather(torch.autograd.Function):
    """padded (B, 3, H + 2 R, W + 2 R), sigma (B, H, W) -> (B, 3, H, W), R = radius."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, sigma: Tensor, radius: int) -> Tensor:
        reach = _reach(sigma, radius)
        if (kernels := _kernels(padded)) is not None:
            out = kernels.gather(padded.contiguous(), sigma.contiguous(), reach, radius)
        else:
            weight = _weights(sigma, reach, radius)
            out = _sum(padded, weight) / _norm(weight) ** 2
        ctx.radius = radius
        ctx.save_for_backward(padded, sigma, reach, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        padded, sigma, reach, out = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        kernels = _kernels(padded)
        for_image = for_sigma = None
        if kernels is not None:
            arguments = (sigma.contiguous(), reach, ctx.radius)
            if wanted[0]:
                for_image = kernels.image_gradient(grad.contiguous(), *arguments)
            if wanted[1]:
                parts = padded.contiguous(), out.contiguous(), grad.contiguous()
                for_sigma = kernels.sigma_gradient(*parts, *arguments)
            return for_image, for_sigma, None
        weight = _weights(sigma, reach, ctx.radius)
        norm = _norm(weight)
        if wanted[0]:
            for_image = _scatter(grad / norm**2, weight)
        if wanted[1]:
            steps = torch.arange(ctx.radius + 1, device=sigma.device, dtype=sigma.dtype)
            change = weight * (steps**2).view(-1, 1, 1, 1, 1) / _safe(sigma, reach) ** 3
            moved = _sum(padded, weight, change) / norm**2 - 2 * out * _norm(change, 0.0) / norm
            for_sigma = (grad * moved).sum(1) * (reach > 0)
        return for_image, for_sigma, None


def _kernels(padded: Tensor) -> ModuleType | None:
    if padded.dtype != torch.float32 or not padded.is_cuda:
        return None
    if importlib.util.find_spec("triton") is None:
        return None
    from hded.blur import triton_kernels

    return triton_kernels


def _reach(sigma: Tensor, radius: int) -> Tensor:
    """Give each pixel's support (B, H, W), int32, at most `radius`."""
    single = sigma.detach().float()
    reach = torch.ceil(SUPPORT_SIGMAS * single.double()).clamp(max=radius).int()
    return torch.where(single < MIN_SIGMA_PX, 0, reach)


def _safe(sigma: Tensor, reach: Tensor) -> Tensor:
    """Give sigma as (B, 1, H, W), 1 where the pixel is left alone."""
    return torch.where(reach > 0, sigma, 1)[:, None]


def _weights(sigma: Tensor, reach: Tensor, radius: int) -> Tensor:
    """Give the weights by distance, (radius + 1, B, 1, H, W), 0 beyond each pixel's support."""
    steps = torch.arange(radius + 1, device=sigma.device, dtype=sigma.dtype).view(-1, 1, 1, 1, 1)
    weight = torch.exp(-(steps**2) / (2 * _safe(sigma, reach) ** 2))
    return torch.where(steps <= reach[:, None], weight, 0)


def _norm(weight: Tensor, centre: float = 1.0) -> Tensor:
    """Sum the weights of one axis, both sides; `centre` is what the middle one counts."""
    return centre + 2 * weight[1:].sum(0)


def _sum(padded: Tensor, weight: Tensor, change: Tensor | None = None) -> Tensor:
    """Weighted sums over all windows; with `change`, the derivative's by the product rule.

    Rows at one distance are added before they are weighted, and columns likewise.
    """
    height, width = weight.shape[-2:]
    radius = len(weight) - 1
    total = torch.zeros_like(padded[..., :height, :width])
    for dy in range(radius + 1):
        rows = padded[:, :, radius - dy : radius - dy + height]
        if dy:
            rows = rows + padded[:, :, radius + dy : radius + dy + height]
        if change is None:
            total.addcmul_(weight[dy], _sum_columns(rows, weight))
        else:
            total.addcmul_(change[dy], _sum_columns(rows, weight))
            total.addcmul_(weight[dy], _sum_columns(rows, change))
    return total


def _sum_columns(rows: Tensor, weight: Tensor) -> Tensor:
    width, radius = weight.shape[-1], len(weight) - 1
    total = weight[0] * rows[..., radius : radius + width]
    for dx in range(1, radius + 1):
        left, right = radius - dx, radius + dx
        total.addcmul_(
            weight[dx], rows[..., left : left + width] + rows[..., right : right + width]
        )
    return total


def _scatter(grad: Tensor, weight: Tensor) -> Tensor:
    """Give every pixel of the padded image its share of `grad` (B, 3, H, W): `_sum` backwards."""
    height, width = weight.shape[-2:]
    radius = len(weight) - 1
    shape = (*grad.shape[:2], height + 2 * radius, width + 2 * radius)
    out = grad.new_zeros(shape)
    for dy in range(radius + 1):
        share = grad * weight[dy]
        rows = grad.new_zeros((*grad.shape[:3], shape[-1]))
        rows[..., radius : radius + width] = share * weight[0]
        for dx in range(1, radius + 1):
            part = share * weight[dx]
            rows[..., radius - dx : radius - dx + width] += part
            rows[..., radius + dx : radius + dx + width] += part
        out[:, :, radius + dy : radius + dy + height] += rows
        if dy:
            out[:, :, radius - dy : radius - dy + height] += rows
    return out
