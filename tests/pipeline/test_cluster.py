"""Frames on a Dask cluster: a real scheduler and workers; the results are those of one machine."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from distributed import Client
from support.clones import Clone
from support.dask import cluster, with_children
from support.own import own_clone, write_pictures
from support.servers import free_port

from hded.network.files import NAME, read_network, save_network

pytestmark = pytest.mark.slow
FRAMES = 320  # five shards
STORES = ("data/frames", "data/defocused")
EVALUATED = "data/evaluated"
# a worker that reads this picture dies as one whose memory ran out
DEADLY = """
import os, signal
from PIL import Image
whole = Image.open
def opened(path, *args, **kwargs):
    if str(path).endswith("rgb/0100.png"):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, *args, **kwargs)
Image.open = opened
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    root = tmp_path_factory.mktemp("cluster")
    write_pictures(root / "own", FRAMES)
    clone = own_clone(root / "hded", str(root / "own"))
    lists = {"train": range(24), "test": range(24, FRAMES)}
    for split, numbers in lists.items():
        (root / "own" / f"{split}.txt").write_text("".join(f"{i:04d}\n" for i in numbers))
    clone.run("dvc", "repro", "evaluate")
    return clone


@pytest.fixture(scope="module")
def expected(clone: Clone) -> dict[str, str]:
    """Return the digests of what one machine writes."""
    return digests(clone)


