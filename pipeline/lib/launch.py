"""Running a stage on several devices, and stopping it without losing work."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from hded.common.errors import HDEDError
from hded.common.threads import limit_threads
from hded.training.distributed import Group
from pipeline.lib.device import resolve_device

RANK = "LOCAL_RANK"  # set by torchrun only; some schedulers also set WORLD_SIZE


def relaunch_on_devices(devices: int, module: str) -> None:
    """Run this process `devices` times by torchrun, unless in such a process; exit as they do."""
    if devices > 1 and RANK not in os.environ:
        _torchrun(devices, module)
    started = int(os.environ["WORLD_SIZE"]) if RANK in os.environ else 1
    if started != devices:
        raise HDEDError(
            f"train.devices is {devices}, but torchrun started {started} processes; make them equal"
        )


def _torchrun(devices: int, module: str) -> NoReturn:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # the processes share the cores; without a number torchrun sets one thread and warns
    threads = max(1, torch.get_num_threads() // devices)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    options = ["--standalone", f"--nproc-per-node={devices}", "-m", module]
    # the processes print their own errors
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(parse_args([*options, *sys.argv[1:]]))
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        sys.exit(status if status > 0 else 128 - status)  # killed by a signal: a shell's status
    except SignalException as error:
        sys.exit(128 + int(error.sigval))
    sys.exit(0)


@contextmanager
def group(name: str) -> Iterator[tuple[Group, torch.device]]:
    """Yield this process's group and its device, for the value `name` of `train.device`."""
    name = resolve_device(name, "train.device")
    limit_threads()
    if RANK not in os.environ:
        yield Group(), torch.device(name)
        return
    rank = int(os.environ[RANK])
    if name == "cuda" and rank >= torch.cuda.device_count():
        raise HDEDError(
            f"train.devices: process {rank + 1} has no GPU, there are only "
            f"{torch.cuda.device_count()}; lower train.devices"
        )
    if name == "cuda":
        torch.cuda.set_device(rank)
    # gloo as well as nccl: flags, sums and random states are on the host
    dist.init_process_group("cpu:gloo,cuda:nccl" if name == "cuda" else "gloo")
    try:
        yield (
            Group(dist.get_rank(), dist.get_world_size()),
            torch.device(name, rank) if name == "cuda" else torch.device(name),
        )
    finally:
        dist.destroy_process_group()


@contextmanager
def graceful_shutdown() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether to stop: after the first Ctrl-C or SIGTERM.

    A second Ctrl-C interrupts at once. torchrun passes Ctrl-C on as SIGTERM, which does not count
    as a second one. Processes whose torchrun was killed stop, too.
    """
    seen: list[int] = []
    parent = os.getppid() if RANK in os.environ else None

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen) or (parent is not None and os.getppid() != parent)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
