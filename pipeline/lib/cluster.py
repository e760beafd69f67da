"""Blocks of frames on the workers of a Dask cluster, which share the project's folder.

Workers are started in that folder, on every machine, with the number of its cores:
`OMP_NUM_THREADS=8 dask worker ADDRESS --nthreads 1 --memory-limit 0`; without that variable Dask
makes it 1. Each block is done by one worker, which writes its part of the store into the shared
folder. A block whose worker died is given to another one, until Dask's `allowed-failures` (3) is
exceeded.
"""

import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn
from urllib.request import urlopen

import torch
from tqdm import tqdm

from hded.common.errors import HDEDError, first_line
from hded.common.files import write_text
from hded.common.threads import limit_threads, may_share
from pipeline.lib import fingerprint
from pipeline.lib.blocks import (
    ARRIVAL_S,
    Block,
    Task,
    Update,
    Work,
    do_block,
    keep,
    result_path,
)

WORK = "work.pickle"  # beside the blocks' results
CONNECT_S, WORKERS_S = 15, 60  # seconds to wait for a scheduler, and for its first worker
DASHBOARD_S = 3  # seconds to wait for the dashboard
STEP_S = 5  # between looks at whether there is a worker
ONE_BLOCK = Lock()  # a block uses all threads of its worker
# as this process loaded it: a worker that was started before a change still has the old code
CODE = fingerprint.of_code()


