"""What the loss does, measured and steered: gradients at the encoder's output, learned weights."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hded.config.schema import Loss, Train, Weighting
from hded.network import HDEDNet
from hded.training.frames import TrainingFrames
from hded.training.gradients import gradient_at, norm
from hded.training.loop import fit
from hded.training.loss_weighting import GRADNORM_ALPHA, LossWeighting
from hded.training.losses import HDEDLoss
from hded.training.samplers import StoredSampler
from hded.training.validation import validate

CPU = torch.device("cpu")


def losses(depth: float = 2.0, deblur: float = 3.0) -> dict[str, Tensor]:
    return {"depth": torch.tensor(depth), "all_in_focus": torch.tensor(deblur)}


def test_fixed_weighs_deblurring_by_lambda():
    weighting = LossWeighting(Loss(weighting="fixed", lambda_=0.25))
    assert weighting(losses()).item() == pytest.approx(2 + 0.25 * 3)
    assert weighting.current() == {"depth": 1.0, "all_in_focus": 0.25}
    assert not list(weighting.parameters())


@pytest.mark.parametrize("name", ["fixed", "uncertainty", "gradnorm"])
@pytest.mark.parametrize("task", ["depth", "all_in_focus"])
def test_one_task_alone_has_nothing_to_weighting(name, task):
    alone = {task: losses()[task]}
    weighting = LossWeighting(Loss(weighting=name, lambda_=0.25))
    assert weighting(alone) is alone[task]
    weighting.learn(alone, {task: torch.tensor(1.0)})


def test_uncertainty_finds_the_scale_of_each_loss():
    """At constant losses the optimum of exp(-s) L + s is s = log L: each then weighs 1 / L."""
    weighting = LossWeighting(Loss(weighting="uncertainty", lambda_=0.25))
    assert weighting(losses()).item() == pytest.approx(5.0)
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        weighting(losses(0.05, 3.0)).backward()
        optimizer.step()
    weights = weighting.current()
    assert weights["depth"] == pytest.approx(1 / 0.05, rel=1e-3)
    assert weights["all_in_focus"] == pytest.approx(1 / 3.0, rel=1e-3)


def test_gradnorm_evens_the_gradients_of_tasks_that_learn_alike():
    weighting = LossWeighting(Loss(weighting="gradnorm"))
    norms = {"depth": torch.tensor(4.0), "all_in_focus": torch.tensor(1.0)}
    for _ in range(400):
        weighting.learn(losses(), norms)
    weights = weighting.current()
    assert sum(weights.values()) == pytest.approx(2.0)
    # 4 w = 1 (2 - w)
    assert weights["depth"] == pytest.approx(0.4, abs=0.05)


def test_gradnorm_favours_the_task_that_lags():
    weighting = LossWeighting(Loss(weighting="gradnorm"))
    norms = {"depth": torch.tensor(1.0), "all_in_focus": torch.tensor(1.0)}
    weighting.learn(losses(1.0, 1.0), norms)
    for _ in range(600):
        weighting.learn(losses(1.0, 0.5), norms)  # deblurring has halved, depth has not moved
    ratio = 2.0**GRADNORM_ALPHA
    # weights of equal norms stand as the rates to the power alpha, up to their common sum
    weights = weighting.current()
    targets = [(r / 0.75) ** GRADNORM_ALPHA for r in (1.0, 0.5)]
    assert targets[0] / targets[1] == pytest.approx(ratio)
    assert weights["depth"] > 1.25 > 0.75 > weights["all_in_focus"]
    assert sum(weights.values()) == pytest.approx(2.0)


def test_gradnorm_goes_on_where_it_stood():
    one, other = (
        LossWeighting(Loss(weighting="gradnorm")),
        LossWeighting(Loss(weighting="gradnorm")),
    )
    norms = {"depth": torch.tensor(4.0), "all_in_focus": torch.tensor(1.0)}
    for _ in range(5):
        one.learn(losses(), norms)
    other.load_state_dict(one.state_dict())
    for weighting in (one, other):
        for _ in range(5):
            weighting.learn(losses(1.0, 2.9), norms)
    assert one.current() == other.current()


def test_the_norm_of_a_gradient_is_over_all_maps_and_leaves_the_graph():
    maps = [torch.ones(2, 2, requires_grad=True), torch.ones(3, requires_grad=True)]
    terms = {"a": 2 * maps[0].sum() + 3 * maps[1].sum(), "b": maps[1].prod()}
    gradients = {name: gradient_at(term, maps) for name, term in terms.items()}
    assert norm(gradients["a"]).item() == pytest.approx(math.sqrt(4 * 4 + 3 * 9))
    assert norm(gradients["b"]).item() == pytest.approx(math.sqrt(3))
    assert not gradients["b"][0].any()
    terms["a"].backward()
    assert maps[0].grad is not None


def six_frames(stores: SimpleNamespace) -> StoredSampler:
    return StoredSampler(
        TrainingFrames(stores.scenes, [stores.defocused], np.arange(6), "crop", 32)
    )


def fitted(stores: SimpleNamespace, lambda_: float, name: Weighting = "fixed", **settings):
    torch.manual_seed(0)
    network = HDEDNet(width=1 / 16, depth_scale_m=8.0, init="normal", dropout=0.0)
    samples = six_frames(stores)
    loss = HDEDLoss(Loss(lambda_=lambda_, weighting=name), 8.0)
    how = Train(
        **{
            "epochs": 2,
            "batch_size": 3,
            "checkpoint": "last",
            "lr": 1e-3,
            "val_interval": 1,
            **settings,
        }
    )
    return network, loss, samples, fit(network, loss, samples, None, how, CPU)


def test_each_terms_gradient_at_the_encoder_is_recorded_as_the_first_batch_has_it(stores):
    history = fitted(stores, 0.25)[-1].history
    torch.manual_seed(0)
    network = HDEDNet(width=1 / 16, depth_scale_m=8.0, init="normal", dropout=0.0).train()
    samples = six_frames(stores)
    batch = next(iter(samples.batches(3, seed=0, epoch=1, hflip=0.5))).to(CPU)
    loss = HDEDLoss(Loss(lambda_=0.25), 8.0)

    class Kept(nn.Module):
        """The encoder, whose output can be asked for its gradient."""

        def __init__(self, encoder: nn.Module) -> None:
            super().__init__()
            self.encoder, self.channels = encoder, encoder.channels

        def forward(self, x: Tensor) -> list[Tensor]:
            self.maps = self.encoder(x)
            for m in self.maps:
                m.retain_grad()
            return self.maps

    assert network.encoder is not None
    network.encoder = kept = Kept(network.encoder)
    for name in ("l1", "gradient", "charbonnier", "ssim", "depth", "all_in_focus"):
        terms = loss(network(batch.rgb), batch)
        wanted = {
            **terms,
            "depth": terms["l1"] + 0.001 * terms["gradient"],
            "all_in_focus": 0.25 * (terms["charbonnier"] + 4 * terms["ssim"]),
        }
        wanted[name].backward()
        norm = torch.cat([m.grad.flatten() for m in kept.maps if m.grad is not None]).norm()
        assert history[0][f"grad/{name}"] == pytest.approx(norm.item(), rel=1e-3), name
    assert history[0]["weight/depth"] == 1 and history[0]["weight/all_in_focus"] == 0.25
    assert history[1]["grad/l1"] != history[0]["grad/l1"]


def test_lambda_says_how_much_deblurring_moves_the_encoder(stores):
    one, hundredth = (fitted(stores, v)[-1].history[0] for v in (1.0, 0.01))
    assert hundredth["grad/ssim"] == pytest.approx(one["grad/ssim"])
    ratio = hundredth["grad/all_in_focus"] / one["grad/all_in_focus"]
    assert ratio == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm"])
def test_learned_weights_move_while_the_network_trains_and_repeat_themselves(stores, name):
    _, loss, _, result = fitted(stores, 0.25, name, epochs=3)
    _, again, _, repeated = fitted(stores, 0.25, name, epochs=3)
    weights = [(r["weight/depth"], r["weight/all_in_focus"]) for r in result.history]
    assert weights[0] == (1.0, 1.0) and len(set(weights)) == 3
    assert loss.weighting.current() == again.weighting.current()
    assert all(torch.equal(t, repeated.state[n]) for n, t in result.state.items())


@pytest.mark.parametrize("heads", [("depth", "all_in_focus"), ("depth",), ("all_in_focus",)])
def test_validation_compares_epochs_by_lambda_whatever_was_learned(stores, heads):
    torch.manual_seed(0)
    network = HDEDNet(heads=heads, width=1 / 16, depth_scale_m=8.0)
    frames = TrainingFrames(stores.scenes, [stores.defocused], np.arange(2), "crop", 32)
    fixed = HDEDLoss(Loss(lambda_=0.25), 8.0)
    learned = HDEDLoss(Loss(lambda_=0.25, weighting="uncertainty"), 8.0)
    with torch.no_grad():
        learned.weighting.log_variance.copy_(torch.tensor([-3.0, 2.0]))
    scores = validate(network, learned, frames, CPU)
    assert scores == validate(network, fixed, frames, CPU)
    depth = scores.get("l1", 0) + 0.001 * scores.get("gradient", 0)
    deblur = scores.get("charbonnier", 0) + 4 * scores.get("ssim", 0)
    share = 0.25 if len(heads) == 2 else 1
    assert scores["total"] == pytest.approx(depth + share * deblur, rel=1e-6)


def test_validation_counts_what_belongs_to_no_task():
    loss = HDEDLoss(Loss(consistency=0.5), 8.0)
    terms = {"l1": 1.0, "charbonnier": 2.0, "consistency": 4.0, "denoising": 8.0}
    plain = HDEDLoss(Loss(), 8.0).by_lambda({"l1": 1.0, "charbonnier": 2.0})
    assert loss.by_lambda(terms) == pytest.approx(plain + 0.5 * 4 + 8)


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm"])
def test_a_fit_with_learned_weights_goes_on_to_the_same_end(stores, name):
    states = []
    stops = iter([False, False, True])
    how = Train(epochs=3, batch_size=3, checkpoint="last", lr=1e-3, checkpoint_minutes=0)

    def parts():
        torch.manual_seed(0)
        network = HDEDNet(width=1 / 16, depth_scale_m=8.0, dropout=0.5)
        samples = six_frames(stores)
        return network, HDEDLoss(Loss(weighting=name), 8.0), samples, None, how, CPU

    whole = fit(*parts())
    with pytest.raises(KeyboardInterrupt):
        fit(
            *parts(),
            save=lambda state: states.append(clone(state)),
            should_stop=lambda: next(stops),
        )
    resumed = fit(*parts(), resume=states[-1])
    assert all(torch.equal(t, whole.state[n]) for n, t in resumed.state.items())
    for one, other in zip(whole.history, resumed.history, strict=True):
        for key in one.keys() - {"seconds", "samples_per_s", "data_share"}:
            assert one[key] == other[key], key


def clone(value):
    """Copy a state as a file would."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: clone(v) for key, v in value.items()}
    return [clone(v) for v in value] if isinstance(value, list | tuple) else value
