"""Fitting a network: one plain loop, the same on every device.

- The step schedule (paper) or one-cycle; Adam as the released code has it, or the paper's SGD.
- Validation looks at whole frames, every `val_interval` epochs and after the last.
- A loss that is not finite stops the run, naming the step and the term.
- The whole state can be saved after any step; a fit that goes on from it ends, on a CPU, with the
  bytes of one that was never interrupted.
- Of the first batch of each epoch, the gradient that each term of the loss has at the encoder's
  output is measured: how the tasks are balanced in fact, rather than by intention.
"""

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.config.schema import Precision, Train
from hded.metrics import psnr
from hded.network import HDEDNet
from hded.network.normalize import to_uint8
from hded.training.data import Batch, Frames
from hded.training.distributed import Group
from hded.training.loss_weighting import gradient_norms, norm_of
from hded.training.losses import HDEDLoss


@dataclass(frozen=True, slots=True)
class FitResult:
    """`state`: the kept weights, on CPU. `history`: one mapping of figures an epoch."""

    state: dict[str, Tensor]
    history: list[dict[str, float]]
    best_epoch: int


class NotFiniteError(HDEDError):
    """A loss is not finite, in a `step` of its epoch; `batch` holds the tensors that gave it."""

    def __init__(self, message: str, batch: Batch, step: int) -> None:
        super().__init__(message)
        self.batch, self.step = batch, step


def fit(
    network: HDEDNet,
    loss: HDEDLoss,
    train: Frames,
    validation: Frames | None,
    settings: Train,
    device: torch.device,
    on_epoch: Callable[[Mapping[str, float]], None] = lambda record: None,
    *,
    seed: int = 0,
    save: Callable[[Mapping[str, Any]], None] | None = None,
    resume: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    group: Group = Group(),  # noqa: B008  (frozen)
) -> FitResult:
    """Fit `network` in place on `device`; `on_epoch` is called with each epoch's figures.

    Figures: epoch (1-based), lr, seconds, samples_per_s, data_share (of the time, spent waiting for
    samples), train/<term>; grad/<term>, the L2 norm of the unweighted term's gradient at the
    encoder's output in the epoch's first batch, and grad/<task> with weight/<task>, the tasks' as
    they enter the total. On epochs that validate also what `validate` gives, as val/<name>.
    `checkpoint: best` keeps the epoch with the lowest val/total.

    `seed` decides the order of the frames and what is drawn for each sample. `save` is given the
    whole state, plain tensors and numbers, every `checkpoint_minutes`;
    `resume` is such a state to go on from. `should_stop` is asked after every
    step: the state is saved, and KeyboardInterrupt raised. With a `group` every process calls this
    with the same arguments and sees its share of each batch; `on_epoch` and `save` are called in
    the first. Raises NotFiniteError for a loss that is not finite, HDEDError for a batch that batch
    norm cannot take.
    """
    with _algorithms(settings.deterministic):
        run = _Fit(network, loss, train, validation, settings, seed, device, group)
        if resume is not None:
            run.restore(resume)
        return run(on_epoch, save, should_stop)