def digests(clone: Clone, *places: str) -> dict[str, str]:
    return {
        path.relative_to(clone.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in places or STORES
        for path in sorted((clone.root / place).rglob("*"))
        if path.is_file()
    }


CELLS = {
    "convert": [],
    "defocus": ["--camera", "paper"],
    "evaluate": ["--variant", "full", "--seed", "0"],
}


def stage(name: str, address: str | None) -> list[str]:
    where = ["--scheduler", address] if address else []
    return [sys.executable, "-m", f"pipeline.{name}", "--dataset", "own", *CELLS[name], *where]


def begin(clone: Clone, name: str, address: str) -> subprocess.Popen[str]:
    """Start a stage without its earlier results; return once its first shard is written."""
    shutil.rmtree(clone.root / {"convert": STORES[0], "defocus": STORES[1]}[name] / "own")
    run = subprocess.Popen(
        stage(name, address), cwd=clone.root, env=clone.environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not done(clone, name):
        assert run.poll() is None and time.monotonic() < end, run.communicate()
        time.sleep(0.01)
    return run


def done(clone: Clone, name: str) -> list[str]:
    """Return the files of the shards that are written."""
    place = clone.root / "data/unfinished" / name
    return sorted(path.stem for path in place.rglob("0*.json"))


def ends(run: subprocess.Popen[str], *words: str) -> None:
    """A stage that was begun ends with a line that has these words."""
    _, err = run.communicate(timeout=120)
    assert run.returncode == 2 and "Traceback" not in err, err
    assert all(word in err for word in words), err


def fails(clone: Clone, address: str, words: str) -> None:
    """A stage ends with one line, and leaves no store."""
    shutil.rmtree(clone.root / STORES[0] / "own", ignore_errors=True)
    run = clone.run(*stage("convert", address), check=False)
    errors = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert run.returncode == 2 and len(errors) == 1 and words in errors[0], run.stderr
    assert "Traceback" not in run.stderr
    assert not (clone.root / STORES[0] / "own").exists()


def test_stages_write_the_same_bytes_on_two_workers(clone: Clone, expected: dict[str, str]) -> None:
    with cluster(clone.root, clone.environment, 2) as dask:
        for name in ("convert", "defocus"):
            run = begin(clone, name, dask.address)
            out, err = run.communicate(timeout=120)
            assert run.returncode == 0, err
            assert f"on the cluster at {dask.address}" in out + err
    assert digests(clone) == expected
    assert not (clone.root / "data/unfinished").exists()


def test_the_variable_names_a_scheduler_whose_page_is_shown(
    clone: Clone, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with cluster(clone.root, clone.environment, 1, dashboard=port) as dask:
        monkeypatch.setitem(clone.variables, "HDED_DASK", dask.address)
        shutil.rmtree(clone.root / STORES[0] / "own")
        said = clone.run(*stage("convert", None)).stderr
        link = f"http://127.0.0.1:{port}/status"
        assert f"on the cluster at {dask.address}, see {link}" in said
        with urlopen(link) as page:
            assert b"bokeh" in page.read().lower()
    assert digests(clone) == expected


def test_a_nannys_worker_has_the_threads_that_its_user_states(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask alone would make it one; a network is measured with those of the stage."""
    environment = {**clone.environment, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    monkeypatch.setitem(clone.variables, "OMP_NUM_THREADS", "1")
    with cluster(clone.root, environment) as dask, Client(dask.address) as client:
        dask.worker("--memory-limit", "0")
        shutil.rmtree(clone.root / STORES[0] / "own")
        clone.run(*stage("convert", dask.address))
        assert threads(client) == 2
        shutil.rmtree(clone.root / EVALUATED)
        clone.run(*stage("evaluate", dask.address))
        assert threads(client) == 1


def threads(client: Client) -> int:
    """Return the number of torch's threads in the thread of a worker that does its blocks."""
    return client.submit(lambda: __import__("torch").get_num_threads(), pure=False).result()


def test_a_network_is_measured_the_same_on_two_workers(clone: Clone) -> None:
    before = digests(clone, EVALUATED)
    assert before
    shutil.rmtree(clone.root / EVALUATED)
    weights = clone.root / "data/trained/own/full/0" / NAME
    with cluster(clone.root, clone.environment, 2) as dask:
        said = clone.run(*stage("evaluate", dask.address)).stderr
        assert f"on the cluster at {dask.address}" in said
        assert digests(clone, EVALUATED) == before
        # the same workers measure another network as soon as there is one
        content = weights.read_bytes()
        header, state = read_network(weights)
        halved = {name: tensor / 2 for name, tensor in state.items()}
        weights.unlink()  # it may be a link into DVC's cache
        save_network(weights, halved, header)
        clone.run(*stage("evaluate", dask.address))
    other = digests(clone, EVALUATED)
    clone.run(*stage("evaluate", None))
    assert digests(clone, EVALUATED) == other != before
    weights.write_bytes(content)


def test_a_killed_workers_shard_is_written_by_another(
    clone: Clone, expected: dict[str, str]
) -> None:
    with cluster(clone.root, clone.environment, 2) as dask:
        run = begin(clone, "defocus", dask.address)
        with_children(dask.processes[1], signal.SIGKILL)
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
    assert digests(clone) == expected


def test_a_scheduler_need_not_have_the_project(
    clone: Clone, expected: dict[str, str], tmp_path: Path
) -> None:
    for name in ("hded", "pipeline", "torch"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not installed')\n")
    with cluster(clone.root, clone.environment, 1, elsewhere=tmp_path) as dask:
        for name in ("convert", "defocus"):
            _, err = begin(clone, name, dask.address).communicate(timeout=120)
            assert f"on the cluster at {dask.address}" in err
    assert digests(clone) == expected


def test_a_stage_waits_for_another_worker_but_not_for_ever(
    clone: Clone, expected: dict[str, str]
) -> None:
    with cluster(clone.root, clone.environment, 1) as dask:
        run = begin(clone, "defocus", dask.address)
        with_children(dask.processes[1], signal.SIGKILL)
        dask.worker("--no-nanny")
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        assert digests(clone) == expected
        run = begin(clone, "defocus", dask.address)
        with_children(dask.processes[2], signal.SIGKILL)
        before = done(clone, "defocus")
        ends(run, "has no worker")
    assert 0 < len(before) < 5 and done(clone, "defocus") == before
    clone.run(*stage("defocus", None))
    assert digests(clone) == expected


def test_a_lost_scheduler_is_one_line_and_the_next_run_does_what_is_missing(
    clone: Clone, expected: dict[str, str]
) -> None:
    with cluster(clone.root, clone.environment, 1) as dask:
        run = begin(clone, "defocus", dask.address)
        with_children(dask.scheduler, signal.SIGKILL)
        ends(run, "scheduler", "was lost")
    assert not (clone.root / "data/defocused/own").exists()
    before = done(clone, "defocus")
    assert 0 < len(before) < 5
    shown = clone.run(*stage("defocus", None)).stderr
    assert f"{64 * len(before)}/{FRAMES}" in shown  # the bar begins there
    assert digests(clone) == expected


def test_mistakes_are_one_line(clone: Clone, expected: dict[str, str], tmp_path: Path) -> None:
    fails(clone, f"tcp://127.0.0.1:{free_port()}", "no Dask scheduler answers")
    fails(clone, "nonsense", "no Dask scheduler answers")
    with cluster(clone.root, clone.environment) as dask:
        dask.worker("--no-nanny", cwd=tmp_path)
        fails(clone, dask.address, "start it in the project's folder")
    other = tmp_path / "other"
    for package in ("hded", "pipeline"):
        shutil.copytree(clone.root / package, other / package)
    with (other / "hded/store.py").open("a") as file:
        file.write("# changed\n")
    with cluster(clone.root, clone.environment) as dask:
        dask.worker("--no-nanny", path=other)
        fails(clone, dask.address, "another version of hded")
    source = clone.root / "hded/store.py"
    with cluster(clone.root, clone.environment, 1) as dask:
        clone.run(*stage("convert", dask.address))
        # a worker that was started before the change would go on with the old code
        source.write_text(f"{source.read_text()}# changed\n")
        fails(clone, dask.address, "another version of hded")
    source.write_text(source.read_text().removesuffix("# changed\n"))
    clone.run(*stage("convert", None))
    assert digests(clone) == expected


def test_a_worker_that_lacks_the_data_is_named(clone: Clone, tmp_path: Path) -> None:
    """Its folder is another one, which shares the unfinished work alone."""
    (tmp_path / "data").mkdir()
    for name in ("params.yaml", "dvc.yaml", "hded", "pipeline", "data/unfinished"):
        (tmp_path / name).symlink_to(clone.root / name)
    with cluster(clone.root, clone.environment) as dask:
        dask.worker("--no-nanny", cwd=tmp_path)
        shutil.rmtree(clone.root / EVALUATED)
        run = clone.run(*stage("evaluate", dask.address), check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 2 and last.startswith("error: Dask worker tcp://127.0.0.1"), run.stderr
    assert f"in {tmp_path}: data/frames/own" in last and "that all machines share" in last
    clone.run(*stage("evaluate", None))


def test_a_frame_on_which_workers_die_is_named(
    clone: Clone, expected: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    with cluster(clone.root, clone.environment) as dask:
        dask.worker(path=Path(f"{tmp_path}{os.pathsep}{clone.root}"))
        fails(clone, dask.address, "workers died at frame 0100 again and again")
    clone.run(*stage("convert", None))
    assert digests(clone) == expected
