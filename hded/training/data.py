"""Training samples: frames held in memory, cut and flipped by a generator of their own.

A sample depends on (seed, epoch, frame) alone, so neither the order of loading, the number of
devices nor a restart changes it. Its defocused image is one of the stored copies, or is blurred
anew on the device that trains. Either way a crop's blur sees its true surroundings: the stored
image was blurred whole, the other is cut with a margin as wide as the largest blur.

The frames are one uint8 tensor (depth: one float32 tensor), so that they may live on the device
that trains: what is then drawn on the host is a handful of numbers a sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hded.blur.batch import gaussian_gather_batch
from hded.blur.render import render_defocused
from hded.blur.support import border_indices, radius_px
from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.common.resize import resize_nearest, resize_rgb
from hded.config.schema import Geometry, NetworkInput
from hded.network.normalize import copy_to_tensor, to_network_range
from hded.optics import AnyCamera, ThinLens, sigma_of_coc
from hded.store import Store

RESIDENT_SHARE = 0.5  # of a GPU's free memory; the rest is the network's


@dataclass(frozen=True, slots=True)
class Batch:
    """`defocused`, `sharp` (B, 3, H, W) in [-1, 1]; `depth_m` (B, 1, H, W); `valid` bool.

    `indices`: the frames' places in the store.
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
    """A batch that is defocused where it is used: `to` gives the `Batch`, blurred on `device`.

    `surroundings` (B, H + 2 margin, W + 2 margin, 3) uint8; `sigma_px` (B, H, W), at most
    `max_sigma_px`; `depth_m` (B, 1, H, W).
    """

    surroundings: Tensor
    sigma_px: Tensor
    depth_m: Tensor
    indices: tuple[int, ...]
    max_sigma_px: float

    def to(self, device: torch.device) -> Batch:
        """Blur on `device`, rounded to 8 bits as the stored copies are."""
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


@dataclass(frozen=True, slots=True)
class _Draw:
    """What chance decides of a sample: a copy's row or a lens, a window, a flip."""

    frame: int
    copy: int
    lens: ThinLens | None
    window: tuple[slice, slice]
    flipped: bool


