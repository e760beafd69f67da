"""The losses of an epoch's steps, and the check that they are finite."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hded.common.errors import HDEDError
from hded.training.batch import Batch
from hded.training.distributed import Group


class NotFiniteError(HDEDError):
    """A loss is not finite, in a `step` of its epoch; `batch` holds the tensors that caused it."""

    def __init__(self, message: str, batch: Batch, step: int) -> None:
        super().__init__(message)
        self.batch, self.step = batch, step


class LossLog:
    """Sums of each loss term over an epoch's samples.

    A step's losses are read when the next step's are added, so that a GPU need not be waited for.
    `last` is the total of the last step read; `error` is set at the first loss that is not finite.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.last = math.nan
        self.error: NotFiniteError | None = None
        self._pending: tuple[int, int, Batch, _Scalars] | None = None

    def add(self, epoch: int, step: int, batch: Batch, terms: Mapping[str, Tensor]) -> None:
        """Add a step's terms, after those of the step before have been read."""
        self.read_pending()
        self._pending = epoch, step, batch, _Scalars(terms)

    def read_pending(self) -> None:
        """Add the last step's terms to the sums; note the first that is not finite."""
        if self._pending is None or self.error is not None:
            return
        epoch, step, batch, scalars = self._pending
        self._pending = None
        values = scalars.read()
        # the terms before the total, which is their sum
        for name in sorted(values, key=lambda name: name == "total"):
            if not math.isfinite(values[name]):
                self.error = NotFiniteError(
                    f"training: {name} loss is {values[name]} in epoch {epoch}, step {step} "
                    f"(frames {', '.join(map(str, batch.indices))} of the store); "
                    "lower train.lr, or look at the batch",
                    batch,
                    step,
                )
                return
        self.last = values["total"]
        size = len(batch.sharp)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + size * value
        self.sums["samples"] = self.sums.get("samples", 0) + size

    def raise_error(self, group: Group) -> None:
        """Stop every process of `group` where one has met a loss that is not finite."""
        mine = self.error
        found = group.gather(None if mine is None else (mine.step, str(mine)))
        # the first error counts: it breaks the other processes a step later
        known = [(each[0], rank, each[1]) for rank, each in enumerate(found) if each is not None]
        first = min(known, default=None)
        if first is None:
            return
        if mine is not None and first[1] == group.rank:
            raise mine
        raise HDEDError(first[2])

    def close_epoch(self, group: Group) -> tuple[dict[str, float], int]:
        """Return each term's mean over the samples of all processes and their number; start anew.

        Call `read_pending` first.
        """
        sums = group.sum(self.sums)
        samples = int(sums.pop("samples"))
        self.sums = {}
        return {name: total / samples for name, total in sums.items()}, samples


class _Scalars:
    """Scalars on their way to the host: a GPU is waited for when they are read, not before."""

    def __init__(self, scalars: Mapping[str, Tensor]) -> None:
        self._names = list(scalars)
        self._values = torch.stack([scalar.detach() for scalar in scalars.values()])
        self._arrived: torch.cuda.Event | None = None
        if self._values.is_cuda:
            host = torch.empty_like(self._values, device="cpu", pin_memory=True)
            self._values = host.copy_(self._values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> dict[str, float]:
        """Return the numbers by name."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))
