"""The optimiser and the schedule of its learning rate."""

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from hded.config.schema import Train


def build_optimizer(network: nn.Module, loss: nn.Module, settings: Train) -> torch.optim.Optimizer:
    """Return the optimiser of the network's weights and of those that the loss learns."""
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if learned := [p for p in loss.parameters() if p.requires_grad]:
        groups.append({"params": learned, "weight_decay": 0.0})
    chosen = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, **chosen)
    adam = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return adam(groups, betas=(settings.betas[0], settings.betas[1]), **chosen)


def build_scheduler(optimizer: torch.optim.Optimizer, settings: Train, steps: int) -> LRScheduler:
    """Return a schedule that is stepped after every batch; `steps`: the batches of an epoch."""
    if settings.schedule == "one_cycle":
        # the momentum is a setting of its own and is not cycled
        return OneCycleLR(
            optimizer,
            max_lr=settings.lr,
            total_steps=settings.epochs * steps,
            cycle_momentum=False,
        )
    milestone = max(1, round(settings.lr_milestone * settings.epochs * steps))
    return MultiStepLR(optimizer, [milestone], gamma=settings.lr_gamma)
