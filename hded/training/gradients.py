"""Gradients of the losses at the encoder's output: how the tasks share the encoder in fact."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hded.training.losses import HDEDLoss


@contextmanager
def encoder_output(network: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that holds the encoder's feature maps after a forward pass.

    It stays empty for a network without an `encoder`.
    """
    maps: list[Tensor] = []
    encoder = getattr(network, "encoder", None)
    if encoder is None:
        yield maps
        return
    handle = encoder.register_forward_hook(lambda module, inputs, output: maps.extend(output))
    try:
        yield maps
    finally:
        handle.remove()


def gradient_norms(
    loss: HDEDLoss, terms: Mapping[str, Tensor], maps: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the L2 norms of the gradients at `maps`, of each term and of each task's loss.

    terms: as `HDEDLoss` returns them, unweighted; maps: the encoder's output in the same graph,
    which is kept. A task's gradient is the sum of its terms' gradients by their shares.
    """
    gradients = {name: gradient_at(term, maps) for name, term in terms.items() if name != "total"}
    tasks = {}
    for task in loss.tasks(terms):
        shares = loss.shares[task]
        parts = [[shares[n] * g for g in gradients[n]] for n in shares if n in gradients]
        tasks[task] = norm([functools.reduce(torch.add, each) for each in zip(*parts, strict=True)])
    return {name: norm(gradient) for name, gradient in gradients.items()}, tasks


def gradient_at(loss: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of a scalar at each of `maps`, 0 where it does not depend on it."""
    found = torch.autograd.grad(loss, maps, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(m) if g is None else g for m, g in zip(maps, found, strict=True)]


def norm(gradient: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm over all maps together."""
    return torch.stack([g.float().square().sum() for g in gradient]).sum().sqrt()
