"""Stage `convert`: raw files -> a store of all-in-focus images and depth, data/frames/<dataset>.

python -m pipeline.convert --dataset nyu
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from hded.common.errors import HDEDError
from hded.config.params import load_params
from hded.config.schema import Download
from hded.datasets import DATASETS, RawFrame, RawFrames
from hded.datasets.folder import open_folder
from pipeline.lib import raw as raw_files
from pipeline.lib import stage
from pipeline.lib.blocks import Result, StoreTask, unfinished


def main() -> None:
    """Run the stage."""
    args = stage.parser(__doc__, "dataset", scheduler=True).parse_args()
    dataset = args.dataset
    params = load_params(stage.PARAMS)
    entry = params.source(dataset)
    folder = raw_files.provide(dataset, entry)
    settings = {"download": entry.model_dump(), "convert": params.convert.model_dump()}
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
        attributes = {
            "dataset": dataset,
            "format": raw.format,
            "source": raw_files.source_kind(dataset, entry),
            "size": list(raw.size),
            "image_width_px": raw.image_width_px,
            "max_depth_m": raw.max_depth_m,
            "truths": list(raw.truths),
            "skipped": raw.skipped,
        }
        task = StoreTask(
            f"convert {dataset}", raw.frames, arrays, partial(_record, raw.read), attributes,
            check=partial(_check, dataset, raw), portable=raw.portable,
        )  # fmt: skip
        files = raw_files.files(dataset, entry, folder)
        with unfinished(f"convert/{dataset}", settings, files) as draft:
            facts = task.write(stage.FRAMES / dataset, draft, args.scheduler)
        print(_describe(dataset, raw, facts))


def _record(read: Callable[[int], RawFrame], index: int) -> tuple[RawFrame, Result]:
    """Return a frame's arrays, and what is known of its depth."""
    frame = read(index)
    depth = frame["depth"]
    valid = depth[depth > 0]
    range_m = [float(valid.min()), float(valid.max())] if valid.size else []
    return frame, {"known": valid.size, "range_m": range_m, "notes": list(frame.notes)}


def _check(dataset: str, raw: RawFrames, facts: Sequence[Result]) -> None:
    """Raise HDEDError where a split has no valid depth: nothing could be trained or measured."""
    for split in _needed(raw) if "depth" in raw.truths else ():
        here = raw.frames["split"] == split
        if not any(fact["known"] for fact, used in zip(facts, here, strict=True) if used):
            notes = "".join(f"; {line}" for line in _notes(raw, facts))
            raise HDEDError(
                f"{dataset}: no {split} frame has a pixel of valid depth, above 0 "
                f"and up to {raw.max_depth_m:g} m{notes}; check the depth files and "
                f"their unit (download.{dataset})"
            )


def _describe(dataset: str, raw: RawFrames, facts: Sequence[Result]) -> str:
    """Return a line about the frames that were converted."""
    frames, (height, width) = raw.frames, raw.size
    counts = Counter(frames["split"])
    share = sum(fact["known"] for fact in facts) / (len(frames) * height * width)
    ends = [end for fact in facts for end in fact["range_m"]]
    known = f"depth known in {share:.1%} of the pixels"
    known += f", {min(ends):.3g} to {max(ends):.3g} m" if ends else ""
    parts = [
        f"{len(frames)} frames of {height}x{width}, {counts['train']} train and "
        f"{counts['test']} test",
        known if share else "no depth",
        *_notes(raw, facts),
    ]
    return f"{dataset}: {'; '.join(parts)}"


def _notes(raw: RawFrames, facts: Sequence[Result]) -> list[str]:
    counts = raw.notes + Counter(note for fact in facts for note in fact["notes"])
    return [f"{count} {note}" for note, count in sorted(counts.items())]


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


if __name__ == "__main__":
    # by its name: workers import what is sent to them
    from pipeline import convert as by_name

    stage.run(by_name.main)
