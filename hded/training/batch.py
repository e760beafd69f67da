"""Training batches: images in the network's range, depth in metres."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hded.blur.batch import gaussian_gather_batch
from hded.network.normalize import to_network_range


@dataclass(frozen=True, slots=True)
class Batch:
    """`defocused`, `sharp` (B, 3, H, W) in [-1, 1]; `depth_m` (B, 1, H, W); `valid` bool.

    `indices`: the frames' rows in the store.
    """

    defocused: Tensor
    sharp: Tensor
    depth_m: Tensor
    valid: Tensor
    indices: tuple[int, ...]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, part in parts.items():
            if isinstance(part, Tensor):
                parts[name] = part.to(device, non_blocking=True)
        return Batch(**parts)


@dataclass(frozen=True, slots=True)
class SharpBatch:
    """A batch that is yet to be defocused: `to` renders it on the device that trains.

    `surroundings` (B, H + 2 margin, W + 2 margin, 3) uint8: the sharp crops and what lies around
    them, which takes part in their blur; `sigma_px` (B, H, W), at most `max_sigma_px`; `depth_m`
    (B, 1, H, W).
    """

    surroundings: Tensor
    sigma_px: Tensor
    depth_m: Tensor
    indices: tuple[int, ...]
    max_sigma_px: float

    def to(self, device: torch.device) -> Batch:
        """Return the batch, blurred on `device` and rounded to 8 bits as stored renderings are."""
        around, sigma, depth_m = (
            tensor.to(device, non_blocking=True)
            for tensor in (self.surroundings, self.sigma_px, self.depth_m)
        )
        margin = (around.shape[1] - sigma.shape[1]) // 2
        unit = around.movedim(-1, -3).float() * (1 / 255)
        blurred = gaussian_gather_batch(unit, sigma, margin, max_sigma_px=self.max_sigma_px)
        inside = slice(margin, around.shape[1] - margin), slice(margin, around.shape[2] - margin)
        sharp = around[:, *inside].movedim(-1, -3).float() / 127.5 - 1
        defocused = (blurred * 255).round() / 127.5 - 1
        return Batch(defocused, sharp, depth_m, depth_m > 0, self.indices)


def to_batch(defocused: Tensor, sharp: Tensor, depth_m: Tensor, indices: tuple[int, ...]) -> Batch:
    """Return the batch of uint8 images (B, H, W, 3) and depth (B, H, W), 0 where unknown."""
    depth_m = depth_m[:, None]
    images = to_network_range(defocused), to_network_range(sharp)
    return Batch(*images, depth_m, depth_m > 0, indices)
