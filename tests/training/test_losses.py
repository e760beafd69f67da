"""The paper's losses against loops over pixels, and what masks must keep out."""

import math
from functools import partial

import numpy as np
import pytest
import pytorch_msssim
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.batches import truth
from torch import Tensor

from hded.config.schema import Loss
from hded.training.losses import (
    HDEDLoss,
    charbonnier,
    gradient_depth,
    l1_depth,
    l1_image,
    ssim_loss,
)

DEPTH_TERMS = {
    "l1": l1_depth,
    "forward": partial(gradient_depth, operator="forward"),
    "prewitt": partial(gradient_depth, operator="prewitt"),
}
EVERY_DEPTH_TERM = pytest.mark.parametrize("term", DEPTH_TERMS)


def depth_batch(
    seed: int = 0, shape: tuple[int, int, int] = (2, 6, 7), known: float = 0.8
) -> tuple[Tensor, Tensor, Tensor]:
    """Random prediction, truth and mask of (B, 1, H, W), float64."""
    rng = np.random.default_rng(seed)
    batch, height, width = shape
    pred, gt = rng.uniform(0, 5, (2, batch, 1, height, width))
    valid = rng.random((batch, 1, height, width)) < known
    return torch.from_numpy(pred), torch.from_numpy(gt), torch.from_numpy(valid)


def loop_l1(pred: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> float:
    total, count = 0.0, 0
    for index in np.ndindex(pred.shape):
        if valid[index]:
            total, count = total + abs(pred[index] - gt[index]), count + 1
    return float(total / max(count, 1))


def loop_forward(pred: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> float:
    """mean |R(x+1) - R(x)| + mean |R(y+1) - R(y)| over pairs of valid pixels."""
    result = 0.0
    for dy, dx in ((0, 1), (1, 0)):
        total, count = 0.0, 0
        for b, c, y, x in np.ndindex(pred.shape):
            if y + dy >= pred.shape[2] or x + dx >= pred.shape[3]:
                continue
            here, there = (b, c, y, x), (b, c, y + dy, x + dx)
            if valid[here] and valid[there]:
                total += abs((pred[there] - gt[there]) - (pred[here] - gt[here]))
                count += 1
        result += float(total / max(count, 1))
    return result


def loop_prewitt(pred: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> float:
    """mean |dx| + |dy|: right column minus left, lower row minus upper, in whole 3x3 windows."""
    total, count = 0.0, 0
    for b, c, y, x in np.ndindex(pred.shape):
        window = (b, c, slice(y, y + 3), slice(x, x + 3))
        if valid[window].shape != (3, 3) or not valid[window].all():
            continue
        r = pred[window] - gt[window]
        total += abs(r[:, 2].sum() - r[:, 0].sum()) + abs(r[2].sum() - r[0].sum())
        count += 1
    return total / max(count, 1)


LOOPS = {"l1": loop_l1, "forward": loop_forward, "prewitt": loop_prewitt}


@EVERY_DEPTH_TERM
@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(st.integers(1, 3), st.integers(3, 9), st.integers(3, 9)),
    known=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
)
def test_a_depth_term_is_its_loop_over_valid_pixels(term, seed, shape, known):
    pred, gt, valid = depth_batch(seed, shape, known)
    expected = LOOPS[term](pred.numpy(), gt.numpy(), valid.numpy())
    assert DEPTH_TERMS[term](pred, gt, valid).item() == pytest.approx(expected, abs=1e-12)


@EVERY_DEPTH_TERM
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30, 0.0])
def test_what_an_invalid_pixel_holds_reaches_neither_value_nor_gradient(term, junk):
    pred, gt, valid = depth_batch(shape=(2, 9, 9), known=0.9)
    clean = pred.clone().requires_grad_()
    expected = DEPTH_TERMS[term](clean, gt, valid)
    expected.backward()
    for spoiled in ("gt", "pred"):
        p = torch.where(valid, pred, junk) if spoiled == "pred" else pred.clone()
        p.requires_grad_()
        g = torch.where(valid, gt, junk) if spoiled == "gt" else gt
        value = DEPTH_TERMS[term](p, g, valid)
        value.backward()
        assert value.item() == expected.item() != 0
        assert p.grad is not None and clean.grad is not None
        torch.testing.assert_close(p.grad, clean.grad, rtol=0, atol=0)
        assert (p.grad[~valid] == 0).all()


