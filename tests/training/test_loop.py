"""Fitting: it learns, it repeats itself exactly, and it follows the schedule that it was given."""

import copy
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from hded.common.errors import HDEDError
from hded.config.schema import Loss, Train
from hded.metrics import psnr
from hded.network import HDEDNet
from hded.training.frames import TrainingFrames
from hded.training.loop import FitResult, fit
from hded.training.losses import HDEDLoss
from hded.training.samplers import Sampler, StoredSampler
from hded.training.validation import validate

CPU = torch.device("cpu")
DEPTH_L1 = Loss(mu=0.0)


def some_frames(stores: SimpleNamespace, indices: Any, size_px: int = 32) -> TrainingFrames:
    return TrainingFrames(stores.scenes, [stores.defocused], np.asarray(indices), "resize", size_px)


def samples_of(stores: SimpleNamespace, indices: Any, size_px: int = 32) -> Sampler:
    return StoredSampler(some_frames(stores, indices, size_px))


def flat_frames(stores: SimpleNamespace, depths_m: list[float]) -> TrainingFrames:
    """Frames whose depth is known everywhere, and the same everywhere."""
    frames = some_frames(stores, range(len(depths_m)))
    frames.depth_m = torch.tensor(depths_m)[:, None, None].expand(-1, 32, 32).contiguous()
    return frames


class Walker(nn.Module):
    """Predicts one depth everywhere, its only weight, and gives the input back as the image.

    Below the truth the L1 loss pulls the weight up with a gradient of exactly -1.
    """

    def __init__(self, start_m: float = 0.0) -> None:
        super().__init__()
        self.depth_m = nn.Parameter(torch.tensor(start_m, dtype=torch.float64))

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        shape = (len(rgb), 1, *rgb.shape[2:])
        return {"depth": self.depth_m.expand(shape), "all_in_focus": rgb}


def walk(
    stores: SimpleNamespace,
    settings: dict[str, Any],
    *,
    train_m: list[float],
    validation_m: list[float] | None = None,
    start_m: float = 0.0,
    on_epoch: Callable[[Mapping[str, float]], None] = lambda record: None,
) -> tuple[FitResult, Walker]:
    walker = Walker(start_m)
    result = fit(
        walker,  # pyright: ignore[reportArgumentType]
        HDEDLoss(Loss(mu=0.0, psi=0.0, lambda_=0.0)),
        StoredSampler(flat_frames(stores, train_m)),
        None if validation_m is None else flat_frames(stores, validation_m),
        Train(
            **{"optimizer": "sgd", "lr": 1.0, "checkpoint": "last", "val_interval": 1, **settings}
        ),
        CPU,
        on_epoch,
    )
    return result, walker


def tiny_network(seed: int = 0, width: float = 1 / 32, **options: Any) -> HDEDNet:
    torch.manual_seed(seed)
    return HDEDNet(width=width, depth_scale_m=8.0, **options)


def fit_tiny(
    stores: SimpleNamespace, seed: int = 0, validation: bool = False, **settings: Any
) -> tuple[FitResult, HDEDNet]:
    network = tiny_network(seed)
    result = fit(
        network,
        HDEDLoss(Loss(), 8.0),
        samples_of(stores, range(6)),
        some_frames(stores, [6, 7]) if validation else None,
        Train(
            **{"epochs": 2, "batch_size": 2, "checkpoint": "last", "val_interval": 1, **settings}
        ),
        CPU,
        seed=seed,
    )
    return result, network


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_small_network_learns_two_frames_by_heart(stores):
    network = tiny_network(width=0.125)
    frames = some_frames(stores, [0, 1], 64)
    loss = HDEDLoss(Loss(lambda_=1.0), 8.0)
    settings = Train(
        epochs=40, batch_size=2, hflip=0.0, lr=1e-2, schedule="one_cycle", checkpoint="last"
    )
    before = validate(network, loss, frames, CPU)
    history = fit(network, loss, StoredSampler(frames), None, settings, CPU).history
    after = validate(network, loss, frames, CPU)
    assert history[-1]["train/total"] < 0.3 * history[0]["train/total"]
    assert after["rmse"] < 0.4 * before["rmse"]
    assert before["psnr"] == before["input_psnr"] and after["psnr"] > after["input_psnr"] + 2


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_seed_gives_one_result_to_the_bit(stores, optimizer):
    settings = {"optimizer": optimizer, "validation": True, "checkpoint": "best"}
    (first, _), (second, _) = (fit_tiny(stores, **settings) for _ in range(2))
    assert same(first.state, second.state)
    timing = {"seconds", "samples_per_s", "data_share"}
    for a, b in zip(first.history, second.history, strict=True):
        assert {k: a[k] for k in a.keys() - timing} == {k: b[k] for k in b.keys() - timing}
    other, _ = fit_tiny(stores, seed=1, **settings)
    assert not same(first.state, other.state)


