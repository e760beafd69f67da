"""Frames in blocks, each done by itself: on this machine, or on the workers of a Dask cluster.

A block's results are kept in a file of its own until the stage is done. A run that was stopped,
here or on the cluster, goes on with the blocks that are missing.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

import pandas as pd
import torch

from hded.common.errors import HDEDError
from hded.common.files import write_text
from hded.common.progress import progress
from hded.common.threads import ahead, limit_threads, may_share, one_thread
from hded.store import Arrays, create_store, finish_store, shard_files, write_shard
from pipeline.lib import fingerprint, stage

UNFINISHED = Path("data/unfinished")  # <stage and cell>/<key>/: blocks of a stage that is not done
PLAN = "shards.json"  # beside the blocks' results, as long as the shards are there
AT_ONCE = 2  # shards in memory: one is written while the next is computed
ARRIVAL_S = 20  # until a file of another machine is visible

Result = dict[str, Any]  # of one frame, as JSON has it
Update = Callable[[int], Any]  # is called with a number of frames that are done
Watch = Callable[[int], None]  # is called with each frame before the work on it


@dataclass(frozen=True, slots=True)
class Block:
    """Frames that are done together, by `threads` threads; `watch` follows them."""

    frames: range
    threads: int
    watch: Watch


Work = Callable[[Block], list[Result]]  # returns the result of each of the block's frames


@dataclass(frozen=True, slots=True)
class Task:
    """The work of a stage on its frames, block by block.

    name: as a progress bar shows it; names: of all frames; at_once: how many blocks this machine
    may do at the same time; portable: whether `work` may be copied to another process;
    same_threads: whether its results depend on the number of threads, which is then the same
    everywhere.
    """

    name: str
    work: Work
    blocks: Sequence[range]
    names: Sequence[str]
    at_once: int = 1
    portable: bool = True
    same_threads: bool = False


def run_task(task: Task, folder: Path, scheduler: str | None = None) -> list[Result]:
    """Return the results of all frames, in order; blocks whose results are in `folder` are done.

    scheduler: the address of a Dask scheduler; None does the work on this machine. Raises the first
    error of a block; the other blocks' results stay.
    """
    todo = [block for block in task.blocks if not result_path(folder, block).is_file()]
    total = sum(map(len, task.blocks))
    bar = progress(total=total, initial=total - sum(map(len, todo)), desc=task.name, unit="frame")
    with bar:
        if todo and scheduler and not _stays_here(task):
            from pipeline.lib.cluster import run_on_cluster

            run_on_cluster(task, todo, folder, scheduler, bar.update)
        elif todo:
            _run_here(task, todo, folder, bar.update)
    results: list[Result] = []
    for block in task.blocks:
        results += json.loads(result_path(folder, block).read_bytes())
    return results


def _stays_here(task: Task) -> bool:
    """Return whether a task cannot be given to workers, and say why."""
    if Path.cwd() != stage.project_root():  # where no worker looks
        print("HDED_DASK: not used by an experiment in a temporary folder", file=sys.stderr)
        return True
    if not task.portable:
        print(
            f"HDED_DASK: not used by {task.name}, which reads its files in order", file=sys.stderr
        )
    return not task.portable


def result_path(folder: Path, block: range) -> Path:
    """Return the file of a block's results."""
    return folder / f"{block.start:07d}.json"


def do_block(work: Work, block: Block) -> str:
    """Do a block and return its results as JSON, the same text wherever it was computed."""
    return json.dumps(work(block), default=lambda value: value.item())  # NumPy's numbers


def keep(results: str, block: range, folder: Path) -> None:
    """Keep a block's results: it is done. This process alone says so."""
    write_text(result_path(folder, block), results)


def wait_for_files(folder: Path, files: Mapping[str, int]) -> None:
    """Wait until this machine sees what another one wrote, of these sizes [bytes].

    Network file systems list new files late. Raises HDEDError after a while.
    """
    end = time.monotonic() + ARRIVAL_S
    for name, size in files.items():
        path = folder / name
        while not (path.is_file() and path.stat().st_size == size):
            if time.monotonic() > end:
                raise HDEDError(
                    f"{path}: a worker wrote {size} bytes, which this machine does not see; all "
                    "machines must share the project's folder"
                )
            os.listdir(path.parent if path.parent.is_dir() else folder)  # has the list read again
            time.sleep(0.2)


