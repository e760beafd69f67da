"""Stage `convert`: raw files -> a store of all-in-focus images and depth, data/frames/<dataset>.

python -m pipeline.convert --dataset nyu
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.config.params import load_params
from hded.config.schema import Download
from hded.datasets import DATASETS, RawFrames
from hded.datasets.folder import open_folder
from hded.store import write_store
from pipeline.lib import stage


def main() -> None:
    """Run the stage."""
    dataset = stage.parser(__doc__, "dataset").parse_args().dataset
    params = load_params(stage.PARAMS)
    entry = params.source(dataset)
    with ExitStack() as stack:
        raw = _open(dataset, entry, stage.RAW / dataset, stack).subset(params.convert.subset)
        for split in ("train", "test"):
            if split not in set(raw.frames["split"]):
                raise HDEDError(f"{stage.RAW / dataset}: no {split} frame; both splits are needed")
        for line in raw.skipped:
            print(f"skipped {line}")
        arrays = {"rgb": ((*raw.size, 3), np.uint8), "depth": (raw.size, np.float32)}
        if raw.has_raw_valid:
            arrays["raw_valid"] = (raw.size, np.bool_)
        records = progress(raw, total=len(raw.frames), desc=f"convert {dataset}", unit="frame")
        attributes = {
            "dataset": dataset,
            "format": raw.format,
            "source": _source_kind(entry),
            "size": list(raw.size),
            "image_width_px": raw.image_width_px,
            "max_depth_m": raw.max_depth_m,
            "skipped": raw.skipped,
        }
        write_store(stage.FRAMES / dataset, raw.frames, arrays, records, attributes)


def _open(dataset: str, entry: Download, folder: Path, stack: ExitStack) -> RawFrames:
    if entry.source == "folder":
        return open_folder(folder, depth_unit_m=entry.depth_unit_m, max_depth_m=entry.max_depth_m)
    return DATASETS[dataset].open(folder, stack)


def _source_kind(entry: Download) -> str:
    """Return where the files come from: results on the sample must not pass as the benchmark's."""
    return entry.source if entry.source in ("sample", "official", "folder") else "local"


if __name__ == "__main__":
    stage.run(main)
