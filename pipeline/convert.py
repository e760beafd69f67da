"""Stage `convert`: official raw files -> a store of sharp images and depth, data/frames/<dataset>.

python -m pipeline.convert --dataset nyu
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.config.params import load_params
from hded.config.schema import OFFICIAL, Download
from hded.datasets.base import RawFrames
from hded.datasets.folder import open_folder
from hded.datasets.make3d import open_make3d
from hded.datasets.nyu import open_nyu
from hded.store import write_store
from pipeline.lib import stage


def main() -> None:
    """Run the stage."""
    dataset = stage.parser(__doc__, "dataset").parse_args().dataset
    params = load_params(stage.PARAMS)
    entry = params.source(dataset)
    with ExitStack() as stack:
        scenes = _open(dataset, entry, stage.RAW / dataset, stack).subset(params.convert.subset)
        for split in ("train", "test"):
            if not (scenes.frames["split"] == split).any():
                raise HDEDError(f"{stage.RAW / dataset}: no {split} frame; both splits are needed")
        for line in scenes.skipped:
            print(f"skipped {line}")
        arrays = {"rgb": ((*scenes.size, 3), np.uint8), "depth": (scenes.size, np.float32)}
        if scenes.has_raw_valid:
            arrays["raw_valid"] = (scenes.size, np.bool_)
        records = progress(
            scenes, total=len(scenes.frames), desc=f"convert {dataset}", unit="frame"
        )
        attributes = {
            "dataset": dataset,
            "format": scenes.format,
            "source": _source_kind(entry),
            "size": list(scenes.size),
            "image_width_px": scenes.image_width_px,
            "max_depth_m": scenes.max_depth_m,
            "skipped": scenes.skipped,
        }
        write_store(stage.FRAMES / dataset, scenes.frames, arrays, records, attributes)


def _open(dataset: str, entry: Download, folder: Path, stack: ExitStack) -> RawFrames:
    if entry.source == "folder":
        return open_folder(folder, depth_unit_m=entry.depth_unit_m, max_depth_m=entry.max_depth_m)
    return open_nyu(folder, stack) if dataset == OFFICIAL[0] else open_make3d(folder)


def _source_kind(entry: Download) -> str:
    """Name where the files came from: a figure of the sample is no figure of the benchmark."""
    return entry.source if entry.source in ("sample", "official", "folder") else "local"


if __name__ == "__main__":
    stage.run(main)
