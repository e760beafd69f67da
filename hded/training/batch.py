"""Training batches: images in the network's range, depth in metres."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

from hded.blur.batch import gaussian_gather_batch
from hded.blur.lenses import need_lenses
from hded.blur.render import SENSOR_STREAM
from hded.network.normalize import to_network_range
from hded.optics import Sensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples on one device; images are in [-1, 1].

    - `rgb` (B, 3 S, H, W): the network's input, S images side by side
    - `sharp` (B, 3, H, W): all in focus
    - `defocused` (B, 3, H, W): by the first camera
    - `depth_m` (B, 1, H, W), and `valid` (bool) where it is known
    - `lenses` (B, S, 6): see `hded.blur.lenses`; None where they are not known
    - `indices`: the frames' rows in the store
    """

    rgb: Tensor
    sharp: Tensor
    defocused: Tensor
    depth_m: Tensor
    valid: Tensor
    lenses: Tensor | None
    indices: tuple[int, ...]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, part in parts.items():
            if isinstance(part, Tensor):
                parts[name] = part.to(device, non_blocking=True)
        return Batch(**parts)


def network_inputs(network: nn.Module, batch: Batch) -> tuple[Tensor | None, ...]:
    """Return the arguments with which a `HDEDNet` learns from a batch.

    Only a denoiser learns from the sharp image as an input, and few networks need the lens.
    """
    sharp = batch.sharp if getattr(network, "denoiser", None) is not None else None
    lens = None
    if getattr(network, "needs_lens", False):
        lens = need_lenses(batch.lenses, "this network")[:, 0]
    return (batch.rgb,) if sharp is None and lens is None else (batch.rgb, sharp, lens)


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a sample's noise is drawn by, and where its crop lies in the whole image [px]."""

    seed: tuple[int, ...]
    corner: tuple[int, int]


def expose(images: Tensor, sensor: Sensor, exposures: Sequence[Exposure], shot: int) -> Tensor:
    """Return 8-bit images (B, H, W, 3) of values in [0, 1] with the noise of a camera.

    shot: the position of these images among those that are read together, each of which has noise
    of its own. It is computed on the CPU.
    """
    if sensor.ideal:
        return (images * 255).round().to(torch.uint8)
    arrays = images.cpu().numpy()
    noisy = [
        sensor.expose(array, np.random.default_rng([*e.seed, shot, SENSOR_STREAM]), e.corner)
        for array, e in zip(arrays, exposures, strict=True)
    ]
    return torch.from_numpy(np.stack(noisy)).to(images.device)


@dataclass(frozen=True, slots=True)
class SharpBatch:
    """A batch that is yet to be defocused: `to` renders it on the device that trains.

    `surroundings` (B, H + 2 margin, W + 2 margin, 3) uint8: the sharp crops and what lies around
    them, which takes part in their blur; `sigma_px` (B, S, H, W), at most `max_sigma_px`, for each
    of S cameras; `depth_m` (B, 1, H, W); `lenses` (B, S, 6); `sensors`: those of the cameras, and
    `exposures`: one for each sample.
    """

    surroundings: Tensor
    sigma_px: Tensor
    depth_m: Tensor
    lenses: Tensor
    indices: tuple[int, ...]
    max_sigma_px: float
    sensors: Sequence[Sensor]
    exposures: Sequence[Exposure]

    def to(self, device: torch.device) -> Batch:
        """Return the batch, blurred on `device` and exposed to 8 bits as stored renderings are."""
        around, sigma, depth_m, lenses = (
            tensor.to(device, non_blocking=True)
            for tensor in (self.surroundings, self.sigma_px, self.depth_m, self.lenses)
        )
        margin = (around.shape[1] - sigma.shape[-2]) // 2
        unit = around.movedim(-1, -3).float() * (1 / 255)
        shots = []
        for shot, (of_camera, sensor) in enumerate(zip(sigma.unbind(1), self.sensors, strict=True)):
            blurred = gaussian_gather_batch(unit, of_camera, margin, max_sigma_px=self.max_sigma_px)
            exposed = expose(blurred.movedim(1, -1), sensor, self.exposures, shot)
            shots.append(to_network_range(exposed))
        inside = slice(margin, around.shape[1] - margin), slice(margin, around.shape[2] - margin)
        sharp = around[:, *inside].movedim(-1, -3).float() / 127.5 - 1
        rgb = shots[0] if len(shots) == 1 else torch.cat(shots, 1)
        return Batch(rgb, sharp, shots[0], depth_m, depth_m > 0, lenses, self.indices)


def to_batch(
    shots: Sequence[Tensor],
    sharp: Tensor,
    depth_m: Tensor,
    indices: tuple[int, ...],
    lenses: Tensor | None = None,
    *,
    reads_sharp: bool = False,
) -> Batch:
    """Return the batch of uint8 images (B, H, W, 3) and depth (B, H, W), 0 where unknown.

    shots: the images by each camera. With `reads_sharp` the network's input is the sharp image.
    """
    depth_m = depth_m[:, None]
    images = [to_network_range(shot) for shot in shots]
    target = to_network_range(sharp)
    rgb = images[0] if len(images) == 1 else torch.cat(images, 1)
    return Batch(
        target if reads_sharp else rgb, target, images[0], depth_m, depth_m > 0, lenses, indices
    )
