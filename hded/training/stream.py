"""Frames that are read from their store as training needs them, ahead of time and by threads.

Threads read and decode whole frames, without torch, whose own threads belong to the network; the
training thread cuts the samples out of them. Which samples there are, and in which order, is
decided elsewhere: reading from the store changes speed and memory alone.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from hded.network.normalize import copy_to_tensor

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 4  # batches that are read before they are asked for
THREADS = max(2, min(8, (os.cpu_count() or 2) // 2))
REMEMBERED = 64  # of depth maps, which a sample needs more than once


class Streamed:
    """An array (N, ...) whose rows are read when they are asked for; indexed as a tensor is.

    `read(i)` returns row i; with `remember` the rows that were read last are kept.
    """

    device = torch.device("cpu")

    def __init__(
        self, read: Callable[[int], NDArray], shape: tuple[int, ...], *, remember: bool = False
    ) -> None:
        self.fetch = lru_cache(REMEMBERED)(read) if remember else read
        self.shape = shape
        self.ready: dict[int, NDArray] = {}  # rows that threads have read

    def __getitem__(self, key: int | slice) -> Tensor:
        if isinstance(key, slice):
            return torch.stack([self[i] for i in range(*key.indices(self.shape[0]))])
        array = self.ready.get(key)
        return copy_to_tensor(self.fetch(key) if array is None else array)


Part = tuple[Streamed, int]  # an array, and one of its rows


def ready(parts: Iterable[tuple[Streamed, int, NDArray]]) -> None:
    """Keep rows that were read, instead of those before."""
    parts = list(parts)
    for array in {id(array): array for array, _, _ in parts}.values():
        array.ready = {}
    for array, row, content in parts:
        array.ready[row] = content


def ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `work` of each item, in their order; threads are at most `AHEAD` items ahead."""
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="read-frames")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
