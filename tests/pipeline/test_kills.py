"""SIGKILL at any moment of any stage: run again, and nothing is other than if it had not been."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
from support.clones import Clone, stages_run

from hded.common.errors import HDEDError
from hded.common.files import is_hidden
from hded.network.files import NAME, read_network
from hded.store import open_store

KILLS = 5  # of each stage
STAGES = (
    "inputs", "download@nyu", "convert@nyu", "defocus@nyu-paper", "renderings@nyu",
    "train@nyu-full-0", "evaluate@nyu-full-0", "report",
)  # fmt: skip
STORES = ("data/frames/nyu", "data/defocused/nyu/paper")
PLACES = (
    "data/sample", "data/raw", "data/frames", "data/defocused", "data/renderings", "data/trained",
    "data/evaluated", "reports",
)  # fmt: skip
# what a stage leaves that says when and in which run, beside what was found
OF_THE_RUN = {"run.json", "history.csv", NAME, "index.html", "nyu-full-0.csv"}


def make(root: Path) -> Clone:
    clone = Clone(root)
    clone.change({"run.datasets": ["nyu"], "train.checkpoint_minutes": 0.0, "train.epochs": 30})
    return clone


def digests(clone: Clone) -> dict[str, str]:
    """Every file that the chain leaves, but for what tells of the run itself."""
    found = {}
    for place in PLACES:
        for path in sorted((clone.root / place).rglob("*")):
            if path.is_file() and not is_hidden(path.name) and path.name not in OF_THE_RUN:
                name = path.relative_to(clone.root).as_posix()
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def history(clone: Clone) -> pd.DataFrame:
    table = pd.read_csv(clone.root / "data/trained/nyu/full/0/history.csv")
    return table.drop(columns=["seconds", "samples_per_s", "data_share"])


def state(clone: Clone) -> dict[str, torch.Tensor]:
    return read_network(clone.root / "data/trained/nyu/full/0" / NAME)[1]


def start(clone: Clone, stage: str) -> subprocess.Popen[bytes]:
    """Run one stage anew, whatever is there, in a process group of its own."""
    mend(clone)
    if stage.startswith("train"):
        for finished in (clone.root / "data/checkpoints").rglob("finished.pt"):
            finished.unlink()  # a fit that is done would not be done again
    return subprocess.Popen(
        ["dvc", "repro", "--single-item", "--force", "--no-run-cache", stage],
        cwd=clone.root,
        env=clone.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def mend(clone: Clone) -> None:
    """What `make repro` does before `dvc repro`: a kill may have cut dvc.lock short."""
    clone.run(sys.executable, "-m", "pipeline.lock")


def check_stores(clone: Clone, expected: dict[str, str]) -> int:
    """A store that opens is whole: it has the bytes of the undisturbed one. Count those that do."""
    whole = 0
    for place in STORES:
        try:
            open_store(clone.root / place)
        except HDEDError:
            continue
        whole += 1
        found = {name: digest for name, digest in digests(clone).items() if name.startswith(place)}
        assert found == {n: digest for n, digest in expected.items() if n.startswith(place)}
    return whole


@pytest.mark.slow
def test_kills_in_every_stage_change_no_byte(tmp_path: Path) -> None:
    calm = make(tmp_path / "calm" / "hded")
    seconds = {}
    for stage in STAGES:
        begun = time.monotonic()
        assert start(calm, stage).wait() == 0
        seconds[stage] = time.monotonic() - begun
    expected = digests(calm)
    assert len(expected) > 30

    harried = make(tmp_path / "harried" / "hded")
    rng = random.Random(0)
    for stage in STAGES:
        killed = 0
        while killed < KILLS:  # one that came too late does not count
            process, begun = start(harried, stage), time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.1, 1.0) * seconds[stage])
                seconds[stage] = time.monotonic() - begun
            killed += process.poll() is None
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() in (0, -signal.SIGKILL)  # not one that refuses to begin
            check_stores(harried, expected)
        # it goes on as a user would let it, without force
        mend(harried)
        harried.run("dvc", "repro", "--single-item", stage)
    harried.run("dvc", "repro")
    assert check_stores(harried, expected) == len(STORES)
    assert digests(harried) == expected
    pd.testing.assert_frame_equal(history(harried), history(calm), check_exact=True)
    for name, tensor in state(calm).items():
        assert torch.equal(tensor, state(harried)[name]), name
    assert stages_run(harried.run("dvc", "repro").stdout) == set()
