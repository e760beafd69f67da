"""A stage's frames in blocks: what is done stays done, whoever does them."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.dask import cluster
from support.imports import ROOT
from support.servers import free_port

from hded.common.errors import HDEDError
from hded.store import create_store, open_store, shard_files, write_shard, write_store
from pipeline.lib import blocks, fingerprint
from pipeline.lib.blocks import Block, StoreTask, Task, run_task, unfinished, wait_for_files

BLOCKS = [range(0, 4), range(4, 8), range(8, 10)]
NAMES = [f"f{i}" for i in range(10)]
ARRAYS = {"depth": ((3, 4), np.float32)}


def counting(done: list[int], broken: int | None = None) -> Callable[[Block], list[dict[str, Any]]]:
    """Work that notes each frame; one of them may be broken."""

    def work(block: Block) -> list[dict[str, Any]]:
        found = []
        for index in block.frames:
            block.watch(index)
            if index == broken:
                raise HDEDError(f"frame {index} is broken")
            done.append(index)
            found.append({"square": np.float32(index) ** 2, "what": float("nan")})
        return found

    return work


@pytest.mark.parametrize("at_once", [1, 2])
def test_blocks_that_are_done_are_not_done_again(tmp_path: Path, at_once: int) -> None:
    done: list[int] = []
    task = Task("squares", counting(done, broken=9), BLOCKS, NAMES, at_once)
    with pytest.raises(HDEDError, match="frame 9 is broken"):
        run_task(task, tmp_path)
    kept = {file.name for file in tmp_path.glob("*.json")}
    assert kept <= {"0000000.json", "0000004.json"} and (at_once > 1 or len(kept) == 2)
    done.clear()
    found = run_task(Task("squares", counting(done), BLOCKS, NAMES, at_once), tmp_path)
    assert [result["square"] for result in found] == [i**2 for i in range(10)]
    assert all(np.isnan(result["what"]) for result in found)
    missing = [i for block in BLOCKS if f"{block.start:07d}.json" not in kept for i in block]
    assert sorted(done) == missing


def record(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    depth = np.full((3, 4), index, np.float32)
    return {"depth": depth, "mean": float(index) / 3}, {"pixels": 12}


def frames() -> pd.DataFrame:
    return pd.DataFrame({"frame": NAMES, "split": "train", "scene": ""})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_store_in_blocks_is_the_store_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hded.store.SHARD_FRAMES", 3)
    write_store(tmp_path / "whole", frames(), ARRAYS, (record(i)[0] for i in range(10)), {"a": 1})

    def breaks(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        if index == 7:
            raise HDEDError("frame 7 is broken")
        return record(index)

    draft, out = tmp_path / "draft", tmp_path / "stores/parts"
    draft.mkdir()
    with pytest.raises(HDEDError, match="frame 7 is broken"):
        StoreTask("store", frames(), ARRAYS, breaks, {"a": 1}).write(out, draft, None)
    assert not out.exists() and list(draft.glob("0*.json"))
    # a worker that was killed while it wrote a shard leaves this
    (draft / "store/arrays.zarr/depth/c.0123.partial").write_bytes(b"half")
    with pytest.raises(HDEDError, match="not this one"):
        StoreTask("store", frames(), ARRAYS, record, {"a": 1}, check=refuse).write(out, draft, None)
    assert not out.exists()
    # results whose shards are gone, as after a move that was cut short
    shutil.rmtree(draft / "store")
    facts = StoreTask("store", frames(), ARRAYS, record, {"a": 1}).write(out, draft, None)
    assert facts == [{"pixels": 12}] * 10
    assert contents(out) == contents(tmp_path / "whole")
    assert open_store(out).read("depth", 7)[0, 0] == 7


def refuse(facts: list[dict[str, Any]]) -> None:
    assert len(facts) == 10
    raise HDEDError("not this one")


def test_unfinished_work_is_kept_for_the_same_settings_files_and_code_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data.csv"
    data.write_text("1")

    def stop(settings: dict[str, int]) -> tuple[Path, bool]:
        with pytest.raises(HDEDError), unfinished("defocus/nyu/paper", settings, [data]) as folder:
            before = (folder / "0000000.json").exists()
            (folder / "0000000.json").write_text("[]")
            raise HDEDError("stopped")
        return folder, before

    first, _ = stop({"seed": 0})
    assert stop({"seed": 0}) == (first, True)
    second, before = stop({"seed": 1})
    assert not before and not first.exists()
    os.utime(data, ns=(1, 1))
    third, before = stop({"seed": 1})
    assert not before and not second.exists()
    monkeypatch.setattr(fingerprint, "of_code", lambda: "other code")
    with unfinished("defocus/nyu/paper", {"seed": 1}, [data]) as folder:
        assert not third.exists() and folder.is_dir()
    assert not blocks.UNFINISHED.exists()


@pytest.mark.parametrize("cores", [2, 4])
def test_threads_write_the_same_store_and_work_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    """Two shards at once, of each of which as many frames at once as there are cores for it."""
    monkeypatch.setattr("hded.store.SHARD_FRAMES", 3)
    write_store(tmp_path / "whole", frames(), ARRAYS, (record(i)[0] for i in range(10)), {})
    monkeypatch.setattr(blocks.torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(blocks, "limit_threads", lambda: None)
    monkeypatch.setattr(blocks, "may_share", lambda: True)
    together = Barrier(cores)

    def waits(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        if index in (0, 1, 3, 4) if cores == 4 else index in (0, 3):
            together.wait(30)  # breaks unless so many are computed at the same time
        return record(index)

    draft, out = tmp_path / "draft", tmp_path / "out"
    draft.mkdir()
    facts = StoreTask("store", frames(), ARRAYS, waits, {}).write(out, draft, None)
    assert facts == [{"pixels": 12}] * 10
    assert contents(out) == contents(tmp_path / "whole")


def test_a_broken_frame_stops_the_other_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(blocks, "limit_threads", lambda: None)
    monkeypatch.setattr(blocks, "may_share", lambda: True)
    begun = Event()

    def work(block: Block) -> list[dict[str, Any]]:
        if block.frames.start == 0:
            begun.wait(60)
            raise HDEDError("frame 0 is broken")
        begun.set()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            block.watch(block.frames.start)  # raises once the work is to stop
            time.sleep(0.01)
        return [{}] * len(block.frames)

    start = time.monotonic()
    with pytest.raises(HDEDError, match="frame 0 is broken"):
        run_task(Task("squares", work, BLOCKS, NAMES, 2), tmp_path)
    assert time.monotonic() - start < 50 and not list(tmp_path.glob("*.json"))


def test_what_a_worker_wrote_must_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def writes() -> None:
        time.sleep(0.5)
        (tmp_path / "late").write_bytes(b"12345")

    thread = Thread(target=writes)
    thread.start()
    wait_for_files(tmp_path, {"late": 5})
    thread.join()
    monkeypatch.setattr(blocks, "ARRIVAL_S", 0.1)
    for name in ("late", "a/never"):
        with pytest.raises(HDEDError, match=f"{name}: a worker wrote 6 bytes.*share"):
            wait_for_files(tmp_path, {name: 6})


def test_the_files_of_a_shard_are_those_that_it_wrote(tmp_path: Path) -> None:
    before: dict[str, bytes] = {}
    shards = create_store(tmp_path, 130, ARRAYS)
    for shard in shards:
        write_shard(tmp_path, shard, (record(i)[0] for i in shard), [*map(str, range(130))])
        new = {name: each for name, each in contents(tmp_path).items() if name not in before}
        assert shard_files(tmp_path, shard) == {n: len(c) for n, c in new.items() if "/c/" in n}
        assert len(shard_files(tmp_path, shard)) == 1
        before = contents(tmp_path)


def test_a_worker_writes_the_same_store(tmp_path: Path) -> None:
    write_store(tmp_path / "whole", frames(), ARRAYS, (record(i)[0] for i in range(10)), {})
    draft, out = tmp_path / "draft", tmp_path / "out"
    draft.mkdir()

    def by_value(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"depth": np.full((3, 4), index, np.float32), "mean": float(index) / 3}, {"of": 1}

    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with cluster(tmp_path, {**os.environ, "PATH": programs}) as dask:
        dask.worker("--no-nanny", path=ROOT)
        task = StoreTask("store", frames(), ARRAYS, by_value, {})
        facts = task.write(out, draft, dask.address)
    assert facts == [{"of": 1}] * 10
    assert contents(out) == contents(tmp_path / "whole")


def test_a_scheduler_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("squares", counting([]), BLOCKS, NAMES)
    monkeypatch.setattr("pipeline.lib.cluster.CONNECT_S", 1)
    with pytest.raises(HDEDError, match=r"no Dask scheduler answers at tcp://127.*unset HDED_DASK"):
        run_task(task, tmp_path, f"tcp://127.0.0.1:{free_port()}")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(HDEDError, match="with its extra `cluster`"):
        run_task(task, tmp_path, "tcp://127.0.0.1:1")
    # what cannot be copied to another process is done here
    here = Task("squares", counting([]), BLOCKS, NAMES, portable=False)
    assert len(run_task(here, tmp_path, "tcp://127.0.0.1:1")) == 10
