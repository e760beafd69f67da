"""What a stage holds does not grow with the number of frames: trebled, its peak stays."""

import pytest
from support.clones import Clone

from pipeline.benchmark.stages import run_measured

FEW, MANY = 70, 210  # both more than a store's shard, which is written as a whole
FRAME_MB = 427 * 561 * (3 + 4) / 1e6  # a scene's image and depth
CELL = ("--dataset", "nyu", "--variant", "full", "--seed", "0")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("memory") / "hded")
    clone.change({"run.datasets": ["nyu"]})
    clone.change({"download.nyu.sample": {"train": 4, "test": MANY, "seed": 1}})
    clone.run("dvc", "repro", "download@nyu")
    return clone


def peaks_mb(clone: Clone, frames: int) -> dict[str, float]:
    """The largest resident memory of each stage with so many test frames."""
    clone.change({"convert.subset": frames})
    cells = {
        "convert": CELL[:2], "defocus": CELL[:2], "train": CELL, "evaluate": CELL, "report": (),
    }  # fmt: skip
    return {
        name: run_measured(clone.root, "-m", f"pipeline.{name}", *cell)[1]
        for name, cell in cells.items()
    }


@pytest.mark.slow
def test_the_peak_of_each_stage_does_not_grow_with_the_frames(clone: Clone) -> None:
    few, many = peaks_mb(clone, FEW), peaks_mb(clone, MANY)
    held_mb = (MANY - FEW) * FRAME_MB  # 230 MB, were the frames held
    for name, peak in many.items():
        assert peak - few[name] < 0.2 * held_mb, (name, few[name], peak)