@EVERY_DEPTH_TERM
def test_a_batch_without_a_valid_pixel_gives_zero_and_no_gradient(term):
    pred, gt, valid = depth_batch()
    pred.requires_grad_()
    value = DEPTH_TERMS[term](pred, gt, torch.zeros_like(valid))
    value.backward()
    assert value.item() == 0
    assert pred.grad is not None and (pred.grad == 0).all()


@EVERY_DEPTH_TERM
def test_the_gradient_of_a_depth_term_is_that_of_finite_differences(term):
    pred, gt, valid = depth_batch(shape=(1, 5, 6))
    pred.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: DEPTH_TERMS[term](p, gt, valid), (pred,))


def test_the_gradient_terms_do_not_see_a_constant_offset():
    pred, _, valid = depth_batch()
    for operator in ("forward", "prewitt"):
        assert gradient_depth(pred, pred - 3, valid, operator).item() == pytest.approx(0, abs=1e-12)


def image_batch(seed: int = 0, size: tuple[int, int] = (13, 15)) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    image, reference = rng.random((2, 2, 3, *size))
    return torch.from_numpy(image), torch.from_numpy(reference)


def test_charbonnier_is_its_formula():
    image, reference = image_batch()
    pairs = zip(image.flatten().tolist(), reference.flatten().tolist(), strict=True)
    each = [math.sqrt((a - b) ** 2 + 1e-3**2) for a, b in pairs]
    assert charbonnier(image, reference).item() == pytest.approx(math.fsum(each) / len(each))
    assert charbonnier(image, image).item() == pytest.approx(1e-3)


def test_charbonnier_has_a_gradient_where_images_are_equal():
    image = image_batch()[0].requires_grad_()
    charbonnier(image, image.detach()).backward()
    assert image.grad is not None and (image.grad == 0).all()


def test_the_image_l1_is_the_mean_absolute_difference():
    image, reference = image_batch()
    pairs = zip(image.flatten().tolist(), reference.flatten().tolist(), strict=True)
    each = [abs(a - b) for a, b in pairs]
    assert l1_image(image, reference).item() == pytest.approx(math.fsum(each) / len(each))


def test_the_ssim_loss_is_one_minus_pytorch_msssim():
    image, reference = image_batch()
    expected = 1 - pytorch_msssim.ssim(image, reference, data_range=1.0).item()
    assert ssim_loss(image, reference).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("term", [charbonnier, l1_image, ssim_loss])
def test_the_gradient_of_an_image_term_is_that_of_finite_differences(term):
    image, reference = image_batch(size=(11, 12))
    image, reference = image[:1, :1].clone(), reference[:1, :1]
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: term(x, reference), (image,), atol=1e-6)