def _run_here(task: Task, todo: Sequence[range], folder: Path, update: Update) -> None:
    limit_threads()
    cores = torch.get_num_threads()
    if not may_share():
        cores = 1
    at_once = min(task.at_once, len(todo), cores)
    stop, lock = Event(), Lock()

    def watch(_: int) -> None:
        if stop.is_set():
            raise InterruptedError
        with lock:
            update(1)

    def do(frames: range) -> None:
        keep(do_block(task.work, Block(frames, cores // at_once, watch)), frames, folder)

    if at_once == 1:
        for frames in todo:
            do(frames)
        return
    with ThreadPoolExecutor(at_once, initializer=one_thread) as pool:
        futures = [pool.submit(do, frames) for frames in todo]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def unfinished(name: str, depends_on: Mapping[str, Any], data: Sequence[Path]) -> Iterator[Path]:
    """Yield the folder of a stage's unfinished work; it is deleted when the stage is done.

    name: of the stage and its cell. depends_on, data: the settings and the files that determine the
    work; it is begun anew where they, or the code, are others than before.
    """
    root = UNFINISHED / name
    key = fingerprint.of_work(depends_on, data)
    for other in root.glob("*") if root.is_dir() else ():
        if other.name != key:
            (other / PLAN).unlink(missing_ok=True)
            shutil.rmtree(other, ignore_errors=True)
    folder = root / key
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(root, ignore_errors=True)
    for parent in Path(name).parents:
        with suppress(OSError):  # where another cell of the stage is unfinished
            (UNFINISHED / parent).rmdir()


@dataclass(frozen=True, slots=True)
class _Shard:
    """Work that computes the records of a shard of a store, and writes it."""

    folder: Path
    names: Sequence[str]
    record: Callable[[int], tuple[Mapping[str, Any], Result]]

    def __call__(self, block: Block) -> list[Result]:
        facts: list[Result] = []

        def one(index: int) -> tuple[Mapping[str, Any], Result]:
            block.watch(index)
            return self.record(index)

        def records() -> Iterator[Mapping[str, Any]]:
            found = map(one, block.frames)
            if block.threads > 1:
                found = ahead(one, block.frames, block.threads, block.threads, one_thread)
            for record, fact in found:
                facts.append(fact)
                yield record

        columns = write_shard(self.folder, block.frames, records(), self.names)
        results = [
            {"columns": column, "facts": fact} for column, fact in zip(columns, facts, strict=True)
        ]
        results[0]["files"] = shard_files(self.folder, block.frames)
        return results


@dataclass(frozen=True, slots=True)
class StoreTask:
    """A store to be written, shard by shard.

    frames, arrays, attributes: as for `hded.store.write_store`; record(i): frame i's record, and
    further facts about it, as JSON has them; check: is given the facts of all frames before the
    store is finished, and raises HDEDError where it must not be; portable: see `Task`.
    """

    name: str
    frames: pd.DataFrame
    arrays: Arrays
    record: Callable[[int], tuple[Mapping[str, Any], Result]]
    attributes: Mapping[str, Any]
    check: Callable[[list[Result]], None] | None = None
    portable: bool = True

    def write(self, out: Path, folder: Path, scheduler: str | None) -> list[Result]:
        """Write the store to `out` by way of `folder`, and return the facts of all frames."""
        draft, plan = folder / "store", folder / PLAN
        if not (plan.is_file() and draft.is_dir()):
            for old in (*folder.glob("*.json"), *folder.glob("*.started")):
                old.unlink()  # results without their shards
            shards = create_store(draft, len(self.frames), self.arrays)
            write_text(plan, json.dumps([[shard.start, shard.stop] for shard in shards]))
        blocks = [range(*ends) for ends in json.loads(plan.read_bytes())]
        names = self.frames["frame"].tolist()
        work = _Shard(draft, names, self.record)
        task = Task(self.name, work, blocks, names, AT_ONCE, self.portable)
        results = run_task(task, folder, scheduler)
        facts = [result["facts"] for result in results]
        if self.check is not None:
            self.check(facts)
        for result in results:
            wait_for_files(draft, result.get("files", {}))
        finish_store(draft, self.frames, [r["columns"] for r in results], self.attributes)
        if out.exists():
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        plan.unlink()  # from here on the shards are no longer there
        shutil.move(draft, out)  # they may lie on different disks
        return facts
