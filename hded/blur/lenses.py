"""Depth to blur for a batch of lenses in torch, differentiable: the twin of `hded.optics.ThinLens`.

A lens is a row of five numbers, `ThinLens.row`; a batch of them is a tensor (B, 5).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hded.common.errors import HDEDError
from hded.optics import ThinLens
from hded.store import Store

COLUMNS = ("focal_length_m", "aperture_m", "focus_distance_m")


def coc_px(depth_m: Tensor, lenses: Tensor) -> Tensor:
    """Return the signed CoC [px] of depth_m (B, 1, H, W), all of it positive, by lenses (B, 5)."""
    gain, focus_m, limit, _, _ = _columns(lenses)
    return (gain * (1 - focus_m / depth_m)).clamp(-limit, limit)


def sigma_px(depth_m: Tensor, lenses: Tensor) -> Tensor:
    """Return sigma [px] of depth_m (B, 1, H, W), all of it positive, by lenses (B, 5)."""
    _, _, _, slope, offset = _columns(lenses)
    return slope * (coc_px(depth_m, lenses).abs() - offset).clamp(min=0)


def max_sigma_px(lenses: Tensor) -> float:
    """Return the largest sigma [px] that any of the lenses (B, 5) gives."""
    _, _, limit, slope, offset = lenses.unbind(-1)
    return float((slope * (limit - offset).clamp(min=0)).max())


def lens_of(camera: Mapping[str, Any], row: Mapping[Any, Any]) -> ThinLens | None:
    """Return the lens of one rendering; None where it is not recorded.

    camera: the description that a store's attributes hold; row: the rendering's row in its table,
    which has what the camera draws for each frame.
    """
    shared = ("pixel_pitch_m", "max_coc_px", "sigma_rule")
    found = {key: row.get(key, camera.get(key)) for key in COLUMNS}
    found |= {key: camera.get(key) for key in shared}
    return None if any(value is None for value in found.values()) else ThinLens(**found)


def stored_lenses(defocused: Store) -> Tensor | None:
    """Return the lens of every rendering in a store, (M, 5) float32; None where it has none."""
    camera = defocused.attributes["camera"]
    lenses = [lens_of(camera, row) for row in defocused.frames.to_dict("records")]
    rows = [lens.row() for lens in lenses if lens is not None]
    return torch.tensor(rows, dtype=torch.float32) if len(rows) == len(lenses) else None


def need_lenses(lenses: Tensor | None, key: str) -> Tensor:
    """Return the lenses; raises HDEDError, which names the setting that needs them, for None."""
    if lenses is None:
        raise HDEDError(f"{key} needs the lens of each picture, which the defocused store lacks")
    return lenses


def _columns(lenses: Tensor) -> tuple[Tensor, ...]:
    return lenses[:, :, None, None, None].unbind(1)
