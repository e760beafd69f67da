"""The number of threads that torch and numba compute with, and work done ahead by threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def limit_threads(count: int | None = None) -> None:
    """Make torch and numba use `count` threads; None applies torch's current number to numba.

    Both share one OpenMP runtime. When numba starts its threads, at its first parallel call, it
    sets the runtime's number of threads to NUMBA_NUM_THREADS (by default the number of cores),
    which overrides `torch.set_num_threads`; later calls do not change it. Therefore numba's threads
    are started here first, and torch's number is set afterwards.

    numba's number applies to the calling thread. Other threads of the process use
    NUMBA_NUM_THREADS, which numba reads when it is imported, and which limits `count` for numba.
    """
    import numba
    import torch

    count = torch.get_num_threads() if count is None else count
    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    numba.set_num_threads(min(count, most))
    torch.set_num_threads(count)


def one_thread() -> None:
    """Make numba use the calling thread alone: where several threads compute, each uses a core."""
    import numba

    numba.set_num_threads(1)


def may_share() -> bool:
    """Return whether several threads of this process may use numba's parallel code at once.

    Its own scheduler, which it uses where neither OpenMP nor TBB is installed, ends the process
    then. To be called after `limit_threads`, which starts the scheduler.
    """
    import numba

    return numba.threading_layer() != "workqueue"  # pyright: ignore[reportPrivateImportUsage]


def ahead(
    work: Callable[[T], R],
    items: Iterable[T],
    count: int,
    threads: int,
    start: Callable[[], None] | None = None,
) -> Iterator[R]:
    """Yield `work` of each item, in their order; threads are at most `count` items ahead.

    start: is called by each thread before its first item.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead", initializer=start)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
