"""What a stage holds does not grow with the number of frames: trebled, its peak stays."""

import pytest
from support.clones import Clone
from support.own import own_clone, write_pictures

from pipeline.benchmark.stages import run_measured

FEW, MANY = 70, 210  # of each split, both more than a store's shard, which is written as a whole
SIZE = (427, 561)
FRAME_MB = SIZE[0] * SIZE[1] * (3 + 4) / 1e6  # a scene's image and depth
CELL = ("--dataset", "own", "--variant", "full", "--seed", "0")
CELLS = {
    "convert": CELL[:2],
    "defocus": (*CELL[:2], "--camera", "paper"),
    "train": CELL,
    "evaluate": CELL,
    "report": (),
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    root = tmp_path_factory.mktemp("memory")
    write_pictures(root / "own", 2 * MANY, SIZE)
    for split, first in (("train", 0), ("test", MANY)):
        names = "".join(f"{i:04d}\n" for i in range(first, first + MANY))
        (root / "own" / f"{split}.txt").write_text(names)
    clone = own_clone(root / "hded", str(root / "own"))
    clone.change({"train.memory": "stream"})
    clone.run("dvc", "repro", "download@own")
    return clone


def peaks_mb(clone: Clone, frames: int) -> dict[str, float]:
    """The largest resident memory of each stage with so many frames of each split."""
    clone.change({"convert.subset": frames})
    return {
        name: run_measured(clone.root, "-m", f"pipeline.{name}", *cell)[1]
        for name, cell in CELLS.items()
    }


@pytest.mark.slow
def test_the_peak_of_each_stage_does_not_grow_with_the_frames(clone: Clone) -> None:
    few, many = peaks_mb(clone, FEW), peaks_mb(clone, MANY)
    held_mb = (MANY - FEW) * FRAME_MB  # 230 MB, were the frames of one split held
    for name, peak in many.items():
        assert peak - few[name] < 0.2 * held_mb, (name, few[name], peak)
