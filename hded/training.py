"""Fitting a network: one plain loop, the same on every device.

- The step schedule (paper) or one-cycle; Adam as the released code has it, or the paper's SGD.
- Validation looks at whole frames, every `validate_every` epochs and after the last.
- A loss that is not finite stops the run at once, naming the step and the term.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hded.errors import HDEDError, check_choice
from hded.frames import Frames, to_uint8
from hded.losses import HDEDLoss
from hded.metrics import psnr
from hded.network import HDEDNet
from hded.progress import progress


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """How to fit; the names and defaults are those of params.yaml's `train`."""

    epochs: int
    batch_size: int = 4
    hflip: float = 0.5
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["step", "one_cycle"] = "step"
    drop_at: float = 0.6
    drop_to: float = 0.1
    validate_every: int = 1
    keep: Literal["best", "last"] = "best"
    precision: Literal["float32", "bf16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, ("adam", "adamw", "sgd"))
        check_choice("precision", self.precision, ("float32", "bf16"))
        check_choice("schedule", self.schedule, ("step", "one_cycle"))
        check_choice("keep", self.keep, ("best", "last"))


@dataclass(frozen=True, slots=True)
class FitResult:
    """`state`: the kept weights, on CPU. `history`: one mapping of figures an epoch."""

    state: dict[str, Tensor]
    history: list[dict[str, float]]
    best_epoch: int


def fit(
    network: HDEDNet,
    loss: HDEDLoss,
    train: Frames,
    validation: Frames | None,
    settings: FitSettings,
    device: torch.device,
    on_epoch: Callable[[Mapping[str, float]], None] = lambda record: None,
) -> FitResult:
    """Fit `network` in place on `device`; `on_epoch` is called with each epoch's figures.

    Figures: epoch (1-based), lr, seconds, samples_per_s, train/<term>, and on epochs that validate
    val/<term>, val/rmse [m], val/psnr, val/input_psnr [dB]. `keep: best` keeps the epoch with the
    lowest val/total. Raises HDEDError for a loss that is not finite.
    """
    network.to(device, memory_format=torch.channels_last)  # a fifth faster on CPU
    optimizer = _optimizer(network, settings)
    steps = math.ceil(len(train) / settings.batch_size)
    scheduler = _scheduler(optimizer, settings, steps)
    history: list[dict[str, float]] = []
    best, best_epoch, state = math.inf, settings.epochs, None
    bar = progress(total=settings.epochs * len(train), unit="sample", desc="train", smoothing=0.05)
    with bar:
        for epoch in range(1, settings.epochs + 1):
            start = time.perf_counter()
            rate = optimizer.param_groups[0]["lr"]
            terms = _train_epoch(
                network, loss, train, settings, epoch, optimizer, scheduler, device, bar
            )
            seconds = time.perf_counter() - start
            record = {
                "epoch": epoch,
                "lr": rate,
                "seconds": seconds,
                "samples_per_s": len(train) / seconds,
                **{f"train/{name}": value for name, value in terms.items()},
            }
            due = epoch % settings.validate_every == 0 or epoch == settings.epochs
            if validation is not None and due:
                scores = validate(network, loss, validation, device)
                record |= {f"val/{name}": value for name, value in scores.items()}
                if settings.keep == "best" and scores["total"] < best:
                    best, best_epoch = scores["total"], epoch
                    state = _snapshot(network)
            history.append(record)
            on_epoch(record)
    return FitResult(state if state is not None else _snapshot(network), history, best_epoch)


def _train_epoch(
    network: HDEDNet,
    loss: HDEDLoss,
    frames: Frames,
    settings: FitSettings,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    device: torch.device,
    bar: tqdm,
) -> dict[str, float]:
    network.train()
    sums: dict[str, float] = {}
    batches = frames.batches(
        settings.batch_size, seed=settings.seed, epoch=epoch, hflip=settings.hflip
    )
    for step, batch in enumerate(batches, start=1):
        batch = batch.to(device)
        try:
            with autocast(device, settings.precision):
                outputs = network(batch.defocused)
        except ValueError as error:
            # batch norm's own check, met where a last batch of one is a single value a channel
            if "more than 1 value per channel" not in str(error):
                raise
            raise HDEDError(
                f"training: batch norm cannot take a batch of {len(batch.defocused)} at "
                f"{batch.defocused.shape[-1]} px; raise train.size_px, or change train.batch_size"
            ) from error
        outputs = {head: output.float() for head, output in outputs.items()}
        terms = loss(outputs, batch.depth_m, batch.valid, batch.sharp)
        values = {name: term.item() for name, term in terms.items()}
        # the terms before the total that they make up
        for name in sorted(values, key=lambda name: name == "total"):
            if not math.isfinite(values[name]):
                raise HDEDError(
                    f"training: {name} loss is {values[name]} in epoch {epoch}, step {step}; "
                    "lower train.lr, or look at the batch"
                )
        optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        optimizer.step()
        scheduler.step()
        size = len(batch.defocused)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + size * value
        bar.update(size)
        bar.set_postfix(epoch=epoch, loss=f"{values['total']:.4f}", refresh=False)
    return {name: total / len(frames) for name, total in sums.items()}


@torch.no_grad()
def validate(
    network: HDEDNet, loss: HDEDLoss, frames: Frames, device: torch.device
) -> dict[str, float]:
    """Mean over whole copies of every loss term, and of rmse [m], psnr and input_psnr [dB].

    A frame without a known depth does not count for rmse.
    """
    network.eval()
    rows: list[dict[str, float]] = []
    for batch, defocused, sharp in frames.wholes():
        batch = batch.to(device)
        outputs = network(batch.defocused)
        terms = loss(outputs, batch.depth_m, batch.valid, batch.sharp)
        row = {name: term.item() for name, term in terms.items()}
        if "depth" in outputs and batch.valid.any():
            error = (outputs["depth"] - batch.depth_m)[batch.valid]
            row["rmse"] = error.square().mean().sqrt().item()
        if "all_in_focus" in outputs:
            row["psnr"] = psnr(to_uint8(outputs["all_in_focus"])[0], sharp)
            row["input_psnr"] = psnr(defocused, sharp)
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def autocast(device: torch.device, precision: Literal["float32", "bf16"]) -> torch.autocast:
    """Give the context in which a network computes at `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _optimizer(network: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    chosen = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=settings.momentum, **chosen)
    adam = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return adam(network.parameters(), betas=settings.betas, **chosen)


def _scheduler(
    optimizer: torch.optim.Optimizer, settings: FitSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Give a schedule that is stepped after every batch."""
    total = settings.epochs * steps
    if settings.schedule == "one_cycle":
        # momentum stays: it is a setting of its own
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=settings.lr, total_steps=total, cycle_momentum=False
        )
    drop = round(settings.drop_at * settings.epochs) * steps
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [drop], gamma=settings.drop_to)


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: copy.deepcopy(t).cpu() for name, t in network.state_dict().items()}