def loss_inputs() -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Outputs of a network (depth in metres, image in [-1, 1]) and the truth."""
    pred, gt, valid = depth_batch(shape=(2, 13, 15))
    image, sharp = image_batch()
    return {"depth": pred, "all_in_focus": 2 * image - 1}, gt, valid, 2 * sharp - 1


@pytest.mark.parametrize("gradient", ["forward", "prewitt"])
@pytest.mark.parametrize("content", ["charbonnier", "l1"])
@pytest.mark.parametrize("scale_m", [1.0, 10.0])
def test_the_total_is_the_weighted_sum_of_independent_terms(gradient, content, scale_m):
    outputs, gt, valid, sharp = loss_inputs()
    weights = Loss(mu=0.3, gradient=gradient, content=content, psi=2.5, lambda_=0.07)
    values = HDEDLoss(weights, scale_m)(outputs, truth(gt, valid, sharp))
    # the depth terms are taken on the unscaled output, the image terms in [0, 1]
    depth = (outputs["depth"] / scale_m).numpy(), (gt / scale_m).numpy(), valid.numpy()
    image, reference = (outputs["all_in_focus"].numpy() + 1) / 2, (sharp.numpy() + 1) / 2
    pair = torch.from_numpy(image), torch.from_numpy(reference)
    difference = image - reference
    content_value = {
        "charbonnier": np.sqrt(difference**2 + 1e-6).mean(),
        "l1": np.abs(difference).mean(),
    }[content]
    expected = {
        "l1": loop_l1(*depth),
        "gradient": LOOPS[gradient](*depth),
        {"charbonnier": "charbonnier", "l1": "l1_image"}[content]: content_value,
        "ssim": 1 - pytorch_msssim.ssim(*pair, data_range=1.0).item(),
    }
    expected["total"] = (
        expected["l1"]
        + 0.3 * expected["gradient"]
        + 0.07 * (content_value + 2.5 * expected["ssim"])
    )
    assert {k: v.item() for k, v in values.items()} == pytest.approx(expected, abs=1e-6)


def test_the_default_weights_are_the_papers():
    weights = Loss()
    assert (weights.mu, weights.psi, weights.lambda_) == (0.001, 4.0, 0.01)
    assert (weights.gradient, weights.content) == ("forward", "charbonnier")


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({}, {"l1", "gradient", "charbonnier", "ssim"}),
        ({"mu": 0.0, "content": "l1", "psi": 0.0}, {"l1", "l1_image"}),
        ({"mu": 0.0, "psi": 0.0}, {"l1", "charbonnier"}),
        ({"psi": 0.0}, {"l1", "gradient", "charbonnier"}),
        ({"mu": 0.0}, {"l1", "charbonnier", "ssim"}),
    ],
)
def test_a_weight_of_zero_leaves_its_term_out(changes, terms):
    outputs, *known = loss_inputs()
    values = HDEDLoss(Loss(**changes))(outputs, truth(*known))
    assert set(values) == {"total"} | terms


@pytest.mark.parametrize(("name", "value"), [("gradient", "sobel"), ("content", "l2")])
def test_a_term_that_does_not_exist_is_refused_by_name(name, value):
    with pytest.raises(ValidationError, match=name):
        Loss(**{name: value})


def test_a_depth_network_alone_has_the_depth_loss():
    outputs, gt, valid, sharp = loss_inputs()
    values = HDEDLoss(Loss())({"depth": outputs["depth"]}, truth(gt, valid, sharp))
    assert set(values) == {"total", "l1", "gradient"}
    expected = values["l1"] + 0.001 * values["gradient"]
    assert values["total"].item() == pytest.approx(expected.item())


def test_a_deblurring_network_alone_has_its_loss_unweighted():
    outputs, gt, valid, sharp = loss_inputs()
    head = {"all_in_focus": outputs["all_in_focus"]}
    values = HDEDLoss(Loss(lambda_=0.01))(head, truth(gt, valid, sharp))
    assert set(values) == {"total", "charbonnier", "ssim"}
    expected = values["charbonnier"] + 4 * values["ssim"]
    assert values["total"].item() == pytest.approx(expected.item())


def test_every_term_reaches_the_outputs_that_it_judges():
    outputs, gt, valid, sharp = loss_inputs()
    leaves = {name: output.clone().requires_grad_() for name, output in outputs.items()}
    HDEDLoss(Loss())(leaves, truth(gt, valid, sharp))["total"].backward()
    for leaf in leaves.values():
        assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.abs().max() > 0


def test_invalid_depth_of_nan_leaves_the_total_and_its_gradient_clean():
    outputs, gt, valid, sharp = loss_inputs()
    leaves = {name: output.clone().requires_grad_() for name, output in outputs.items()}
    spoiled = torch.where(valid, gt, math.nan)
    loss = HDEDLoss(Loss(), 10.0)
    total = loss(leaves, truth(spoiled, valid, sharp))["total"]
    total.backward()
    assert total.item() == loss(outputs, truth(gt, valid, sharp))["total"].item()
    for leaf in leaves.values():
        assert leaf.grad is not None and leaf.grad.isfinite().all()
