"""The training loop: plain, and the same on every device.

- Validation uses whole frames, every `val_interval` epochs and after the last.
- A loss that is not finite stops the run; the message names the step and the term.
- The whole state can be saved after any step. On a CPU a fit that is resumed ends with the same
  bytes as one that was never interrupted.
- In the first batch of each epoch the gradient of each loss term at the encoder's output is
  measured: it tells how the tasks are balanced in fact, whatever the weights say.
"""

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.config.schema import Train
from hded.network import HDEDNet
from hded.network.torch_io import autocast
from hded.training.batch import Batch, network_inputs
from hded.training.distributed import Group
from hded.training.frames import TrainingFrames
from hded.training.gradients import encoder_output, gradient_norms
from hded.training.loss_log import LossLog
from hded.training.losses import HDEDLoss
from hded.training.optim import build_optimizer, build_scheduler
from hded.training.samplers import Sampler
from hded.training.validation import validate

OnEpoch = Callable[[Mapping[str, float]], None]
Save = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class FitResult:
    """`state`: the resulting weights, on the CPU; `history`: the figures of each epoch."""

    state: dict[str, Tensor]
    history: list[dict[str, float]]
    best_epoch: int


def fit(
    network: HDEDNet,
    loss: HDEDLoss,
    train: Sampler,
    validation: TrainingFrames | None,
    settings: Train,
    device: torch.device,
    on_epoch: OnEpoch = lambda record: None,
    *,
    seed: int = 0,
    save: Save | None = None,
    resume: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    group: Group = Group(),  # noqa: B008  (frozen)
) -> FitResult:
    """Train `network` in place on `device`; `on_epoch` is called with each epoch's figures.

    Figures: epoch (from 1), lr, seconds, samples_per_s, data_share (fraction of the time spent
    waiting for samples), train/<term>; grad/<term>, the L2 norm of the unweighted term's gradient
    at the encoder's output in the epoch's first batch, and grad/<task> with weight/<task>, those of
    the tasks as they enter the total. Epochs that validate also have what `validate` returns, as
    val/<name>. With `checkpoint: best` the result is the epoch with the lowest val/total.

    `seed` decides the order of the frames and the random choices of each sample. `save` is called
    with the whole state, plain tensors and numbers, every `checkpoint_minutes`; `resume` is such a
    state to continue from. `should_stop` is called after every step: where it returns True the
    state is saved and KeyboardInterrupt raised. With a `group`, every process calls this function
    with the same arguments and trains on its share of each batch; `on_epoch` and `save` are called
    in the first. Raises NotFiniteError for a loss that is not finite, HDEDError for a batch that is
    too small for batch norm.
    """
    with _algorithms(settings.deterministic):
        run = _Fit(network, loss, train, validation, settings, seed, device, group)
        if resume is not None:
            run.restore(resume)
        return run(on_epoch, save, should_stop)


@contextmanager
def _algorithms(deterministic: bool) -> Iterator[None]:
    """Restrict torch to deterministic algorithms, if asked to."""
    before = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        # read by cuBLAS when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@dataclass(slots=True)
class _Progress:
    """How far a fit has come: what a checkpoint holds beside the states of its modules."""

    best_epoch: int
    lr: float
    epoch: int = 1
    step: int = 0  # steps of `epoch` that are done
    norms: dict[str, float] = field(default_factory=dict)  # of this epoch's first batch
    seconds: float = 0.0  # spent on this epoch
    waited: float = 0.0  # of them, for samples
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = math.inf  # the lowest val/total
    best_state: dict[str, Tensor] | None = None


