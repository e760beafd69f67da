"""Frames that are read from their store as training needs them, ahead of time and by threads.

Threads read and decode whole frames, which takes most of the time; the training thread cuts the
samples out of them. Which samples there are, and in which order, is decided elsewhere: reading from
the store changes speed and memory alone.
"""

import math
import os
from collections.abc import Callable, Iterable
from functools import lru_cache

import torch
from numpy.typing import NDArray
from torch import Tensor

from hded.network.normalize import copy_to_tensor

AHEAD = 4  # batches that are read before they are asked for, as far as memory allows
AHEAD_BYTES, REMEMBERED_BYTES = 512 << 20, 128 << 20
THREADS = max(2, min(8, (os.cpu_count() or 2) // 2))


class Streamed:
    """An array (N, ...) whose rows are read when they are asked for; indexed as a tensor is.

    `read(i)` returns row i; with `remember` the rows that were read last are kept, some 128 MB of
    float32.
    """

    device = torch.device("cpu")

    def __init__(
        self, read: Callable[[int], NDArray], shape: tuple[int, ...], *, remember: bool = False
    ) -> None:
        count = max(2, REMEMBERED_BYTES // max(1, 4 * math.prod(shape[1:])))
        self.fetch = lru_cache(count)(read) if remember else read
        self.shape = shape
        self.ready: dict[int, NDArray] = {}  # rows that threads have read

    def __getitem__(self, key: int | slice) -> Tensor:
        if isinstance(key, slice):
            return torch.stack([self[i] for i in range(*key.indices(self.shape[0]))])
        array = self.ready.get(key)
        return copy_to_tensor(self.fetch(key) if array is None else array)


Part = tuple[Streamed, int]  # an array, and one of its rows


def ready(parts: Iterable[tuple[Streamed, int, NDArray]]) -> None:
    """Hold these rows, in place of those of the last batch."""
    parts = list(parts)
    for array in {id(array): array for array, _, _ in parts}.values():
        array.ready = {}
    for array, row, content in parts:
        array.ready[row] = content


def batches_ahead(batch_bytes: int) -> int:
    """Return how many batches of so many bytes are read before they are asked for."""
    return max(1, min(AHEAD, AHEAD_BYTES // max(1, batch_bytes)))
