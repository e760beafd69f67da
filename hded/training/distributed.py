"""torch.distributed collectives; no-ops in a single process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Group:
    """This process's `rank` among `size`; every process must call the same methods."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes, logs and shows progress."""
        return self.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the sum of each value over all processes."""
        if self.size == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total)
        return dict(zip(values, total.tolist(), strict=True))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all processes."""
        for tensor in tensors if self.size > 1 else ():
            dist.all_reduce(tensor)
            tensor.div_(self.size)

    def lead(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by the first process's."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, 0)

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether any process has it set."""
        if self.size == 1:
            return list(flags)
        both = torch.tensor([float(flag) for flag in flags])
        dist.all_reduce(both, dist.ReduceOp.MAX)
        return [bool(flag) for flag in both]

    def share(self, value: Any) -> Any:
        """Return the first process's value."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values
