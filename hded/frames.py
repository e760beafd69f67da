"""Training samples: frames held in memory, cut and flipped by a generator of their own.

A sample depends on (seed, epoch, frame) alone, so neither the order of loading nor a restart
changes it. Its defocused image is one of the stored copies, or is blurred anew on the device that
trains. Either way a crop's blur sees its true surroundings: the stored image was blurred whole, the
other is cut with a margin as wide as the largest blur.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hded.blur.batch import gaussian_gather_batch
from hded.blur.support import border_indices, radius_px
from hded.defocus import take_picture
from hded.errors import HDEDError
from hded.optics import AnyCamera, ThinLens, sigma_of_coc
from hded.progress import progress
from hded.resample import resize_nearest, resize_rgb
from hded.store import Store

Geometry = Literal["crop", "resize"]


@dataclass(frozen=True, slots=True)
class Batch:
    """`defocused`, `sharp` (B, 3, H, W) in [-1, 1]; `depth_m` (B, 1, H, W); `valid` bool."""

    defocused: Tensor
    sharp: Tensor
    depth_m: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Give the batch on `device`."""
        return Batch(*(getattr(self, name).to(device) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class SharpBatch:
    """A batch that is defocused where it is used: `to` gives the `Batch`, blurred on `device`.

    `surroundings` (B, H + 2 margin, W + 2 margin, 3) uint8; `sigma_px` (B, H, W), at most
    `max_sigma_px`; `depth_m` (B, 1, H, W).
    """

    surroundings: Tensor
    sigma_px: Tensor
    depth_m: Tensor
    max_sigma_px: float

    def to(self, device: torch.device) -> Batch:
        """Blur on `device`, rounded to 8 bits as the stored copies are."""
        around, sigma = self.surroundings.to(device), self.sigma_px.to(device)
        depth_m = self.depth_m.to(device)
        margin = (around.shape[1] - sigma.shape[1]) // 2
        unit = around.movedim(-1, -3).float() * (1 / 255)
        blurred = gaussian_gather_batch(unit, sigma, margin, max_sigma_px=self.max_sigma_px)
        inside = slice(margin, around.shape[1] - margin), slice(margin, around.shape[2] - margin)
        sharp = around[:, *inside].movedim(-1, -3).float() / 127.5 - 1
        return Batch((blurred * 255).round() / 127.5 - 1, sharp, depth_m, depth_m > 0)


class Frames:
    """Some frames of a dataset, in memory: sharp and defocused uint8, depth float32 metres.

    With `resize` they are squashed to size_px x size_px (images antialiased, depth by nearest
    neighbour); with `crop` they stay whole. A frame may have several defocused copies, of which
    each sample draws one. With `cameras` no copy is read: each sample is taken anew through one of
    them, drawn, and through a lens of its own where the camera draws one.
    """

    def __init__(
        self,
        scenes: Store,
        defocused: Store,
        indices: NDArray[np.integer],
        geometry: Geometry,
        size_px: int,
        cameras: Sequence[AnyCamera] = (),
    ) -> None:
        height, width = scenes.arrays["rgb"].shape[1:3]
        if geometry == "crop" and min(height, width) < size_px:
            raise HDEDError(
                f"train.size_px is {size_px}, the frames are {height}x{width}; crop no more "
                "than the shorter side, or use geometry: resize"
            )
        self.geometry, self.size_px = geometry, size_px
        self.indices = np.asarray(indices)
        self.cameras = tuple(cameras)
        self.image_width_px: int = scenes.attributes["image_width_px"]
        largest = [float(sigma_of_coc(c.max_coc_px, c.sigma_rule)) for c in self.cameras]
        self.max_sigma_px = max(largest, default=0.0)
        self.sharp: list[NDArray[np.uint8]] = []
        self.depth_m: list[NDArray[np.float32]] = []
        self.copies: list[list[NDArray[np.uint8]]] = []
        rows = defocused.frames["scene_index"].to_numpy()
        for index in progress(
            self.indices, desc="load frames", unit="frame", disable=len(indices) < 100
        ):
            sharp, depth = scenes.read("rgb", index), scenes.read("depth", index)
            copies = []
            if not self.cameras:
                sharp, depth = self._fit(sharp), self._fit(depth)
                stored = np.flatnonzero(rows == index)
                copies = [self._fit(defocused.read("defocused", row)) for row in stored]
            self.sharp.append(sharp)
            self.depth_m.append(depth)
            self.copies.append(copies)

    def __len__(self) -> int:
        return len(self.indices)

    def batches(
        self, batch_size: int, *, seed: int, epoch: int, hflip: float
    ) -> Iterator[Batch | SharpBatch]:
        """Give one epoch in random order: random crops, each flipped with probability `hflip`."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            samples = [self._sample(i, seed, epoch, hflip) for i in chosen]
            if self.cameras and self.geometry == "crop":
                around, sigma, depth = _stack(samples)
                yield SharpBatch(around, sigma, depth[:, None], self.max_sigma_px)
            else:
                yield _collate(samples)

    def wholes(self) -> Iterator[tuple[Batch, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Give every stored copy, uncut: a batch of one, and its defocused and sharp images."""
        for sharp, depth_m, copies in zip(self.sharp, self.depth_m, self.copies, strict=True):
            for defocused in copies:
                yield _collate([(defocused, sharp, depth_m)]), defocused, sharp

    def _sample(self, i: int, seed: int, epoch: int, hflip: float) -> tuple[NDArray, ...]:
        """Give defocused, sharp, depth; of a crop yet to blur surroundings, sigma, depth."""
        rng = np.random.default_rng([seed, epoch, int(self.indices[i])])
        choices = self.cameras or self.copies[i]
        # one choice draws nothing: the same crops with and without a list of distances
        chosen = choices[rng.integers(len(choices)) if len(choices) > 1 else 0]
        sharp, depth_m = self.sharp[i], self.depth_m[i]
        lens = None
        if self.cameras:
            lens = chosen.lens(depth_m, self.image_width_px, rng)
        if self.geometry == "resize":
            defocused = take_picture(sharp, depth_m, lens, "gather")[0] if lens else chosen
            arrays = tuple(self._fit(array) for array in (defocused, sharp, depth_m))
        else:
            height, width = sharp.shape[:2]
            top = int(rng.integers(height - self.size_px + 1))
            left = int(rng.integers(width - self.size_px + 1))
            window = slice(top, top + self.size_px), slice(left, left + self.size_px)
            if lens:
                arrays = self._cut_with_margin(sharp, depth_m, window, lens)
            else:
                arrays = tuple(array[window] for array in (chosen, sharp, depth_m))
        if rng.random() < hflip:
            arrays = tuple(array[:, ::-1] for array in arrays)
        return arrays

    def _cut_with_margin(
        self,
        sharp: NDArray[np.uint8],
        depth_m: NDArray[np.float32],
        window: tuple[slice, slice],
        lens: ThinLens,
    ) -> tuple[NDArray, ...]:
        margin = radius_px(self.max_sigma_px)
        rows, columns = (
            border_indices(n, 0, margin)[s.start : s.stop + 2 * margin]
            for n, s in zip(depth_m.shape, window, strict=True)
        )
        depth = depth_m[window]
        return sharp[rows[:, None], columns], lens.sigma_px(depth), depth

    def _fit(self, array: NDArray) -> NDArray:
        """Squash a frame to the training size; a whole one stays, as does one that has the size."""
        size = (self.size_px, self.size_px)
        if self.geometry == "crop" or array.shape[:2] == size:
            return array
        return resize_rgb(array, size) if array.ndim == 3 else resize_nearest(array, size)


def to_unit(rgb: NDArray[np.uint8]) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [-1, 1], as the network takes it."""
    # a copy: torch will not share an array that is read-only or flipped
    return torch.from_numpy(np.array(rgb, order="C")).movedim(-1, -3).float() / 127.5 - 1


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """(..., 3, H, W) in [-1, 1] -> (..., H, W, 3) uint8, rounded and clipped."""
    return ((image + 1) * 127.5).round().clamp(0, 255).byte().movedim(-3, -1).cpu().numpy()


def _stack(samples: list[tuple[NDArray, ...]]) -> list[Tensor]:
    return [torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True)]


def _collate(samples: list[tuple[NDArray, ...]]) -> Batch:
    defocused, sharp, depth = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    depth_m = torch.from_numpy(depth)[:, None]
    # contiguous as (B, H, W, 3), the layout that convolutions are fastest in
    return Batch(to_unit(defocused), to_unit(sharp), depth_m, depth_m > 0)


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
            "train.validation: one training frame cannot be split; set it to 0 and keep: last"
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