@pytest.mark.parametrize("decoder", ["transposed", "bilinear"])
def test_deterministic_algorithms_are_held_to_while_it_fits(stores, decoder):
    held = []
    torch.manual_seed(0)
    fit(
        HDEDNet(encoder="efficientnet_lite0", decoder=decoder, width=0.1),
        HDEDLoss(Loss()),
        samples_of(stores, range(2)),
        None,
        Train(epochs=1, batch_size=2, deterministic=True),
        CPU,
        on_epoch=lambda _: held.append(torch.are_deterministic_algorithms_enabled()),
    )
    assert held == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_looking_at_validation_frames_changes_nothing(stores):
    blind, _ = fit_tiny(stores)
    seen, _ = fit_tiny(stores, validation=True, val_interval=1)
    assert same(blind.state, seen.state)


class Small(nn.Module):
    """Two convolutions in float64: without dropout and norms, rounding is all that can differ."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, padding=1, dtype=torch.float64)
        self.second = nn.Conv2d(6, 4, 3, padding=1, dtype=torch.float64)

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        x = self.second(torch.tanh(self.first(rgb.double())))
        return {"depth": x[:, :1], "all_in_focus": x[:, 1:]}


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "betas": [0.5, 0.999], "lr": 2e-3},
        {"optimizer": "sgd", "momentum": 0.0, "lr": 0.02},
        {"optimizer": "sgd", "momentum": 0.9, "lr": 0.02},
        {"optimizer": "adam", "betas": [0.9, 0.99], "lr": 2e-3, "schedule": "one_cycle"},
    ],
    ids=["adam", "sgd", "momentum", "one cycle"],
)
def test_fitting_is_the_plain_loop(stores, settings):
    samples, loss = samples_of(stores, range(6)), HDEDLoss(Loss())
    how = Train(epochs=3, batch_size=2, checkpoint="last", **settings)
    result = fit(Small(), loss, samples, None, how, CPU, seed=4)  # pyright: ignore[reportArgumentType]

    network = Small()
    if settings["optimizer"] == "adam":
        optimizer = torch.optim.Adam(network.parameters(), settings["lr"], settings["betas"])
    else:
        optimizer = torch.optim.SGD(network.parameters(), settings["lr"], settings["momentum"])
    twin = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(
        twin, settings["lr"], total_steps=3 * 3, cycle_momentum=False
    )
    steps = 0
    for epoch in (1, 2, 3):
        for each in samples.batches(2, seed=4, epoch=epoch, hflip=0.5):
            batch = each.to(CPU)
            # the step schedule's own drop stands after 0.6 of 9 steps
            rate = settings["lr"] * (0.1 if steps >= 5 else 1.0)
            steps += 1
            if settings.get("schedule") == "one_cycle":
                rate = one_cycle.get_last_lr()[0]
                twin.step()
                one_cycle.step()
            optimizer.param_groups[0]["lr"] = rate
            terms = loss(network(batch.rgb), batch)
            optimizer.zero_grad()
            terms["total"].backward()
            optimizer.step()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(result.state[name], tensor, rtol=1e-9, atol=1e-12)
        assert not torch.equal(tensor, Small().state_dict()[name])


def test_the_papers_schedule_drops_the_rate_after_epoch_300_of_500(stores):
    settings = {"epochs": 500, "batch_size": 4, "lr": 2e-4}
    result, walker = walk(stores, settings, train_m=[9.0])
    rates = [record["lr"] for record in result.history]
    assert rates[:300] == [2e-4] * 300
    assert rates[300:] == pytest.approx([2e-5] * 200, rel=1e-12)
    # and the weight walked exactly as far as those rates carry it
    assert walker.depth_m.item() == pytest.approx(300 * 2e-4 + 200 * 2e-5, rel=1e-6)


@pytest.mark.parametrize(
    ("epochs", "lr_milestone", "lr_gamma", "far"),
    [(10, 0.6, 0.1, 6), (10, 0.5, 0.25, 5), (4, 1.0, 0.1, 4), (5, 0.2, 0.5, 1)],
)
def test_the_step_schedule_drops_after_its_share_of_the_epochs(
    stores, epochs, lr_milestone, lr_gamma, far
):
    settings = {
        "epochs": epochs,
        "lr_milestone": lr_milestone,
        "lr_gamma": lr_gamma,
        "batch_size": 2,
    }
    result, walker = walk(stores, settings, train_m=[900.0] * 5)  # three steps an epoch
    expected = [1.0] * far + [lr_gamma] * (epochs - far)
    assert [record["lr"] for record in result.history] == pytest.approx(expected)
    assert walker.depth_m.item() == pytest.approx(3 * sum(expected))


def test_the_step_schedule_of_a_single_epoch_drops_within_it(stores):
    settings = {"epochs": 1, "lr_milestone": 0.5, "lr_gamma": 0.1, "batch_size": 2}
    _, walker = walk(stores, settings, train_m=[900.0] * 8)  # four steps
    assert walker.depth_m.item() == pytest.approx(2 + 2 * 0.1)


def test_one_cycle_rises_to_its_rate_and_falls_to_almost_nothing(stores):
    settings = {"epochs": 20, "schedule": "one_cycle", "lr": 0.5}
    result, walker = walk(stores, settings, train_m=[900.0])
    rates = [record["lr"] for record in result.history]
    top = rates.index(max(rates))
    assert 0 < top < 10 and max(rates) == pytest.approx(0.5)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True) and rates[-1] < 1e-3
    assert walker.depth_m.item() == pytest.approx(sum(rates), rel=1e-6)


@pytest.mark.parametrize(("name", "value"), [("optimizer", "rmsprop"), ("schedule", "cosine")])
def test_a_setting_that_does_not_exist_is_refused_by_name(name, value):
    with pytest.raises(ValidationError, match=name):
        Train(**{"epochs": 1, name: value})


@pytest.mark.parametrize("schedule", ["step", "one_cycle"])
def test_a_single_step_is_enough_of_a_schedule(stores, schedule):
    result, walker = walk(stores, {"epochs": 1, "schedule": schedule}, train_m=[9.0])
    assert len(result.history) == 1 and walker.depth_m.item() > 0


@pytest.mark.parametrize(("every", "best_epoch"), [(1, 3), (2, 4), (5, 5), (7, 7), (100, 8)])
def test_the_weights_of_the_best_validated_epoch_are_kept(stores, every, best_epoch):
    # the weight walks one metre an epoch; validation would have it at 3.2 m
    settings = {"epochs": 8, "checkpoint": "best", "val_interval": every, "lr_milestone": 1.0}
    result, walker = walk(stores, settings, train_m=[50.0], validation_m=[3.2])
    assert result.best_epoch == best_epoch
    assert result.state["depth_m"].item() == best_epoch
    assert walker.depth_m.item() == 8
    validated = [record["epoch"] for record in result.history if "val/total" in record]
    assert validated == sorted({*range(every, 9, every), 8})


def test_the_last_epochs_weights_are_kept_where_that_is_asked_for(stores):
    settings = {"epochs": 8, "checkpoint": "last", "val_interval": 1, "lr_milestone": 1.0}
    result, _ = walk(stores, settings, train_m=[50.0], validation_m=[3.2])
    assert result.best_epoch == 8 and result.state["depth_m"].item() == 8
    assert min(result.history, key=lambda record: record["val/total"])["epoch"] == 3


def test_without_validation_frames_the_last_epochs_weights_are_kept(stores):
    result, _ = walk(
        stores, {"epochs": 4, "checkpoint": "best", "lr_milestone": 1.0}, train_m=[50.0]
    )
    assert result.best_epoch == 4 and result.state["depth_m"].item() == 4
    assert not any(name.startswith("val/") for record in result.history for name in record)


def test_kept_weights_are_a_copy_that_training_does_not_reach(stores):
    result, walker = walk(stores, {"epochs": 2}, train_m=[50.0])
    kept = result.state["depth_m"].item()
    with torch.no_grad():
        walker.depth_m.add_(1)
    assert result.state["depth_m"].item() == kept


def test_every_epoch_is_reported_as_it_ends(stores):
    reported = []
    settings = {"epochs": 3, "val_interval": 2}
    result, _ = walk(
        stores, settings, train_m=[50.0], validation_m=[3.0],
        on_epoch=lambda record: reported.append(dict(record)),
    )  # fmt: skip
    assert reported == result.history
    assert [record["epoch"] for record in reported] == [1, 2, 3]
    terms = {"total", "l1", "charbonnier"}
    for record in reported:
        assert {f"train/{term}" for term in terms} <= set(record)
        assert record["seconds"] > 0
        assert record["samples_per_s"] == pytest.approx(1 / record["seconds"])
    expected = {f"val/{name}" for name in (*terms, "rmse", "psnr", "input_psnr")}
    assert {name for name in reported[1] if name.startswith("val/")} == expected


def test_an_error_while_an_epoch_is_reported_saves_the_state_first(stores):
    saved: list[Mapping[str, Any]] = []
    settings = Train(epochs=3, batch_size=2, checkpoint="last", checkpoint_minutes=1000)

    def run(**options: Any) -> FitResult:
        arguments = (HDEDLoss(Loss(), 8.0), samples_of(stores, range(6)), None, settings, CPU)
        return fit(tiny_network(), *arguments, save=saved.append, **options)

    def fails_after_two(record: Mapping[str, float]) -> None:
        if record["epoch"] == 2:
            raise HDEDError("MLflow does not answer")

    with pytest.raises(HDEDError, match="does not answer"):
        run(on_epoch=fails_after_two)
    assert [(state["epoch"], state["step"]) for state in saved] == [(3, 0)]
    assert same(run(resume=copy.deepcopy(saved[0])).state, run().state)


def test_the_train_loss_of_an_epoch_is_the_mean_over_its_frames(stores):
    # batches of 3, 3 and 1: a mean over batches would weigh the last frame three times
    depths = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    settings = {"epochs": 1, "batch_size": 3, "lr": 1e-12}
    result, _ = walk(stores, settings, train_m=depths)
    assert result.history[0]["train/l1"] == pytest.approx(sum(depths) / 7, rel=1e-6)


def test_validation_is_the_mean_over_whole_frames(stores):
    frames = TrainingFrames(stores.scenes, [stores.defocused], np.array([1, 4]), "crop", 32)
    scores = validate(Walker(3.0), HDEDLoss(DEPTH_L1), frames, CPU)  # pyright: ignore
    rmse, l1, score = [], [], []
    for i in (1, 4):
        known = stores.depth[i][stores.depth[i] > 0].astype(np.float64)
        rmse.append(math.sqrt(((known - 3) ** 2).mean()))
        l1.append(np.abs(known - 3).mean())
        score.append(psnr(stores.defocused_rgb[i], stores.rgb[i]))
    assert scores["rmse"] == pytest.approx(np.mean(rmse), rel=1e-5)
    assert scores["l1"] == pytest.approx(np.mean(l1), rel=1e-5)
    assert scores["psnr"] == scores["input_psnr"] == pytest.approx(np.mean(score))


def test_a_validation_frame_without_depth_does_not_spoil_the_others(stores):
    frames = flat_frames(stores, [5.0, 0.0])
    scores = validate(Walker(3.0), HDEDLoss(DEPTH_L1), frames, CPU)  # pyright: ignore
    assert scores["rmse"] == pytest.approx(2.0)


def test_a_training_batch_without_depth_is_no_mistake(stores):
    _, walker = walk(stores, {"epochs": 2}, train_m=[0.0, 0.0])
    assert walker.depth_m.item() == 0


class Failing(HDEDLoss):
    """Loses one term to NaN at one call."""

    def __init__(self, term: str, call: int) -> None:
        super().__init__(Loss(), 8.0)
        self.term, self.call = term, call

    def forward(self, *args: Any) -> dict[str, Tensor]:
        terms = super().forward(*args)
        self.call -= 1
        if self.call == 0:
            spoiled = {name: terms[name] * math.nan for name in (self.term, "total")}
            terms = {name: spoiled.get(name, term) for name, term in terms.items()}
        return terms


@pytest.mark.parametrize("term", ["l1", "gradient", "charbonnier", "ssim"])
def test_a_loss_of_nan_stops_at_once_and_names_term_epoch_and_step(stores, term):
    reported = []
    with pytest.raises(HDEDError) as caught:
        fit(
            tiny_network(),
            Failing(term, call=5),  # the second step of the second epoch of three steps
            samples_of(stores, range(6)),
            None,
            Train(epochs=4, batch_size=2, checkpoint="last"),
            CPU,
            reported.append,
        )
    message = str(caught.value)
    assert "\n" not in message and "nan" in message
    assert "epoch 2" in message and "step 2" in message
    assert message.split("loss")[0].split()[-1] == term
    assert len(reported) == 1


def test_weights_that_blow_up_stop_the_run(stores):
    with pytest.raises(HDEDError, match="epoch"):
        fit_tiny(stores, optimizer="sgd", lr=1e30, epochs=5)


@pytest.mark.parametrize("head", ["depth", "all_in_focus"])
def test_either_head_trains_alone(stores, head):
    network = tiny_network(heads=(head,))
    frames, loss = some_frames(stores, range(4)), HDEDLoss(Loss(), 8.0)
    settings = Train(epochs=1, batch_size=2)
    record = fit(network, loss, StoredSampler(frames), frames, settings, CPU).history[0]
    depth = {"val/rmse", "train/l1", "train/gradient"}
    image = {"val/psnr", "val/input_psnr", "train/charbonnier", "train/ssim"}
    present, absent = (depth, image) if head == "depth" else (image, depth)
    assert present <= set(record) and not absent & set(record)


@pytest.mark.parametrize(("frames", "batch_size"), [(3, 2), (2, 1), (1, 4)])
def test_a_batch_of_one_frame_at_the_smallest_size_trains_or_is_refused(stores, frames, batch_size):
    # 32 px are a single pixel at the deepest map, where one frame alone has no variance
    settings = Train(epochs=1, batch_size=batch_size, checkpoint="last")
    loss, data = HDEDLoss(Loss(), 8.0), samples_of(stores, range(frames), 32)
    try:
        state = fit(tiny_network(), loss, data, None, settings, CPU).state
    except HDEDError as error:
        assert "size_px" in str(error) or "batch_size" in str(error)
    else:
        assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize(
    "encoder",
    [pytest.param("densenet121", marks=pytest.mark.slow), "efficientnet_lite0"],
)
def test_bfloat16_learns_as_float32_does(stores, encoder):
    decoder = "transposed" if encoder == "densenet121" else "bilinear"
    losses = {}
    for precision in ("float32", "bf16"):
        network = tiny_network(width=0.125, encoder=encoder, decoder=decoder)
        settings = Train(
            epochs=12,
            batch_size=4,
            lr=3e-3,
            checkpoint="last",
            precision=precision,
            optimizer="adamw",
        )
        samples = samples_of(stores, range(8), 64)
        history = fit(network, HDEDLoss(Loss(), 8.0), samples, None, settings, CPU).history
        losses[precision] = [record["train/total"] for record in history]
        assert all(p.dtype == torch.float32 for p in network.parameters())
    assert losses["bf16"] != losses["float32"]
    assert losses["bf16"][0] == pytest.approx(losses["float32"][0], rel=0.02)
    assert losses["bf16"][-1] < 0.7 * losses["bf16"][0]
    assert losses["bf16"][-1] == pytest.approx(losses["float32"][-1], rel=0.3)


def test_weight_decay_is_adamws_own(stores):
    network = tiny_network()
    names = [n for n, p in network.named_parameters() if n == "encoder.features.conv0.weight"]
    before = {n: p.detach().clone() for n, p in network.named_parameters() if n in names}
    settings = Train(
        epochs=1, batch_size=6, lr=1e-2, checkpoint="last", optimizer="adamw", weight_decay=0.5
    )
    fit(network, HDEDLoss(Loss(), 8.0), samples_of(stores, range(6)), None, settings, CPU)
    # at the identity start nothing but the decay moves the encoder in the first step
    for name, tensor in before.items():
        expected = tensor * (1 - 1e-2 * 0.5)
        torch.testing.assert_close(dict(network.named_parameters())[name].data, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, in its compiler
def test_a_compiled_network_takes_the_same_steps(stores):
    states = {}
    for compiled in (False, True):
        settings = Train(
            epochs=2, batch_size=4, lr=1e-4, checkpoint="last", optimizer="sgd", compile=compiled
        )
        samples = samples_of(stores, range(8), 64)
        loss = HDEDLoss(Loss(), 8.0)
        result = fit(tiny_network(dropout=0.0), loss, samples, None, settings, CPU)
        states[compiled] = result.state
    for name, tensor in states[False].items():
        torch.testing.assert_close(states[True][name], tensor, rtol=1e-3, atol=1e-5)
