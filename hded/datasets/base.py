"""Interface of the readers: frames one by one, and the properties that later stages need."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from numpy.typing import NDArray

from hded.common.errors import HDEDError
from hded.common.heads import HEADS, Head


class RawFrame(dict[str, NDArray]):
    """The arrays of one frame by name, and `notes`: what its reader met in this frame."""

    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RawFrames:
    """A dataset in its raw format, opened for reading.

    format: the dataset's name, or "folder" for a user's own images.
    frames: columns frame (the official id), split (train | test), scene ("" where unknown), in the
    official order.
    size: (H, W) of every frame [px].
    image_width_px: width of the image before cropping; it determines the pixel pitch.
    max_depth_m: upper end of the dataset's depth range [m].
    has_raw_valid: whether the frames have the array `raw_valid`.
    read(i): the arrays of frame i: `rgb` uint8 (H, W, 3), `depth` float32 (H, W) in metres
    with 0 for invalid depth, and `raw_valid` bool (H, W), true where the sensor measured.
    truths: what the frames hold the truth of, depth and all_in_focus, or one of them. Of another,
    `rgb` is the defocused photograph, or `depth` is 0 everywhere.
    has_photographs: whether the frames have the array `defocused` uint8 (H, W, 3), photographs
    that a camera defocused.
    skipped: one line "name: reason" for each frame that could not be read.
    notes: what else the reader met when it opened the files, counted.
    portable: whether `read` may be copied to another process, which then opens the files itself;
    not where the frames are in memory.

    Raises HDEDError for a frame whose id cannot be the name of a folder.
    """

    format: str
    frames: pd.DataFrame
    size: tuple[int, int]
    image_width_px: int
    max_depth_m: float
    has_raw_valid: bool
    read: Callable[[int], RawFrame]
    truths: tuple[Head, ...] = HEADS
    has_photographs: bool = False
    skipped: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    portable: bool = False

    def __post_init__(self) -> None:
        for name in self.frames["frame"]:
            if name in ("", ".", "..") or set(name) & {"/", "\\", "\0"}:
                raise HDEDError(f"frame {name!r}: the name cannot be a folder name; rename it")

    def __iter__(self) -> Iterator[RawFrame]:
        return map(self.read, range(len(self.frames)))

    def subset(self, count: int | None) -> "RawFrames":
        """Return a dataset of `count` evenly spaced frames of each split; None keeps all."""
        if count is None:
            return self
        keep: list[int] = []
        for _, rows in self.frames.groupby("split", sort=False):
            positions = rows.index.to_list()
            step = max(1.0, len(positions) / count)
            keep += [positions[int(i * step)] for i in range(min(count, len(positions)))]
        keep.sort()
        read = self.read  # not `self`, which would be copied with it
        return replace(
            self,
            frames=self.frames.loc[keep].reset_index(drop=True),
            read=lambda i: read(keep[i]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A dataset that has official files.

    name: as in params.yaml. files: names of the official files. open(folder, stack): open the files
    in `folder`; open files are registered with `stack`, which closes them.
    """

    name: str
    files: tuple[str, ...]
    open: Callable[[Path, ExitStack], RawFrames]
