"""A disk that is full or read-only, in each stage: one clear line, and nothing lost.

Root ignores permission bits, so the disks are real: small tmpfs and read-only bind mounts, in a
mount namespace of the test's own.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clones import Clone, stages_run

CELL = ("--dataset", "nyu", "--variant", "full", "--seed", "0")
STAGES = {  # command, folders that it writes to
    "download": (("--dataset", "nyu"), ("data/raw",)),
    "convert": (("--dataset", "nyu"), ("data/frames", "data/unfinished")),
    "defocus": (
        ("--dataset", "nyu", "--camera", "paper"),
        ("data/defocused", "reports/defocus"),
    ),
    "renderings": (("--dataset", "nyu"), ("data/renderings",)),
    "train": (CELL, ("data/trained", "data/checkpoints", "mlartifacts")),
    "evaluate": (CELL, ("data/evaluated", "data/unfinished", "reports/metrics", "mlartifacts")),
    "report": ((), ("reports/tables",)),
}
# what a stage may have written before the disk refused; all else must be as it was
OWN = {
    "download": ("data/raw",),
    "convert": ("data/frames/nyu", "data/unfinished/convert"),
    "defocus": (
        "data/defocused/nyu/paper", "data/unfinished/defocus", "reports/defocus/nyu/paper",
        "mlartifacts",
    ),
    "renderings": ("data/renderings/nyu",),
    "train": ("data/trained/nyu/full", "data/checkpoints", "reports/curves", "mlartifacts"),
    "evaluate": (
        "data/evaluated/nyu/full", "data/unfinished/evaluate", "reports/metrics", "reports/errors",
        "mlartifacts",
    ),
    "report": ("reports/tables", "reports/index.html"),
}  # fmt: skip
PLACES = [(stage, place) for stage, (_, places) in STAGES.items() for place in places]
FULL = "mount -t tmpfs -o size=32k tmpfs {0} && {{ cat /dev/zero > {0}/fill 2> /dev/null; true; }}"
READ_ONLY = "mount --bind {0} {0} && mount -o remount,ro,bind {0}"


def may_mount() -> bool:
    try:
        command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not may_mount(), reason="mounting needs root: run the tests as root"),
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = Clone(tmp_path_factory.mktemp("disks") / "hded")
    clone.change({"run.datasets": ["nyu"]})
    clone.run("dvc", "repro")
    yield clone


def digests(clone: Clone) -> dict[str, str]:
    places = ("data", "reports", "mlartifacts")
    files = [p for place in places for p in sorted((clone.root / place).rglob("*")) if p.is_file()]
    return {
        p.relative_to(clone.root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
    }


def run_on(clone: Clone, mount: str, stage: str) -> subprocess.CompletedProcess[str]:
    command = f"{mount} && exec {sys.executable} -m pipeline.{stage} {' '.join(STAGES[stage][0])}"
    return clone.run("unshare", "-m", "sh", "-c", command, check=False)


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    last = done.stderr.rstrip("\n").replace("\r", "\n").split("\n")[-1]
    assert last.startswith("error: "), done.stderr
    assert any(word in last for word in ("space", "disk", "writable", "Read-only", "read-only")), (
        last
    )


@pytest.mark.parametrize(("stage", "place"), PLACES)
@pytest.mark.parametrize("mount", [FULL, READ_ONLY], ids=["full", "read-only"])
def test_a_disk_that_takes_no_more_is_one_line(
    clone: Clone, stage: str, place: str, mount: str
) -> None:
    if stage == "train":  # else the fit is there already, and nothing is to be written
        clone.change({"train.lr": 1e-3 + 1e-5 * PLACES.index((stage, place))})
    (clone.root / place).mkdir(exist_ok=True)
    before = digests(clone)
    check(run_on(clone, mount.format(place), stage))
    after = digests(clone)
    assert {name: after.get(name) for name in before if not name.startswith(OWN[stage])} == {
        name: digest for name, digest in before.items() if not name.startswith(OWN[stage])
    }


def test_a_full_disk_under_mlflows_database_is_one_line(clone: Clone) -> None:
    mount = "mount --bind mlflow.db mlflow.db && mount -o remount,ro,bind mlflow.db"
    before = (clone.root / "mlflow.db").read_bytes()
    check(run_on(clone, mount, "evaluate"))
    assert (clone.root / "mlflow.db").read_bytes() == before


def test_afterwards_everything_goes_on(clone: Clone, tmp_path: Path) -> None:
    clone.run("dvc", "repro")
    assert stages_run(clone.run("dvc", "repro").stdout) == set()
