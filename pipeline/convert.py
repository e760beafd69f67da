"""Stage `convert`: raw files -> a store of all-in-focus images and depth, data/frames/<dataset>.

python -m pipeline.convert --dataset nyu
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.config.params import load_params
from hded.config.schema import Download
from hded.datasets import DATASETS, RawFrames
from hded.datasets.folder import open_folder
from hded.store import write_store
from pipeline.lib import raw as raw_files
from pipeline.lib import stage


def main() -> None:
    """Run the stage."""
    dataset = stage.parser(__doc__, "dataset").parse_args().dataset
    params = load_params(stage.PARAMS)
    entry = params.source(dataset)
    folder = raw_files.provide(dataset, entry)
    with ExitStack() as stack:
        raw = _open(dataset, entry, folder, stack).subset(params.convert.subset)
        for split in _needed(raw):
            if split not in set(raw.frames["split"]):
                raise HDEDError(f"{folder}: no {split} frame; both splits are needed")
        for line in raw.skipped:
            print(f"skipped {line}")
        arrays = {"rgb": ((*raw.size, 3), np.uint8), "depth": (raw.size, np.float32)}
        if raw.has_raw_valid:
            arrays["raw_valid"] = (raw.size, np.bool_)
        if raw.has_photographs:
            arrays["defocused"] = ((*raw.size, 3), np.uint8)
        facts = _Facts(dataset, raw)
        bar = progress(facts, total=len(raw.frames), desc=f"convert {dataset}", unit="frame")
        attributes = {
            "dataset": dataset,
            "format": raw.format,
            "source": _source_kind(entry),
            "size": list(raw.size),
            "image_width_px": raw.image_width_px,
            "max_depth_m": raw.max_depth_m,
            "truths": list(raw.truths),
            "skipped": raw.skipped,
        }
        write_store(stage.FRAMES / dataset, raw.frames, arrays, bar, attributes)
        print(facts)


class _Facts:
    """The records of a dataset, and what is known about them once they have been read.

    Raises HDEDError where a split has no valid depth at all: nothing could be trained or measured.
    """

    def __init__(self, dataset: str, raw: RawFrames) -> None:
        self._dataset, self._raw = dataset, raw
        self._known: Counter[str] = Counter()  # pixels by split
        self._nearest, self._farthest = math.inf, 0.0

    def __iter__(self) -> Iterator[dict[str, NDArray]]:
        for split, record in zip(self._raw.frames["split"], self._raw, strict=True):
            depth = record["depth"]
            if (valid := depth[depth > 0]).size:
                self._known[split] += valid.size
                self._nearest = min(self._nearest, float(valid.min()))
                self._farthest = max(self._farthest, float(valid.max()))
            yield record
        for split in _needed(self._raw) if "depth" in self._raw.truths else ():
            if not self._known[split]:
                notes = "".join(f"; {line}" for line in self._notes())
                raise HDEDError(
                    f"{self._dataset}: no {split} frame has a pixel of valid depth, above 0 "
                    f"and up to {self._raw.max_depth_m:g} m{notes}; check the depth files and "
                    f"their unit (download.{self._dataset})"
                )

    def __str__(self) -> str:
        frames, (height, width) = self._raw.frames, self._raw.size
        counts = Counter(frames["split"])
        share = self._known.total() / (len(frames) * height * width)
        known = f"depth known in {share:.1%} of the pixels, {self._nearest:.3g} to "
        known += f"{self._farthest:.3g} m"
        parts = [
            f"{len(frames)} frames of {height}x{width}, {counts['train']} train and "
            f"{counts['test']} test",
            known if share else "no depth",
            *self._notes(),
        ]
        return f"{self._dataset}: {'; '.join(parts)}"

    def _notes(self) -> list[str]:
        return [f"{count} {note}" for note, count in sorted(self._raw.notes.items())]


def _open(dataset: str, entry: Download, folder: Path, stack: ExitStack) -> RawFrames:
    if entry.source == "folder":
        return open_folder(
            folder,
            depth_unit_m=entry.depth_unit_m,
            max_depth_m=entry.max_depth_m,
            max_residual=entry.max_residual,
        )
    return DATASETS[dataset].open(folder, stack)


def _needed(raw: RawFrames) -> tuple[str, ...]:
    """Return the splits that must have frames: photographs may be there for a test alone."""
    return ("test",) if raw.has_photographs else ("train", "test")


def _source_kind(entry: Download) -> str:
    """Return where the files come from: results on the sample must not pass as the benchmark's."""
    return entry.source if entry.source in ("sample", "official", "folder") else "local"


if __name__ == "__main__":
    stage.run(main)
