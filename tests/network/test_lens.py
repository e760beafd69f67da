"""The lens as a part of the input: depth from the CoC, and networks that are told the lens."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cameras import PAPER
from support.stores import write_stores
from torch import Tensor

from hded.common.errors import HDEDError
from hded.config.schema import Loss, Train
from hded.inference import load_predictor
from hded.network import HDEDNet
from hded.network.files import Header, save_network
from hded.network.readout import DepthReadout
from hded.optics import Camera, ThinLens
from hded.training.frames import TrainingFrames
from hded.training.loop import fit
from hded.training.losses import HDEDLoss, coc_errors, laplace
from hded.training.samplers import build_sampler
from hded.training.validation import validate

RANGE_M = (0.7, 10.2)
SLIM = {"encoder": "efficientnet_lite0", "decoder": "bilinear", "width": 1 / 16, "dropout": 0.0}
NARROW = ThinLens(
    focal_length_m=0.05, aperture_m=0.01, focus_distance_m=3.0, pixel_pitch_m=5e-5, max_coc_px=500
)
WIDE = ThinLens(
    focal_length_m=0.07, aperture_m=0.04, focus_distance_m=1.2, pixel_pitch_m=5e-5, max_coc_px=500
)
DRAWN = Camera(name="drawn", focal_length_m=(0.035, 0.07), f_number=(2.0, 4.0))


def rows(*lenses: ThinLens) -> Tensor:
    return torch.tensor([lens.row() for lens in lenses])


def image(size: tuple[int, int] = (64, 96), batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_coc_of_any_lens_is_its_depth() -> None:
    depth_m = np.geomspace(0.75, 10, 60).astype(np.float32)
    raw = [torch.from_numpy(np.arcsinh(lens.coc_px(depth_m) / 2)) for lens in (NARROW, WIDE)]
    readout = DepthReadout("coc", 10.0, RANGE_M)
    found = readout(torch.stack(raw).reshape(2, 1, 6, 10), rows(NARROW, WIDE))
    for one in found:
        np.testing.assert_allclose(one.numpy().ravel(), depth_m, rtol=1e-4)


def test_a_coc_of_no_depth_is_an_end_of_the_range_and_still_learns() -> None:
    raw = torch.tensor([-5.9, 5.9]).reshape(1, 1, 1, 2).requires_grad_()
    depth_m = DepthReadout("coc", 10.0, RANGE_M)(raw, rows(NARROW))
    assert depth_m.flatten().tolist() == pytest.approx(RANGE_M)
    depth_m.sum().backward()
    assert raw.grad is not None and (raw.grad > 0).all()  # a larger CoC is a larger depth


def test_the_loss_of_cocs_is_its_loop() -> None:
    rng = np.random.default_rng(0)
    depth_m = rng.uniform(0.8, 9, (2, 1, 4, 5)).astype(np.float32)
    depth_m[0, 0, 0] = 0
    coc = rng.normal(0, 2, depth_m.shape).astype(np.float32)
    errors = []
    for lens, gt, found in zip((NARROW, WIDE), depth_m, coc, strict=True):
        known = gt > 0
        errors += np.abs(found[known] - np.arcsinh(lens.coc_px(gt[known]) / 2)).tolist()
    gt = torch.from_numpy(depth_m)
    found = coc_errors(torch.from_numpy(coc), gt, gt > 0, rows(NARROW, WIDE))
    assert found[gt > 0].mean().item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_likelihood_is_best_where_the_expected_error_is_the_mean_error() -> None:
    errors = torch.rand(1, 1, 8, 8)
    valid = torch.rand(1, 1, 8, 8) < 0.7
    levels = errors[valid].mean().log() + torch.linspace(-0.5, 0.5, 11)
    losses = [laplace(errors, level.expand_as(errors), valid).item() for level in levels]
    assert losses.index(min(losses)) == 5
    pairs = [e / levels[2].exp() + levels[2] for e in errors[valid]]
    assert losses[2] == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)


def test_confidence_is_the_share_of_depths_within_a_factor() -> None:
    """Against CoCs that are drawn from the distribution that the head states."""
    readout = DepthReadout("coc", 10.0, (1e-3, 1e5), confidence=True)
    rng, draws = np.random.default_rng(0), 40000
    for lens, depth_m, expected in ((NARROW, 4.0, 0.05), (NARROW, 7.0, 0.05), (WIDE, 0.8, 0.1)):
        coc = torch.asarray(np.arcsinh(lens.coc_px([depth_m]) / 2)).reshape(1, 1, 1, 1)
        raw = torch.cat([coc, torch.full_like(coc, np.log(expected))], 1)
        true_m = readout(raw, rows(lens))
        stated = readout.confidence(raw, true_m, rows(lens)).item()
        drawn = coc + torch.from_numpy(rng.laplace(0, expected, (1, 1, 1, draws))).float()
        found = readout(torch.cat([drawn, drawn], 1), rows(lens)) / true_m
        within = ((found < 1.25) & (found > 1 / 1.25)).float().mean().item()
        assert 0.3 < within < 0.999
        assert stated == pytest.approx(within, abs=0.03)  # depth is not linear in the CoC


def test_confidence_in_log_depth_is_the_share_of_depths_within_a_factor() -> None:
    readout = DepthReadout("log", 10.0, (0.1, 20.0), confidence=True)
    rng = np.random.default_rng(0)
    for expected in (0.05, 0.3):
        errors = torch.from_numpy(rng.laplace(0, expected, (1, 1, 1, 40000))).float()
        raw = torch.cat([errors, torch.full_like(errors, np.log(expected))], 1)
        ratio = readout(raw) / readout(torch.zeros_like(raw))
        within = ((ratio < 1.25) & (ratio > 1 / 1.25)).float().mean().item()
        stated = readout.confidence(raw, readout(raw))
        assert 0.3 < within < 0.999
        torch.testing.assert_close(stated, torch.full_like(stated, within), atol=0.01, rtol=0)


def test_a_network_that_is_told_the_lens_begins_as_one_that_is_not_and_learns_it() -> None:
    torch.manual_seed(0)
    plain = HDEDNet(**SLIM, init="normal").eval()
    told = HDEDNet(**SLIM, init="normal", reads_lens=True).eval()
    told.load_state_dict(plain.state_dict(), strict=False)
    rgb, lens = image(), rows(NARROW, WIDE)
    before = told(rgb, lens=lens)
    torch.testing.assert_close(before["depth"], plain(rgb)["depth"])
    assert told.lens_features is not None
    with torch.no_grad():
        for layer in told.lens_features.layers:
            torch.nn.init.constant_(layer.get_parameter("weight"), 0.5)
    after, other = told(rgb, lens=lens), told(rgb, lens=rows(WIDE, WIDE))
    assert not torch.allclose(after["depth"], before["depth"])
    assert not torch.allclose(after["depth"][0], other["depth"][0])
    torch.testing.assert_close(after["depth"][1], other["depth"][1])
    # restoration needs no lens
    torch.testing.assert_close(after["all_in_focus"], before["all_in_focus"])


@pytest.mark.parametrize("how", [{"readout": "coc"}, {"reads_lens": True}])
def test_a_missing_lens_is_said(how: dict) -> None:
    network = HDEDNet(**SLIM, **how)
    with pytest.raises(HDEDError, match="needs the lens"):
        network(image())
    assert not HDEDNet(["all_in_focus"], **SLIM, **how).needs_lens  # restoration alone needs none


def saved(path: Path, camera: Camera) -> Path:
    torch.manual_seed(0)
    arguments = {**SLIM, "readout": "coc", "depth_range_m": [0.1, 1000.0]}
    network = HDEDNet(**arguments, init="normal")
    header = Header(network=arguments, geometry="crop", size_px=64, cameras=(camera.describe(640),))
    save_network(path, network.state_dict(), header)
    return path


def test_a_predictor_takes_the_lens_of_training_unless_another_is_given(tmp_path: Path) -> None:
    predictor = load_predictor(saved(tmp_path / "w.safetensors", PAPER))
    lens = PAPER.lens(np.empty(0), 640, np.random.default_rng(0))
    assert predictor.lens == lens
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    depth_m = predictor(photo)["depth"]
    np.testing.assert_array_equal(predictor(photo, lens)["depth"], depth_m)
    # of one CoC, two lenses make two depths
    other = replace(lens, focus_distance_m=4.0)
    gains = lens.row()[0], other.row()[0]
    expected = 4.0 / (1 - (1 - 2.0 / depth_m) * gains[0] / gains[1])
    np.testing.assert_allclose(predictor(photo, other)["depth"], expected, rtol=1e-3)


def test_a_predictor_of_many_lenses_asks_for_one(tmp_path: Path) -> None:
    predictor = load_predictor(saved(tmp_path / "w.safetensors", DRAWN))
    photo = np.zeros((64, 64, 3), np.uint8)
    assert predictor.lens is None
    with pytest.raises(HDEDError, match="several lenses and needs that of each"):
        predictor(photo)
    assert predictor(photo, NARROW)["depth"].shape == (64, 64)


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("how", [{"readout": "coc"}, {"reads_lens": True}])
def test_training_hands_the_lens_of_each_sample_to_network_and_loss(
    tmp_path: Path, how: dict, anew: bool
) -> None:
    stores = write_stores(tmp_path, size=(40, 56))
    frames = TrainingFrames(stores.scenes, [stores.defocused], np.arange(4), "crop", 32)
    frames.shots[0].lenses = rows(NARROW).expand(4, -1)
    sampler = build_sampler(frames, [[DRAWN]] if anew else ())
    settings = Train(
        epochs=2, batch_size=2, size_px=32, lr=1e-2,
        loss=Loss(depth="coc" if "readout" in how else "l1", weighting="fixed"),
    )  # fmt: skip
    torch.manual_seed(0)
    network = HDEDNet(**SLIM, **how, init="normal")
    loss = HDEDLoss(settings.loss, network.depth_scale_m)
    result = fit(network, loss, sampler, frames, settings, torch.device("cpu"))
    term = "l1_coc" if "readout" in how else "l1"
    history = [epoch[f"train/{term}"] for epoch in result.history]
    assert np.isfinite(history).all()
    if "reads_lens" in how:
        weights = result.state["lens_features.layers.0.weight"]
        assert weights.abs().max() > 0
    scores = validate(network, loss, frames, torch.device("cpu"))
    assert np.isfinite(scores["rmse"]) and term in scores


def test_training_without_known_lenses_is_refused(tmp_path: Path) -> None:
    stores = write_stores(tmp_path, size=(40, 56))
    frames = TrainingFrames(stores.scenes, [stores.defocused], np.arange(4), "crop", 32)
    network = HDEDNet(**SLIM, readout="coc")
    loss, settings = HDEDLoss(Loss(depth="coc")), Train(epochs=1, batch_size=2, size_px=32)
    with pytest.raises(HDEDError, match=re.escape("needs the lens of each picture")):
        fit(network, loss, build_sampler(frames), None, settings, torch.device("cpu"))