@contextmanager
def _algorithms(deterministic: bool) -> Iterator[None]:
    """Hold torch to algorithms that give equal bytes on equal input, if so wished."""
    before = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        # read by cuBLAS when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class _Fit:
    """A fit under way: what it is made of, and where it stands."""

    def __init__(
        self,
        network: HDEDNet,
        loss: HDEDLoss,
        train: Frames,
        validation: Frames | None,
        settings: Train,
        seed: int,
        device: torch.device,
        group: Group,
    ) -> None:
        if settings.batch_size % group.size:
            raise HDEDError(
                f"train.batch_size {settings.batch_size} cannot be split evenly between "
                f"{group.size} devices; change it or train.devices"
            )
        # a fifth faster on CPU
        self.network = network.to(device, memory_format=torch.channels_last)
        self.loss, self.train, self.validation = loss.to(device), train, validation
        self.settings, self.seed, self.device, self.group = settings, seed, device, group
        self.runner: nn.Module = self.network
        if group.size > 1:
            if device.type == "cuda":
                self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
            self.runner = DistributedDataParallel(
                self.network, device_ids=[device] if device.type == "cuda" else None
            )
        self.eager = self.runner
        if settings.compile:
            # a last batch that is short must not make all of them free in size, and slow
            self.runner = torch.compile(self.runner, dynamic=False)
        self.optimizer = _optimizer(network, loss, settings)
        self.steps = train.steps(settings.batch_size, group.size)
        if not self.steps:
            raise HDEDError(
                f"training: {len(train)} frames are fewer than the {group.size} devices; "
                "lower train.devices"
            )
        self.scheduler = _scheduler(self.optimizer, settings, self.steps)
        # where it stands: steps done of `epoch`, and what they gave so far
        self.epoch, self.step, self.lr, self.last = 1, 0, settings.lr, math.nan
        self.sums: dict[str, float] = {}
        self.norms: dict[str, float] = {}
        self.seconds = self.waited = 0.0
        self.history: list[dict[str, float]] = []
        self.best, self.best_epoch = math.inf, settings.epochs
        self.best_state: dict[str, Tensor] | None = None
        # one step behind, so that a GPU need not be waited for
        self.unchecked: tuple[int, Batch, _Numbers] | None = None
        self.broken: NotFiniteError | None = None

    def __call__(
        self,
        on_epoch: Callable[[Mapping[str, float]], None],
        save: Callable[[Mapping[str, Any]], None] | None,
        should_stop: Callable[[], bool],
    ) -> FitResult:
        samples, epochs = len(self.train), self.settings.epochs
        saved = time.monotonic()
        bar = progress(
            total=epochs * samples,
            initial=(self.epoch - 1) * samples + self.step * self.settings.batch_size,
            unit="sample",
            desc="train",
            smoothing=0.05,
            disable=not self.group.leads,
        )
        with bar:
            while self.epoch <= epochs:
                start = time.perf_counter()
                if self.step == 0:
                    self.lr = self.optimizer.param_groups[0]["lr"]
                self.network.train()
                before = self.seconds
                for batch in self._batches():
                    self._step(batch)
                    bar.update(len(batch.sharp) * self.group.size)
                    bar.set_postfix(epoch=self.epoch, loss=self.last, refresh=False)
                    self.seconds = before + time.perf_counter() - start
                    late = time.monotonic() - saved >= 60 * self.settings.checkpoint_minutes
                    broken = self.broken is not None
                    stop, due, broken = self.group.any(
                        [should_stop(), late and save is not None, broken]
                    )
                    if stop or due or broken:
                        self._check()
                        self._raise_if_broken()
                        self._save(save)
                        saved = time.monotonic()
                    if stop:
                        raise KeyboardInterrupt
                self._check()
                self._raise_if_broken()
                record = self._finish_epoch()
                if self.group.leads:
                    on_epoch(record)
        state = self.best_state if self.best_state is not None else _snapshot(self.network)
        return FitResult(state, self.history, self.best_epoch)

    def _batches(self) -> Iterator[Batch]:
        """Return the rest of the epoch's batches on the device, and count the wait for them."""
        batches = self.train.batches(
            self.settings.batch_size,
            seed=self.seed,
            epoch=self.epoch,
            hflip=self.settings.hflip,
            start=self.step,
            rank=self.group.rank,
            devices=self.group.size,
        )
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            batch = batch.to(self.device)
            self.waited += time.perf_counter() - start
            yield batch

    def _step(self, batch: Batch) -> None:
        learns = self.loss.weighting.name == "gradnorm"
        measures = self.step == 0 or learns
        outputs, maps = self._forward(batch, measures)
        terms = self.loss(outputs, batch.depth_m, batch.valid, batch.sharp)
        if maps:
            self._measure(terms, maps)
        self.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        self.group.average([p.grad for p in self.loss.parameters() if p.grad is not None])
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        self._check()
        self.unchecked = self.step, batch, _Numbers(terms)

    def _forward(
        self, batch: Batch, measures: bool
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """Return the outputs in float32 and, where it `measures`, the encoder's maps."""
        maps: list[Tensor] = []
        encoder = getattr(self.network, "encoder", None)
        handles = []
        if measures and encoder is not None:
            handles = [encoder.register_forward_hook(lambda m, i, given: maps.extend(given))]
        # a compiled network would be compiled again with its hook
        runner = self.eager if measures else self.runner
        try:
            with autocast(self.device, self.settings.precision):
                outputs = runner(batch.defocused)
        except ValueError as error:
            # batch norm's own check, met where a last batch of one is a single value a channel
            if "more than 1 value per channel" not in str(error):
                raise
            raise HDEDError(
                f"training: batch norm cannot take a batch of {len(batch.defocused)} at "
                f"{batch.defocused.shape[-1]} px; raise train.size_px, or change train.batch_size"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        # losses in float32 at least
        wide = {h: o.float() if o.dtype == torch.bfloat16 else o for h, o in outputs.items()}
        return wide, tuple(maps)

    def _measure(self, terms: Mapping[str, Tensor], maps: tuple[Tensor, ...]) -> None:
        """Take the gradients at the encoder's output; let the weighting learn from them."""
        losses = {name: term for name, term in terms.items() if name != "total"}
        norms, gradients = gradient_norms(losses, maps)
        weights = self.loss.weighting.current()
        tasks = self.loss.tasks(terms)
        task_norms = {}
        for task in tasks:
            shares = self.loss.shares[task]
            parts = [[shares[n] * g for g in gradients[n]] for n in shares if n in gradients]
            task_norms[task] = norm_of([sum(g) for g in zip(*parts, strict=True)])
        if self.step == 0:
            found = {f"grad/{name}": norm.item() for name, norm in norms.items()}
            for task, norm in task_norms.items() if len(tasks) > 1 else ():
                found[f"grad/{task}"] = weights[task] * norm.item()
                found[f"weight/{task}"] = weights[task]
            self.norms = {k: v / self.group.size for k, v in self.group.sum(found).items()}
        losses = {task: loss.detach().clone() for task, loss in tasks.items()}
        if self.loss.weighting.name == "gradnorm":
            self.group.average([*losses.values(), *task_norms.values()])
            self.loss.weighting.learn(losses, task_norms)

    def _check(self) -> None:
        """Add the last step's terms to the epoch's sums; note the first that is not finite."""
        if self.unchecked is None or self.broken is not None:
            return
        step, batch, terms = self.unchecked
        self.unchecked = None
        values = terms.read()
        # the terms before the total that they make up
        for name in sorted(values, key=lambda name: name == "total"):
            if not math.isfinite(values[name]):
                self.broken = NotFiniteError(
                    f"training: {name} loss is {values[name]} in epoch {self.epoch}, step {step} "
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

    def _raise_if_broken(self) -> None:
        """Stop every process where one has met a number that is not finite."""
        mine = self.broken
        found = self.group.gather(None if mine is None else (mine.step, str(mine)))
        # what the first has broken breaks the others a step later
        known = [(each[0], rank, each[1]) for rank, each in enumerate(found) if each is not None]
        first = min(known, default=None)
        if first is None:
            return
        if mine is not None and first[1] == self.group.rank:
            raise mine
        raise HDEDError(first[2])

    def _finish_epoch(self) -> dict[str, float]:
        """Return the epoch's figures, validated where that is due, and turn to the next."""
        settings = self.settings
        sums = self.group.sum(self.sums)
        samples = sums.pop("samples")
        record = {
            "epoch": self.epoch,
            "lr": self.lr,
            "seconds": self.seconds,
            "samples_per_s": samples / self.seconds,
            "data_share": self.waited / self.seconds,
            **{f"train/{name}": total / samples for name, total in sums.items()},
            **self.norms,
        }
        due = self.epoch % settings.val_interval == 0 or self.epoch == settings.epochs
        if self.validation is not None and due:
            # of what each process's batch norm has seen, the first one's is what is saved
            self.group.lead(list(self.network.buffers()))
            scores = validate(self.network, self.loss, self.validation, self.device, self.group)
            record |= {f"val/{name}": value for name, value in scores.items()}
            if settings.checkpoint == "best" and scores["total"] < self.best:
                self.best, self.best_epoch = scores["total"], self.epoch
                self.best_state = _snapshot(self.network)
        self.history.append(record)
        self.epoch, self.step, self.sums, self.norms = self.epoch + 1, 0, {}, {}
        self.seconds = self.waited = 0.0
        return record

    def _save(self, save: Callable[[Mapping[str, Any]], None] | None) -> None:
        random = self.group.gather(_random_state(self.device))
        sums = self.group.gather(self.sums)
        if save is None or not self.group.leads:
            return
        save(
            {
                "network": self.network.state_dict(),
                "loss": self.loss.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "random": random,
                "sums": sums,
                **{name: getattr(self, name) for name in PROGRESS},
            }
        )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where the saved fit stood."""
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        for name in PROGRESS:
            setattr(self, name, state[name])
        if len(state["random"]) != self.group.size:
            raise HDEDError(
                f"training: the checkpoint is one of {len(state['random'])} devices, not of "
                f"{self.group.size}; set train.devices back, or delete the checkpoint"
            )
        self.sums = dict(state["sums"][self.group.rank])
        _set_random_state(state["random"][self.group.rank], self.device)


class _Numbers:
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


# what a checkpoint holds of `_Fit` beside its modules, by attribute
PROGRESS = (
    "epoch", "step", "lr", "norms", "seconds", "waited", "history",
    "best", "best_epoch", "best_state",
)  # fmt: skip


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@torch.no_grad()
def validate(
    network: HDEDNet,
    loss: HDEDLoss,
    frames: Frames,
    device: torch.device,
    group: Group = Group(),  # noqa: B008  (frozen)
) -> dict[str, float]:
    """Mean over whole copies of every loss term, and of rmse [m], psnr and input_psnr [dB].

    `total` is that of the fixed weighting, by lambda, so that epochs compare. A frame without
    a known depth does not count for rmse. The processes of a group share the copies and all get the
    mean of the whole.
    """
    network.eval()
    rows: list[dict[str, float]] = []
    for batch, defocused, sharp in frames.wholes(group.rank, group.size):
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
    rows = [row for share in group.gather(rows) for row in share]
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    return means | {"total": loss.by_lambda(means)}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a network computes at `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _optimizer(network: nn.Module, loss: nn.Module, settings: Train) -> torch.optim.Optimizer:
    """Return the optimiser of the network's weights and of those that the loss learns."""
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if learned := [p for p in loss.parameters() if p.requires_grad]:
        groups.append({"params": learned, "weight_decay": 0.0})
    chosen = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, **chosen)
    adam = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return adam(groups, betas=tuple(settings.betas), **chosen)


def _scheduler(
    optimizer: torch.optim.Optimizer, settings: Train, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a schedule that is stepped after every batch."""
    total = settings.epochs * steps
    if settings.schedule == "one_cycle":
        # momentum stays: it is a setting of its own
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=settings.lr, total_steps=total, cycle_momentum=False
        )
    drop = round(settings.lr_milestone * settings.epochs) * steps
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [drop], gamma=settings.lr_gamma)


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: copy.deepcopy(t).cpu() for name, t in network.state_dict().items()}