def run_on_cluster(
    task: Task,
    todo: Sequence[range],
    folder: Path,
    address: str,
    update: Update,
) -> None:
    """Do the blocks `todo` of a task on the workers of the scheduler at `address`.

    folder: of the blocks' results; update: is called with a number of frames that are done.
    Raises HDEDError where no scheduler or no worker answers, where a worker does not share the
    folder or has other code, where the scheduler is lost, and for a block on which workers die.
    """
    try:
        import cloudpickle
        from distributed import Client
    except ImportError as error:
        raise HDEDError(
            "HDED_DASK: Dask is not installed; install the project with its extra `cluster`: "
            "pip install -e '.[cluster]'"
        ) from error
    for name in [*logging.root.manager.loggerDict]:
        # what is lost is told in one line, not by every part that notices
        if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    token = secrets.token_hex(8)
    draft = folder / f"{WORK}.part"
    threads = torch.get_num_threads() if task.same_threads else None
    draft.write_bytes(cloudpickle.dumps((token, task.work, list(task.names), threads)))
    draft.replace(folder / WORK)
    try:
        client = Client(address, timeout=CONNECT_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise HDEDError(
            f"HDED_DASK: no Dask scheduler answers at {address} ({first_line(error)}); start one "
            "by `dask scheduler`, or unset HDED_DASK to use this machine alone"
        ) from error
    with client:
        try:
            _wait_for_worker(client, address)
            where = f"on the cluster at {address}{_dashboard(client)}"
            tqdm.write(f"{task.name}: {where}", file=sys.stderr)
            blocks = {
                client.submit(
                    _begin(), str(folder), frames.start, frames.stop, token, CODE,
                    pure=False, key=f"{task.name}-{frames.start}-{token}",
                ): frames
                for frames in todo
            }  # fmt: skip
            _gather(client, blocks, folder, address, update)
        except BaseException as error:
            _explain(error, task, folder, address)


def _begin() -> Callable[..., str]:
    """Return a function that is sent as its code: a scheduler need not know the project."""

    def begin(*arguments: Any) -> str:
        from pipeline.lib.cluster import do_remotely

        return do_remotely(*arguments)

    return begin


def _wait_for_worker(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKERS_S)
    except TimeoutError as error:
        raise HDEDError(
            f"HDED_DASK: the scheduler at {address} has no worker; start some in this folder, "
            f"on every machine, by `dask worker {address} --nthreads 1 --memory-limit 0`"
        ) from error


def _gather(
    client: Any, blocks: dict[Any, range], folder: Path, address: str, update: Update
) -> None:
    """Keep the results of all blocks as they come; raises HDEDError where no worker is left."""
    from distributed import wait

    while blocks:
        try:
            found: Any = wait(list(blocks), timeout=STEP_S, return_when="FIRST_COMPLETED")
            done = found.done
        except TimeoutError:
            done = set()
        for future in done:
            try:
                results = future.result(timeout=STEP_S)
            except TimeoutError:  # its worker died since: another one does it again
                done = set()
                break
            frames = blocks.pop(future)  # or Dask would do it again when its worker dies
            keep(results, frames, folder)
            update(len(frames))
        if not done and client.status == "running" and not client.scheduler_info()["workers"]:
            _wait_for_worker(client, address)


def _dashboard(client: Any) -> str:
    """Return where a browser shows what the cluster does; nothing where no page answers."""
    try:
        with urlopen(client.dashboard_link, timeout=DASHBOARD_S):
            return f", see {client.dashboard_link}"
    except (OSError, ValueError):
        return ""


def do_remotely(folder: str, start: int, stop: int, token: str, code: str) -> str:
    """Do one block on a worker, and return its results as JSON."""
    from distributed import get_worker

    worker = get_worker()
    where = f"Dask worker {worker.address} in {os.getcwd()}"
    if code != CODE:
        raise HDEDError(
            f"{where}: has another version of hded, Python, or {', '.join(fingerprint.WRITING)}; "
            "install the same on every machine and start the worker again"
        )
    frames = range(start, stop)
    started = result_path(Path(folder), frames).with_suffix(".started")
    with ONE_BLOCK:
        work, names, threads = _find(Path(folder) / WORK, token, where)
        limit_threads(threads or _own_threads())
        again = started.exists()  # a worker died on this block: note each frame before it is read
        started.touch()

        def watch(index: int) -> None:
            if again:
                write_text(started, names[index])

        threads = torch.get_num_threads() if may_share() and not again else 1
        results = do_block(work, Block(frames, threads, watch))
        started.unlink(missing_ok=True)
    return results


def _own_threads() -> int:
    """Return the number of threads that this worker's user states, or else torch's own.

    Dask starts a worker with MKL_NUM_THREADS=1, which torch's number follows.
    """
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdecimal() and int(stated) else torch.get_num_threads()


def _find(path: Path, token: str, where: str) -> tuple[Work, list[str], int | None]:
    """Return this run's work, its frames' names, and the number of threads; None: the worker's own.

    It is looked for again and again for a while: network file systems list new files late.
    """
    end = time.monotonic() + ARRIVAL_S
    while True:
        problem = f"does not see this run's {path}"
        try:
            found, work, names, threads = _load(path, path.stat().st_mtime_ns)
            if found == token:
                return work, names, threads
        except OSError:
            pass
        except HDEDError as error:  # of the files that the work opens
            problem = str(error)
        if time.monotonic() > end:
            raise HDEDError(
                f"{where}: {problem}; start it in the project's folder, on a disk that all "
                "machines share, where they also see the raw files"
            )
        time.sleep(0.5)


@lru_cache(maxsize=1)
def _load(path: Path, mtime_ns: int) -> tuple[str, Work, list[str], int | None]:
    import cloudpickle

    return cloudpickle.loads(path.read_bytes())


def _explain(error: BaseException, task: Task, folder: Path, address: str) -> NoReturn:
    """Raise the error, or a line that explains it."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError, FuturesCancelledError
    from distributed.comm.core import CommClosedError

    if isinstance(error, KilledWorker):
        start = int(str(error.task).rsplit("-", 2)[1])
        frames = next(block for block in task.blocks if block.start == start)
        # Dask may blame a block that only waited for the worker: then another one has the note
        own = result_path(folder, frames).with_suffix(".started")
        started = [own, *folder.glob("*.started")]
        notes = [path.read_text(encoding="utf-8") for path in started if path.is_file()]
        name = next(filter(None, notes), "")
        which = (
            f"frame {name}" if name else f"frames {task.names[start]} to {task.names[frames[-1]]}"
        )
        raise HDEDError(
            f"{task.name}: Dask workers died at {which} again and again; see their logs, give them "
            "more memory or remove the frame, then run again: blocks that are done are kept"
        ) from error
    lost = (CommClosedError, FutureCancelledError, FuturesCancelledError)
    if isinstance(error, lost):
        raise HDEDError(
            f"{task.name}: the Dask scheduler at {address} was lost; start it and its workers, "
            "then run again: blocks that are done are kept"
        ) from error
    if isinstance(error, ModuleNotFoundError):
        raise HDEDError(
            f"{task.name}: a Dask worker cannot import {error.name}; start it in the project's "
            "environment, in its folder"
        ) from error
    raise error
