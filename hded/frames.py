"""Training samples: frames held in memory, cut and flipped by a generator of their own.

A sample depends on (seed, epoch, frame) alone, so neither the order of loading nor a restart
changes it. The crop is taken from the whole defocused frame: blur at its edge saw its true
surroundings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hded.errors import HDEDError
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


class Frames:
    """Some frames of a dataset, in memory: sharp and defocused uint8, depth float32 metres.

    With `resize` they are squashed to size_px x size_px at once (images antialiased, depth by
    nearest neighbour); with `crop` they stay whole.
    """

    def __init__(
        self,
        scenes: Store,
        defocused: Store,
        indices: NDArray[np.integer],
        geometry: Geometry,
        size_px: int,
    ) -> None:
        height, width = scenes.arrays["rgb"].shape[1:3]
        if geometry == "crop" and min(height, width) < size_px:
            raise HDEDError(
                f"train.size_px is {size_px}, the frames are {height}x{width}; crop no more "
                "than the shorter side, or use geometry: resize"
            )
        self.geometry, self.size_px = geometry, size_px
        self.indices = np.asarray(indices)
        size = (size_px, size_px)
        self.sharp, self.defocused, self.depth_m = [], [], []
        for index in progress(
            self.indices, desc="load frames", unit="frame", disable=len(indices) < 100
        ):
            frame = scenes.read("rgb", index), defocused.read("defocused", index)
            depth = scenes.read("depth", index)
            if geometry == "resize":
                frame = tuple(resize_rgb(image, size) for image in frame)
                depth = resize_nearest(depth, size)
            self.sharp.append(frame[0])
            self.defocused.append(frame[1])
            self.depth_m.append(depth)

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, batch_size: int, *, seed: int, epoch: int, hflip: float) -> Iterator[Batch]:
        """Give one epoch in random order: random crops, each flipped with probability `hflip`."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield _collate([self._sample(i, seed, epoch, hflip) for i in chosen])

    def whole(self, position: int) -> Batch:
        """Give one frame, uncut, as a batch of one."""
        return _collate([(self.defocused[position], self.sharp[position], self.depth_m[position])])

    def _sample(self, i: int, seed: int, epoch: int, hflip: float) -> tuple[NDArray, ...]:
        rng = np.random.default_rng([seed, epoch, int(self.indices[i])])
        arrays = (self.defocused[i], self.sharp[i], self.depth_m[i])
        if self.geometry == "crop":
            height, width = arrays[0].shape[:2]
            top = rng.integers(height - self.size_px + 1)
            left = rng.integers(width - self.size_px + 1)
            window = slice(top, top + self.size_px), slice(left, left + self.size_px)
            arrays = tuple(array[window] for array in arrays)
        if rng.random() < hflip:
            arrays = tuple(array[:, ::-1] for array in arrays)
        return arrays


def to_unit(rgb: NDArray[np.uint8]) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [-1, 1], as the network takes it."""
    # a copy: torch will not share an array that is read-only or flipped
    return torch.from_numpy(np.array(rgb, order="C")).movedim(-1, -3).float() / 127.5 - 1


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """(..., 3, H, W) in [-1, 1] -> (..., H, W, 3) uint8, rounded and clipped."""
    return ((image + 1) * 127.5).round().clamp(0, 255).byte().movedim(-3, -1).cpu().numpy()


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
