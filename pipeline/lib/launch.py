"""Running a stage on several devices, and stopping it without losing work."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from hded.common.errors import HDEDError, first_line
from hded.common.threads import limit_threads
from hded.training.distributed import Group
from pipeline.lib.device import resolve_device

RANK = "LOCAL_RANK"  # set by torchrun only; some schedulers also set WORLD_SIZE
RENDEZVOUS, NODE, SLURM_NODE = "HDED_RENDEZVOUS", "HDED_NODE", "SLURM_NODEID"


def relaunch_on_devices(module: str, devices: int, nodes: int = 1) -> None:
    """Run this process `devices` times by torchrun, unless in such a process; exit as they do.

    nodes: the number of machines that do so, which find each other by the variables of the
    environment above.
    """
    wanted = devices * nodes
    if wanted > 1 and RANK not in os.environ:
        _torchrun(module, devices, _where(nodes))
    started = int(os.environ["WORLD_SIZE"]) if RANK in os.environ else 1
    if started != wanted:
        settings = f"train.devices is {devices}"
        settings += f" and train.nodes {nodes}" if nodes > 1 else ""
        raise HDEDError(f"{settings}, but torchrun started {started} processes; make them equal")


def _where(nodes: int) -> list[str]:
    """Return torchrun's options about the machines that take part."""
    if nodes == 1:
        return ["--standalone"]
    address = os.environ.get(RENDEZVOUS, "")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise HDEDError(
            f"train.nodes is {nodes}, but {RENDEZVOUS} is {address!r}; set it to HOST:PORT, the "
            "first machine's name and a free port, on every machine"
        )
    node = os.environ.get(NODE) or os.environ.get(SLURM_NODE) or "0"
    if not node.isdecimal() or int(node) >= nodes:
        raise HDEDError(
            f"{NODE} is {node!r}, but train.nodes is {nodes}; number the machines 0 to {nodes - 1}"
        )
    machines = [f"--nnodes={nodes}", f"--node-rank={node}"]
    return [*machines, f"--master-addr={host}", f"--master-port={port}"]


def _torchrun(module: str, devices: int, where: Sequence[str]) -> NoReturn:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # the processes share the cores; without a number torchrun sets one thread and warns
    threads = max(1, torch.get_num_threads() // devices)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    options = [*where, f"--nproc-per-node={devices}", "-m", module]
    # the processes print their own errors
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(parse_args([*options, *sys.argv[1:]]))
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        sys.exit(status if status > 0 else 128 - status)  # killed by a signal: a shell's status
    except SignalException as error:
        sys.exit(128 + int(error.sigval))
    except dist.DistError as error:
        raise HDEDError(
            f"{RENDEZVOUS}: the machines did not find each other ({first_line(error)}); start the "
            "stage on all of them, with the first one's address"
        ) from error
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
    try:
        # gloo as well as nccl: flags, sums and random states are on the host
        dist.init_process_group("cpu:gloo,cuda:nccl" if name == "cuda" else "gloo")
        yield (
            Group(dist.get_rank(), dist.get_world_size()),
            torch.device(name, rank) if name == "cuda" else torch.device(name),
        )
    except RuntimeError as error:
        if not _lost_another(error):
            raise
        raise HDEDError(
            f"training: another process was lost ({first_line(error)}); see what it says, then run "
            "again: training goes on from the last checkpoint"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _lost_another(error: RuntimeError) -> bool:
    """Return whether a collective failed because another process has ended."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


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
