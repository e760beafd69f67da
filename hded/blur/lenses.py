"""Depth to blur for a batch of lenses in torch, differentiable: the twin of `hded.optics.ThinLens`.

A lens is a row of six numbers, `ThinLens.row`; a batch of them is a tensor (B, 6).
"""

from torch import Tensor

from hded.common.errors import HDEDError

TINY = 1e-12


def coc_px(depth_m: Tensor, lenses: Tensor) -> Tensor:
    """Return the signed CoC [px] of depth_m (B, 1, H, W), all of it positive, by lenses (B, 6)."""
    limit = _columns(lenses)[2]
    return unclamped_coc_px(depth_m, lenses).clamp(-limit, limit)


def unclamped_coc_px(depth_m: Tensor, lenses: Tensor) -> Tensor:
    """Return the signed CoC [px] without the camera's limit; arguments as of `coc_px`."""
    gain, focus_m, *_ = _columns(lenses)
    return gain * (1 - focus_m / depth_m)


def inverse_depth(coc: Tensor, lenses: Tensor) -> Tensor:
    """Return 1 / depth [1/m] of unclamped signed CoCs (B, 1, H, W) [px] by lenses (B, 6).

    It is not positive where a CoC is that of no depth: beyond the lens's gain.
    """
    gain, focus_m, *_ = _columns(lenses)
    return (1 - coc / gain) / focus_m


def sigma_px(depth_m: Tensor, lenses: Tensor) -> Tensor:
    """Return sigma [px] of depth_m (B, 1, H, W), all of it positive, by lenses (B, 6)."""
    _, _, _, slope, offset, softness = _columns(lenses)
    sigma = slope * (coc_px(depth_m, lenses).abs() - offset).clamp(min=0)
    if not softness.any():
        return sigma
    # the root of 0 has no finite gradient
    return (sigma.square() + softness.square()).clamp(min=TINY).sqrt()


def max_sigma_px(lenses: Tensor) -> float:
    """Return the largest sigma [px] that any of the lenses (B, 6) gives."""
    _, _, limit, slope, offset, softness = lenses.unbind(-1)
    return float((slope * (limit - offset).clamp(min=0)).hypot(softness).max())


def need_lenses(lenses: Tensor | None, key: str) -> Tensor:
    """Return the lenses; raises HDEDError, which names the setting that needs them, for None."""
    if lenses is None:
        raise HDEDError(f"{key} needs the lens of each picture, which the defocused store lacks")
    return lenses


def _columns(lenses: Tensor) -> tuple[Tensor, ...]:
    return lenses[:, :, None, None, None].unbind(1)
