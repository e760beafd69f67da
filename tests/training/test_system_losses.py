"""The losses of other systems, against loops and against the renderer."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.cameras import PAPER
from torch import Tensor

from hded.blur import gaussian_gather
from hded.common.errors import HDEDError
from hded.config.schema import Loss
from hded.network.hded import SCALE
from hded.network.readout import encode_ordinal
from hded.training.batch import Batch
from hded.training.losses import (
    HDEDLoss,
    frequency_distance,
    mse_image,
    ordinal_depth,
    reblur,
    smoothness,
    surface_depth,
)

LENS = PAPER.lens(np.empty(0), 640, np.random.default_rng(0))
LENSES = torch.tensor([LENS.row()])
THRESHOLDS = torch.from_numpy(np.geomspace(0.7, 10.2, 12)).float()


def depths(seed: int = 0, size: tuple[int, int] = (7, 8)) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    pred, gt = torch.from_numpy(rng.uniform(0.8, 9, (2, 1, 1, *size))).float()
    return pred, gt, torch.from_numpy(rng.random((1, 1, *size)) < 0.8)


def frame(size: tuple[int, int] = (96, 128)) -> tuple[Tensor, Tensor, Tensor]:
    """A sharp image in [0, 1], its depth and its 8-bit rendering, as the stage stores it."""
    rng = np.random.default_rng(2)
    sharp = rng.random((*size, 3)).astype(np.float32)
    depth_m = np.broadcast_to(np.linspace(1, 6, size[1], dtype=np.float32), size)
    blurred = np.rint(gaussian_gather(sharp, LENS.sigma_px(depth_m)) * 255) / 255
    planes = [torch.from_numpy(a).float().movedim(-1, 0)[None] for a in (sharp, blurred)]
    return planes[0], torch.from_numpy(depth_m.copy())[None, None], planes[1]


def batch_of(sharp: Tensor, depth_m: Tensor, defocused: Tensor, lenses: Tensor | None) -> Batch:
    images = 2 * sharp - 1, 2 * defocused - 1
    return Batch(images[1], *images, depth_m, depth_m > 0, lenses, (0,))


def test_log_l1_is_its_loop() -> None:
    pred, gt, valid = depths()
    pairs = zip(pred[valid].tolist(), gt[valid].tolist(), strict=True)
    expected = np.mean([abs(math.log(p) - math.log(g)) for p, g in pairs])
    batch = batch_of(
        torch.zeros(1, 3, 7, 8), torch.where(valid, gt, 0), torch.zeros(1, 3, 7, 8), None
    )
    loss = HDEDLoss(Loss(depth="log_l1"))
    assert loss({"depth": pred}, batch)["log_l1"].item() == pytest.approx(expected, rel=1e-5)


def test_expected_errors_of_log_depth_are_trained_beside_depth_and_do_not_change_it() -> None:
    pred, gt, valid = depths()
    batch = batch_of(
        torch.zeros(1, 3, 7, 8), torch.where(valid, gt, 0), torch.zeros(1, 3, 7, 8), None
    )
    loss, gradients = HDEDLoss(Loss(depth="log_l1")), []
    log_error = torch.zeros_like(pred, requires_grad=True)
    for further in ({}, {"log_error": log_error}):
        depth = pred.clone().requires_grad_()
        terms = loss({"depth": depth, **further}, batch)
        terms["total"].backward()
        gradients.append(depth.grad)
    assert torch.equal(*gradients)
    errors = (pred.log() - gt.log()).abs()[valid]
    # the gradient of |e| / b + log b where b is 1
    assert log_error.grad is not None
    expected = (1 - errors) / valid.sum()
    torch.testing.assert_close(log_error.grad[valid], expected)


def test_ordinal_is_the_cross_entropy_of_each_threshold() -> None:
    _, gt, valid = depths()
    logits = torch.randn(1, 12, 7, 8, generator=torch.Generator().manual_seed(0))
    expected = []
    for y, x in np.argwhere(valid[0, 0].numpy()):
        for k, threshold in enumerate(THRESHOLDS.tolist()):
            p = 1 / (1 + math.exp(-logits[0, k, y, x].item()))
            expected.append(-math.log(p if gt[0, 0, y, x].item() > threshold else 1 - p))
    found = ordinal_depth(logits, gt, valid, THRESHOLDS).item()
    assert found == pytest.approx(np.mean(expected), rel=1e-5)
    perfect = 50 * (2 * encode_ordinal(gt, THRESHOLDS) - 1)
    assert ordinal_depth(perfect, gt, valid, THRESHOLDS).item() < 1e-6


def test_surface_terms_are_their_loops() -> None:
    pred, gt, valid = depths()
    p, g, v = (t[0, 0].numpy() for t in (pred, gt, valid))
    depth, slope, normal = [], [], []
    for y, x in np.ndindex(p.shape):
        if v[y, x]:
            depth.append(math.log(abs(p[y, x] - g[y, x]) + 0.5))
        if y + 1 == p.shape[0] or x + 1 == p.shape[1]:
            continue
        if not (v[y, x] and v[y, x + 1] and v[y + 1, x]):
            continue
        (px, py), (gx, gy) = ((d[y, x + 1] - d[y, x], d[y + 1, x] - d[y, x]) for d in (p, g))
        slope.append(math.log(abs(px - gx) + 0.5) + math.log(abs(py - gy) + 0.5))
        a, b = np.array([-px, -py, 1.0]), np.array([-gx, -gy, 1.0])
        normal.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    found = [term.item() for term in surface_depth(pred, gt, valid)]
    assert found == pytest.approx([np.mean(depth), np.mean(slope), np.mean(normal)], rel=1e-4)


@pytest.mark.parametrize("junk", [math.nan, math.inf, 0.0, 1e30])
def test_what_an_invalid_pixel_holds_reaches_no_depth_loss(junk: float) -> None:
    pred, gt, valid = depths()
    spoiled = torch.where(valid, gt, junk)
    logits = torch.randn(1, 12, 7, 8)
    image = torch.zeros(1, 3, 7, 8)
    batch, log_l1 = batch_of(image, gt, image, None), HDEDLoss(Loss(depth="log_l1"))
    for loss in (
        lambda truth: log_l1({"depth": pred}, replace(batch, depth_m=truth, valid=valid))["log_l1"],
        lambda truth: torch.stack(surface_depth(pred, truth, valid)),
        lambda truth: ordinal_depth(logits, truth, valid, THRESHOLDS),
    ):
        assert torch.equal(loss(spoiled), loss(gt))


def test_the_truth_blurred_by_true_depth_is_the_stored_image_up_to_rounding() -> None:
    sharp, depth_m, stored = frame()
    assert (reblur(sharp, depth_m, LENSES) - stored).abs().max() <= 0.5 / 255 + 1e-4


def test_the_reblur_loss_is_least_at_the_true_depth_and_its_gradient_leads_there() -> None:
    sharp, depth_m, stored = frame()
    loss = HDEDLoss(Loss(depth="reblur"))
    batch = batch_of(sharp, depth_m, stored, LENSES[None])
    values = {}
    for factor in (0.8, 1.0, 1.2):
        terms = loss({"depth": factor * depth_m}, batch)
        assert set(terms) == {"total", "reblur", "smoothness", "sharpness"}
        values[factor] = terms["reblur"].item()
    assert values[1.0] < 0.02 < min(values[0.8], values[1.2])
    # beyond the focus more depth is more blur on the whole right side of the image
    for factor, sign in ((0.8, -1), (1.2, 1)):
        estimate = (factor * depth_m).requires_grad_()
        loss({"depth": estimate}, batch)["reblur"].backward()
        assert estimate.grad is not None
        assert torch.sign(estimate.grad[..., 30:-30, 90:100].mean()) == sign


def test_a_margin_of_a_crop_does_not_count() -> None:
    """Its pixels were blurred with surroundings that the crop lacks."""
    sharp, depth_m, stored = frame((128, 160))
    loss = HDEDLoss(Loss(depth="reblur"))
    expected = loss({"depth": depth_m}, batch_of(sharp, depth_m, stored, LENSES[None]))
    spoiled = stored.clone()
    spoiled[..., :5], spoiled[..., -5:, :] = 0, 1
    found = loss({"depth": depth_m}, batch_of(sharp, depth_m, spoiled, LENSES[None]))
    assert found["reblur"].item() == expected["reblur"].item()


def test_consistency_compares_the_estimates_with_the_input() -> None:
    sharp, depth_m, stored = frame()
    batch = batch_of(sharp, depth_m, stored, LENSES[None])
    outputs = {"depth": depth_m, "all_in_focus": 2 * sharp - 1}
    with_it, without = HDEDLoss(Loss(consistency=0.5)), HDEDLoss(Loss())
    terms = with_it(outputs, batch)
    assert terms["consistency"].item() < 1 / 255
    expected = without(outputs, batch)["total"] + 0.5 * terms["consistency"]
    assert terms["total"].item() == pytest.approx(expected.item())
    blurred = with_it({**outputs, "all_in_focus": 2 * stored - 1}, batch)
    assert blurred["consistency"] > 10 * terms["consistency"]


def test_a_loss_that_needs_lenses_says_so_where_there_are_none() -> None:
    sharp, depth_m, stored = frame()
    with pytest.raises(HDEDError, match="needs the lens of each picture"):
        HDEDLoss(Loss(depth="reblur"))({"depth": depth_m}, batch_of(sharp, depth_m, stored, None))


def test_smoothness_is_cheap_at_edges_of_the_image_alone() -> None:
    depth_m = torch.ones(1, 1, 8, 8)
    depth_m[..., 4:] = 3.0
    flat, edge = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1.0
    assert smoothness(depth_m, edge) < 0.5 * smoothness(depth_m, flat)
    assert smoothness(2 * depth_m, flat).item() == pytest.approx(smoothness(depth_m, flat).item())


def test_the_distance_of_spectra_is_its_definition() -> None:
    sharp, _, stored = frame((12, 10))
    rows, columns = (np.arange(n) for n in (12, 10))
    dft = [np.exp(-2j * np.pi * np.outer(k, k) / len(k)) for k in (rows, columns)]
    spectra = [dft[0] @ image[0].double().numpy() @ dft[1] for image in (sharp, stored)]
    difference: Any = spectra[0] - spectra[1]
    expected = np.abs(difference.real).mean() + np.abs(difference.imag).mean()
    assert frequency_distance(sharp, stored).item() == pytest.approx(expected, rel=1e-4)


def test_estimates_at_other_scales_are_compared_with_averaged_pixels() -> None:
    sharp, depth_m, stored = frame()
    batch = batch_of(sharp, depth_m, stored, None)
    smaller = {n: sharp.unflatten(3, (-1, n)).unflatten(2, (-1, n)).mean((3, 5)) for n in (1, 2, 4)}
    outputs = {f"{SCALE}{n}": 2 * image - 1 for n, image in smaller.items()}
    outputs["all_in_focus"] = 2 * sharp - 1
    loss = HDEDLoss(Loss(content="mse", psi=0, frequency=0.1))
    terms = loss(outputs, batch)
    assert set(terms) == {"total", "mse_image", "frequency", "scales"}
    assert terms["total"].item() == pytest.approx(0, abs=1e-4)
    for factor, weight in ((4, 0.25), (2, 0.5), (1, 0.75)):
        wrong = smaller[factor] * 0.9
        terms = loss({**outputs, f"{SCALE}{factor}": 2 * wrong - 1}, batch)
        error = mse_image(wrong, smaller[factor])
        error += 0.1 * frequency_distance(wrong, smaller[factor])
        assert terms["scales"].item() == pytest.approx(weight * error.item(), rel=1e-2)


def test_a_denoised_image_adds_its_mean_squared_error() -> None:
    sharp, depth_m, stored = frame()
    batch = batch_of(sharp, depth_m, stored, None)
    outputs = {"depth": depth_m}
    terms = HDEDLoss(Loss())({**outputs, "denoised": 2 * stored - 1}, batch)
    expected = HDEDLoss(Loss())(outputs, batch)["total"] + mse_image(stored, sharp)
    assert terms["total"].item() == pytest.approx(expected.item())