class Frames:
    """Some frames of a dataset, in memory: sharp and defocused uint8, depth float32 metres.

    With `resize` they are squashed to size_px x size_px (images antialiased, depth by nearest
    neighbour); with `crop` they stay whole. A frame may have several defocused copies, of which
    each sample draws one. With `cameras` no copy is read: each sample is taken anew through one of
    them, drawn, and through a lens of its own where the camera draws one. With
    `network_input="sharp"` the sharp image stands in the defocused one's place, a control that no
    blur can help.
    """

    def __init__(
        self,
        scenes: Store,
        defocused: Store,
        indices: NDArray[np.integer],
        geometry: Geometry,
        size_px: int,
        cameras: Sequence[AnyCamera] = (),
        network_input: NetworkInput = "defocused",
    ) -> None:
        height, width = scenes.arrays["rgb"].shape[1:3]
        if geometry == "crop" and min(height, width) < size_px:
            raise HDEDError(
                f"train.size_px is {size_px}, the frames are {height}x{width}; crop no more "
                "than the shorter side, or use geometry: resize"
            )
        self.geometry, self.size_px = geometry, size_px
        self.indices = np.asarray(indices)
        self.cameras = () if network_input == "sharp" else tuple(cameras)
        self.image_width_px: int = scenes.attributes["image_width_px"]
        largest = [float(sigma_of_coc(c.max_coc_px, c.sigma_rule)) for c in self.cameras]
        self.max_sigma_px = max(largest, default=0.0)
        # a frame that is yet to be taken is squashed afterwards
        fit = (lambda array: array) if self.cameras else self._fit
        count = len(self.indices)
        stored = defocused.frames["frame_index"].to_numpy()
        rows = [np.flatnonzero(stored == index) for index in self.indices]
        if self.cameras or network_input == "sharp":
            rows = [row[:0] for row in rows]
        bounds = np.cumsum([0, *map(len, rows)])
        self.copies = [range(a, b) for a, b in pairwise(bounds.tolist())]
        bar = progress(self.indices, desc="load frames", unit="frame", disable=count < 100)
        for i, index in enumerate(bar):
            sharp, depth_m = fit(scenes.read("rgb", index)), fit(scenes.read("depth", index))
            if i == 0:
                size = sharp.shape[:2]
                self.sharp = torch.empty((count, *size, 3), dtype=torch.uint8)
                self.defocused = torch.empty((bounds[-1], *size, 3), dtype=torch.uint8)
                self.depth_m = torch.empty((count, *size), dtype=torch.float32)
                self._lens_depth_m = self.depth_m  # stays on the host, as lenses do
            self.sharp[i] = copy_to_tensor(sharp)
            self.depth_m[i] = copy_to_tensor(depth_m)
            for copy, row in zip(self.copies[i], rows[i], strict=True):
                self.defocused[copy] = copy_to_tensor(fit(defocused.read("defocused", row)))
        if network_input == "sharp":
            self.defocused, self.copies = self.sharp, [range(i, i + 1) for i in range(count)]

    def __len__(self) -> int:
        return len(self.indices)

    def reside(self, device: torch.device) -> bool:
        """Move the frames to a GPU if they take less than half of its free memory; say whether.

        Frames that are blurred whole before they are squashed stay on the host, as the lens does.
        """
        if device.type != "cuda" or (self.cameras and self.geometry == "resize"):
            return False
        tensors = {"sharp": self.sharp, "defocused": self.defocused, "depth_m": self.depth_m}
        needed = sum(t.numel() * t.element_size() for t in tensors.values())
        if needed > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            return False
        for name, tensor in tensors.items():
            setattr(self, name, tensor.to(device))
        return True

    def steps(self, batch_size: int, devices: int = 1) -> int:
        """Return the number of batches of an epoch."""
        return len(self._cuts(batch_size, devices))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        hflip: float,
        start: int = 0,
        rank: int = 0,
        devices: int = 1,
    ) -> Iterator[Batch | SharpBatch]:
        """Return one epoch in random order: random crops, each flipped with probability `hflip`.

        The first `start` batches are left out, without changing the others. With several `devices`
        each batch is split evenly between them, and this is the share of `rank`; of the last batch
        up to devices - 1 samples are then left out, others in each epoch.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for first, size in self._cuts(batch_size, devices)[start:]:
            share = size // devices
            chosen = order[first + rank * share : first + (rank + 1) * share]
            draws = [self._draw(int(i), seed, epoch, hflip) for i in chosen]
            if not self.cameras:
                yield self._cut(draws)
            elif self.geometry == "crop":
                yield self._cut_with_margin(draws)
            else:
                yield self._take_whole(draws)

    def wholes(
        self, rank: int = 0, devices: int = 1
    ) -> Iterator[tuple[Batch, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Return every stored copy, uncut: a batch of one, and its defocused and sharp images.

        With several `devices`, those of every so manyth frame from `rank` on.
        """
        everything = (slice(None), slice(None))
        for i in range(rank, len(self), devices):
            sharp, copies = self.sharp[i].cpu().numpy(), self.copies[i]
            for copy in copies:
                batch = self._cut([_Draw(i, copy, None, everything, False)])
                yield batch, self.defocused[copy].cpu().numpy(), sharp

    def _cuts(self, batch_size: int, devices: int) -> list[tuple[int, int]]:
        """Return each batch's first place in the epoch's order and its size."""
        places = range(0, len(self), batch_size)
        sizes = [min(batch_size, len(self) - first) // devices * devices for first in places]
        return [(first, size) for first, size in zip(places, sizes, strict=True) if size]

    def _draw(self, i: int, seed: int, epoch: int, hflip: float) -> _Draw:
        rng = np.random.default_rng([seed, epoch, int(self.indices[i])])
        choices = self.cameras or self.copies[i]
        # one choice draws nothing: the same crops with and without a list of distances
        chosen = choices[rng.integers(len(choices)) if len(choices) > 1 else 0]
        copy, lens = (0, None) if self.cameras else (chosen, None)
        if self.cameras:
            lens = chosen.lens(self._lens_depth_m[i].numpy(), self.image_width_px, rng)
        window = (slice(None), slice(None))
        if self.geometry == "crop":
            height, width = self.sharp.shape[1:3]
            top = int(rng.integers(height - self.size_px + 1))
            left = int(rng.integers(width - self.size_px + 1))
            window = slice(top, top + self.size_px), slice(left, left + self.size_px)
        return _Draw(i, copy, lens, window, bool(rng.random() < hflip))

    def _cut(self, draws: Sequence[_Draw]) -> Batch:
        defocused = _stack([self.defocused[d.copy][d.window] for d in draws], draws)
        sharp = _stack([self.sharp[d.frame][d.window] for d in draws], draws)
        depth_m = _stack([self.depth_m[d.frame][d.window] for d in draws], draws)[:, None]
        images = to_network_range(defocused), to_network_range(sharp)
        return Batch(*images, depth_m, depth_m > 0, self._places(draws))

    def _cut_with_margin(self, draws: Sequence[_Draw]) -> SharpBatch:
        margin = radius_px(self.max_sigma_px)
        around, sigma, depth = [], [], []
        for d in draws:
            rows, columns = (
                torch.from_numpy(border_indices(n, 0, margin)[s.start : s.stop + 2 * margin])
                for n, s in zip(self.depth_m.shape[1:], d.window, strict=True)
            )
            rows, columns = (i.to(self.sharp.device, non_blocking=True) for i in (rows, columns))
            around.append(self.sharp[d.frame][rows[:, None], columns])
            depth.append(self.depth_m[d.frame][d.window])
            assert d.lens is not None
            lens_depth_m = self._lens_depth_m[d.frame][d.window].numpy()
            sigma.append(torch.from_numpy(d.lens.sigma_px(lens_depth_m)))
        depth_m = _stack(depth, draws)[:, None]
        return SharpBatch(
            _stack(around, draws), _stack(sigma, draws), depth_m, self._places(draws),
            self.max_sigma_px,
        )  # fmt: skip

    def _take_whole(self, draws: Sequence[_Draw]) -> Batch:
        """Blur whole frames, then squash them."""
        samples = []
        for d in draws:
            sharp, depth_m = self.sharp[d.frame].numpy(), self.depth_m[d.frame].numpy()
            assert d.lens is not None
            taken = render_defocused(sharp, depth_m, d.lens, "gather")[0]
            samples.append([copy_to_tensor(self._fit(array)) for array in (taken, sharp, depth_m)])
        defocused, sharp, depth = (_stack(t, draws) for t in zip(*samples, strict=True))
        depth_m = depth[:, None]
        images = to_network_range(defocused), to_network_range(sharp)
        return Batch(*images, depth_m, depth_m > 0, self._places(draws))

    def _places(self, draws: Sequence[_Draw]) -> tuple[int, ...]:
        return tuple(int(self.indices[d.frame]) for d in draws)

    def _fit(self, array: NDArray) -> NDArray:
        """Squash a frame to the training size; a whole one stays, as does one that has the size."""
        size = (self.size_px, self.size_px)
        if self.geometry == "crop" or array.shape[:2] == size:
            return array
        return resize_rgb(array, size) if array.ndim == 3 else resize_nearest(array, size)


def _stack(samples: Sequence[Tensor], draws: Sequence[_Draw]) -> Tensor:
    """Stack (H, W, ...) samples, those that are flipped mirrored."""
    return torch.stack([t.flip(1) if d.flipped else t for t, d in zip(samples, draws, strict=True)])


def validation_split(
    frames: pd.DataFrame, indices: NDArray[np.integer], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split training frames into those to fit and those to validate on, by whole scenes.

    frames: a store's table; indices: its training frames. A scene is what the column `scene` names,
    or, where that is empty, a run of consecutive numeric ids (neighbouring NYU frames show one
    room). Scenes are drawn until they hold `share` of the frames: at least one frame, never all.
    """
    indices = np.asarray(indices, np.int64)
    if share == 0:
        return indices, indices[:0]
    rows = frames.iloc[indices]
    if (rows["scene"] != "").all():
        group = pd.factorize(rows["scene"])[0]
    else:
        number = pd.to_numeric(rows["frame"], errors="coerce")
        group = (number.diff() != 1).cumsum().to_numpy()
    if len(np.unique(group)) < 2:
        group = np.arange(len(indices))  # one scene: nothing left but to split it
    if len(indices) < 2:
        raise HDEDError(
            f"train.val_fraction: of {len(indices)} training frames none can be held out; set it "
            "to 0 and train.checkpoint to last"
        )
    wanted = max(1, round(share * len(indices)))
    held = np.zeros(len(indices), bool)
    for scene in np.random.default_rng(seed).permutation(np.unique(group)):
        members = group == scene
        if held.sum() >= wanted:
            break
        if (held | members).all():
            continue
        held |= members
    return indices[~held], indices[held]