class _Fit:
    """A fit that can be saved, restored and run to its end."""

    def __init__(
        self,
        network: HDEDNet,
        loss: HDEDLoss,
        train: Sampler,
        validation: TrainingFrames | None,
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
        # this memory layout is a fifth faster on a CPU
        network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.network = network
        self.loss, self.train, self.validation = loss.to(device), train, validation
        self.settings, self.seed, self.device, self.group = settings, seed, device, group
        self.eager = self._distributed()
        # a short last batch must not make torch compile for every size, which is slower
        compiled = settings.compile
        self.runner: Callable[..., dict[str, Tensor]] = (
            torch.compile(self.eager, dynamic=False) if compiled else self.eager
        )
        self.optimizer = build_optimizer(network, loss, settings)
        steps = train.steps(settings.batch_size, group.size)
        if not steps:
            raise HDEDError(
                f"training: {len(train)} frames are fewer than the {group.size} devices; "
                "lower train.devices"
            )
        self.scheduler = build_scheduler(self.optimizer, settings, steps)
        self.losses = LossLog()
        self.at = _Progress(best_epoch=settings.epochs, lr=settings.lr)

    def _distributed(self) -> nn.Module:
        """Return the network, whose gradients are averaged over a group of several processes."""
        if self.group.size == 1:
            return self.network
        if self.device.type == "cpu":
            return DistributedDataParallel(self.network)
        nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # in place, as the root is no norm
        return DistributedDataParallel(self.network, device_ids=[self.device])

    def __call__(
        self, on_epoch: OnEpoch, save: Save | None, should_stop: Callable[[], bool]
    ) -> FitResult:
        at, group, epochs = self.at, self.group, self.settings.epochs
        saved = time.monotonic()
        bar = progress(
            total=epochs * len(self.train),
            initial=(at.epoch - 1) * len(self.train) + at.step * self.settings.batch_size,
            unit="sample",
            desc="train",
            smoothing=0.05,
            disable=not group.leads,
        )
        with bar:
            while at.epoch <= epochs:
                start, before = time.perf_counter(), at.seconds
                if at.step == 0:
                    at.lr = self.optimizer.param_groups[0]["lr"]
                self.network.train()
                for batch in self._batches():
                    self._step(batch)
                    bar.update(len(batch.sharp) * group.size)
                    bar.set_postfix(epoch=at.epoch, loss=self.losses.last, refresh=False)
                    at.seconds = before + time.perf_counter() - start
                    late = time.monotonic() - saved >= 60 * self.settings.checkpoint_minutes
                    stop, due, broken = group.any(
                        [should_stop(), late and save is not None, self.losses.error is not None]
                    )
                    if stop or due or broken:
                        self._check()
                        self._save(save)
                        saved = time.monotonic()
                    if stop:
                        raise KeyboardInterrupt
                self._check()
                record = self._finish_epoch()
                if group.leads:
                    try:
                        on_epoch(record)
                    except BaseException:
                        if group.size == 1:  # saving is a collective
                            self._save(save)
                        raise
        state = at.best_state if at.best_state is not None else _snapshot(self.network)
        return FitResult(state, at.history, at.best_epoch)

    def _batches(self) -> Iterator[Batch]:
        """Yield the rest of the epoch's batches on the device, and time the wait for them."""
        batches = self.train.batches(
            self.settings.batch_size,
            seed=self.seed,
            epoch=self.at.epoch,
            hflip=self.settings.hflip,
            start=self.at.step,
            rank=self.group.rank,
            devices=self.group.size,
        )
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            batch = batch.to(self.device)
            self.at.waited += time.perf_counter() - start
            yield batch

    def _step(self, batch: Batch) -> None:
        weighting = self.loss.weighting
        measures = self.at.step == 0 or weighting.name == "gradnorm"
        with encoder_output(self.network) if measures else nullcontext([]) as maps:
            # a compiled network would be compiled again for the hook of `encoder_output`
            outputs = self._forward(batch, self.eager if measures else self.runner)
        terms = self.loss(outputs, batch)
        if maps:
            self._measure(terms, maps)
        self.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        self.group.average([p.grad for p in self.loss.parameters() if p.grad is not None])
        self.optimizer.step()
        self.scheduler.step()
        self.at.step += 1
        self.losses.add(self.at.epoch, self.at.step, batch, terms)

    def _forward(
        self, batch: Batch, network: Callable[..., dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the outputs by head; those in bfloat16 become float32, for the losses."""
        try:
            with autocast(self.device, self.settings.precision):
                outputs = network(*network_inputs(self.network, batch))
        except ValueError as error:
            # raised by batch norm where a last batch of one sample has a single value a channel
            if "more than 1 value per channel" not in str(error):
                raise
            raise HDEDError(
                f"training: batch norm cannot take a batch of {len(batch.rgb)} at "
                f"{batch.rgb.shape[-1]} px; raise train.size_px, or change train.batch_size"
            ) from error
        return {h: o.float() if o.dtype == torch.bfloat16 else o for h, o in outputs.items()}

    def _measure(self, terms: Mapping[str, Tensor], maps: list[Tensor]) -> None:
        """Measure the gradients at the encoder's output; update weights that learn from them."""
        norms, task_norms = gradient_norms(self.loss, terms, maps)
        tasks, weighting = self.loss.tasks(terms), self.loss.weighting
        if self.at.step == 0:
            weights = weighting.current()
            found = {f"grad/{name}": norm.item() for name, norm in norms.items()}
            for task, norm in task_norms.items() if len(tasks) > 1 else ():
                found[f"grad/{task}"] = weights[task] * norm.item()
                found[f"weight/{task}"] = weights[task]
            self.at.norms = {k: v / self.group.size for k, v in self.group.sum(found).items()}
        if weighting.name == "gradnorm":
            losses = {task: loss.detach().clone() for task, loss in tasks.items()}
            self.group.average([*losses.values(), *task_norms.values()])
            weighting.learn(losses, task_norms)

    def _check(self) -> None:
        """Raise in every process if a loss so far is not finite."""
        self.losses.read_pending()
        self.losses.raise_error(self.group)

    def _finish_epoch(self) -> dict[str, float]:
        """Return the epoch's figures, after a validation where one is due; begin the next."""
        at, settings = self.at, self.settings
        means, samples = self.losses.close_epoch(self.group)
        record = {
            "epoch": at.epoch,
            "lr": at.lr,
            "seconds": at.seconds,
            "samples_per_s": samples / at.seconds,
            "data_share": at.waited / at.seconds,
            **{f"train/{name}": mean for name, mean in means.items()},
            **at.norms,
        }
        due = at.epoch % settings.val_interval == 0 or at.epoch == settings.epochs
        if self.validation is not None and due:
            # each process has batch-norm statistics of its own; the first one's are saved
            self.group.lead(list(self.network.buffers()))
            scores = validate(self.network, self.loss, self.validation, self.device, self.group)
            record |= {f"val/{name}": value for name, value in scores.items()}
            if settings.checkpoint == "best" and scores["total"] < at.best:
                at.best, at.best_epoch = scores["total"], at.epoch
                at.best_state = _snapshot(self.network)
        at.history.append(record)
        at.epoch, at.step, at.norms = at.epoch + 1, 0, {}
        at.seconds = at.waited = 0.0
        return record

    def _save(self, save: Save | None) -> None:
        random = self.group.gather(_random_state(self.device))
        sums = self.group.gather(self.losses.sums)
        if save is None or not self.group.leads:
            return
        state = {name: module.state_dict() for name, module in self._modules().items()}
        save(
            state | {f.name: getattr(self.at, f.name) for f in fields(self.at)}
            | {"random": random, "sums": sums}
        )  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        for known in fields(self.at):
            setattr(self.at, known.name, state[known.name])
        if len(state["random"]) != self.group.size:
            raise HDEDError(
                f"training: the checkpoint is one of {len(state['random'])} devices, not of "
                f"{self.group.size}; set train.devices back, or delete the checkpoint"
            )
        self.losses.sums = dict(state["sums"][self.group.rank])
        _set_random_state(state["random"][self.group.rank], self.device)

    def _modules(self) -> dict[str, Any]:
        """Return everything with a state of its own, by its name in a checkpoint."""
        return {
            "network": self.network,
            "loss": self.loss,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
        }


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: copy.deepcopy(t).cpu() for name, t in network.state_dict().items()}
