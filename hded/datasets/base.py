"""What every reader gives: frames one by one, and the facts that later stages need."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pandas as pd
from numpy.typing import NDArray

from hded.common.errors import HDEDError


@dataclass(frozen=True, kw_only=True, slots=True)
class RawFrames:
    """A dataset in its official raw format, opened.

    frames: columns frame (the official id), split (train | test), scene ("" where unknown), in the
    official order. read(i): the i-th frame's arrays by name: `rgb` uint8 (H, W, 3), `depth` float32
    metres (H, W) with 0 for "unknown", and where the format has it `raw_valid` bool (H, W).
    image_width_px: of the uncropped picture, which sets the pixel pitch. skipped: "name: why".
    """

    format: str
    frames: pd.DataFrame
    size: tuple[int, int]
    image_width_px: int
    max_depth_m: float
    has_raw_valid: bool
    read: Callable[[int], dict[str, NDArray]]
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self.frames["frame"]:
            # it becomes a folder's name
            if name in ("", ".", "..") or set(name) & {"/", "\\", "\0"}:
                raise HDEDError(f"frame {name!r} has no name that a folder can have; rename it")

    def __iter__(self) -> Iterator[dict[str, NDArray]]:
        return (self.read(i) for i in range(len(self.frames)))

    def subset(self, count: int | None) -> "RawFrames":
        """Keep `count` frames of each split, evenly spread; None keeps all."""
        if count is None:
            return self
        keep: list[int] = []
        for _, rows in self.frames.groupby("split", sort=False):
            positions = rows.index.to_list()
            step = max(1.0, len(positions) / count)
            keep += [positions[int(i * step)] for i in range(min(count, len(positions)))]
        keep.sort()
        return RawFrames(
            format=self.format,
            frames=self.frames.loc[keep].reset_index(drop=True),
            size=self.size,
            image_width_px=self.image_width_px,
            max_depth_m=self.max_depth_m,
            has_raw_valid=self.has_raw_valid,
            read=lambda i: self.read(keep[i]),
            skipped=self.skipped,
        )
