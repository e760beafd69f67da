"""Depth errors, PSNR and SSIM against torchmetrics, pytorch-msssim and plain loops."""

import math

import numpy as np
import pytest
import pytorch_msssim
import torch
import torchmetrics.functional as tm
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from support.ranks import spearman
from torchmetrics.functional.image import peak_signal_noise_ratio

from hded.common.errors import HDEDError
from hded.metrics import DEPTH_METRICS, HIGHER_IS_BETTER, IMAGE_METRICS, depth_errors, psnr, ssim
from hded.training import similarity as ssim_module


def depth_pair(seed: int = 0, size: tuple[int, int] = (11, 13)) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    gt = rng.uniform(0.5, 10, size).astype(np.float32)
    pred = (gt * rng.uniform(0.4, 2.2, size)).astype(np.float32)
    return pred, gt, rng.random(size) < 0.6


def plain_depth_errors(pred: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """The usual formulas, one pixel at a time, in Python's own floats."""
    sums: dict[str, float] = {name: 0.0 for name in DEPTH_METRICS}
    count = 0
    for p, g, v in zip(pred.ravel().tolist(), gt.ravel().tolist(), valid.ravel(), strict=True):
        if not v:
            continue
        count += 1
        sums["rmse"] += (p - g) ** 2
        sums["abs_rel"] += abs(p - g) / g
        sums["log10"] += abs(math.log10(p / g))
        for k in (1, 2, 3):
            sums[f"delta{k}"] += max(p / g, g / p) < 1.25**k
    means = {name: total / count for name, total in sums.items()}
    order = spearman(pred[valid], gt[valid])
    return {**means, "rmse": math.sqrt(means["rmse"]), "spearman": order}


@given(seed=st.integers(0, 2**16), height=st.integers(1, 20), width=st.integers(1, 20))
def test_depth_errors_are_those_of_a_plain_loop(seed, height, width):
    pred, gt, valid = depth_pair(seed, (height, width))
    valid[0, 0] = True
    expected = plain_depth_errors(pred, gt, valid)
    assert depth_errors(pred, gt, valid) == pytest.approx(expected, abs=1e-9)


def test_depth_errors_are_those_of_torchmetrics():
    pred, gt, valid = depth_pair(size=(60, 80))
    p, g = (torch.from_numpy(a[valid].astype(np.float64)) for a in (pred, gt))
    errors = depth_errors(pred, gt, valid)
    assert errors["rmse"] == pytest.approx(
        tm.mean_squared_error(p, g, squared=False).item(), abs=1e-6
    )
    assert errors["abs_rel"] == pytest.approx(
        tm.mean_absolute_percentage_error(p, g).item(), abs=1e-6
    )
    assert errors["log10"] == pytest.approx(
        tm.mean_absolute_error(p.log10(), g.log10()).item(), abs=1e-6
    )


def test_a_perfect_prediction_has_no_error():
    gt = depth_pair()[1]
    errors = depth_errors(gt, gt, np.ones(gt.shape, bool))
    order = errors.pop("spearman")
    assert order == pytest.approx(1)
    assert errors == {"rmse": 0, "abs_rel": 0, "log10": 0, "delta1": 1, "delta2": 1, "delta3": 1}


def test_the_rank_correlation_is_scipys_also_with_ties():
    rng = np.random.default_rng(0)
    gt = rng.integers(1, 6, (30, 40)).astype(float)
    pred = np.rint(gt + rng.normal(0, 2, gt.shape)).clip(1)
    expected = spearman(pred, gt)
    for scaled in (pred, 7 * pred, pred**3):  # the order alone counts
        assert depth_errors(scaled, gt, gt > 0)["spearman"] == pytest.approx(expected)
    assert depth_errors(pred.max() + 1 - pred, gt, gt > 0)["spearman"] == pytest.approx(-expected)


def test_the_rank_correlation_of_many_pixels_is_nearly_that_of_all_and_of_a_constant_zero():
    rng = np.random.default_rng(0)
    gt = rng.uniform(1, 9, (300, 400))
    pred = (gt + rng.normal(0, 3, gt.shape)).clip(0.1)
    expected = float(np.asarray(spearmanr(pred.ravel(), gt.ravel()))[0])
    assert depth_errors(pred, gt, gt > 0)["spearman"] == pytest.approx(expected, abs=0.02)
    assert depth_errors(np.full(gt.shape, 2.0), gt, gt > 0)["spearman"] == 0


@pytest.mark.parametrize(("ratio", "within"), [(1.2, 3), (1.3, 2), (1.7, 1), (2.0, 0)])
@pytest.mark.parametrize("upwards", [True, False])
def test_the_deltas_count_ratios_either_way_up(ratio, within, upwards):
    gt = np.full((3, 3), 4.0)
    errors = depth_errors(gt * ratio if upwards else gt / ratio, gt, gt > 0)
    assert [errors[f"delta{k}"] for k in (1, 2, 3)] == [0.0] * (3 - within) + [1.0] * within
    assert errors["log10"] == pytest.approx(math.log10(ratio))


def test_a_ratio_at_the_threshold_is_not_under_it():
    gt = np.full((2, 2), 4.0)
    assert depth_errors(gt * 1.25, gt, gt > 0)["delta1"] == 0


def test_invalid_pixels_count_for_nothing_whatever_they_hold():
    pred, gt, valid = depth_pair()
    expected = depth_errors(pred, gt, valid)
    for junk in (np.nan, np.inf, -np.inf, 0, -3):
        pred[~valid], gt[~valid] = junk, junk
        assert depth_errors(pred, gt, valid) == expected


def test_without_a_valid_pixel_every_error_is_nan():
    pred, gt, valid = depth_pair()
    errors = depth_errors(pred, gt, np.zeros_like(valid))
    assert set(errors) == set(DEPTH_METRICS) and all(math.isnan(e) for e in errors.values())


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_a_prediction_that_is_no_depth_is_refused(value):
    pred, gt, valid = depth_pair()
    pred[np.nonzero(valid)[0][0], np.nonzero(valid)[1][0]] = value
    with pytest.raises(HDEDError, match="prediction"):
        depth_errors(pred, gt, valid)


def test_depth_maps_of_different_shapes_are_refused():
    pred, gt, valid = depth_pair()
    for arrays in ((pred[:-1], gt, valid), (pred, gt[:, :-1], valid), (pred, gt, valid[0])):
        with pytest.raises(HDEDError, match="shapes"):
            depth_errors(*arrays)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_a_mask_that_is_not_bool_is_refused_and_never_taken_for_indices(dtype):
    pred, gt, valid = depth_pair()
    with pytest.raises(HDEDError, match="valid"):
        depth_errors(pred, gt, valid.astype(dtype))


def test_the_sums_of_a_large_far_image_do_not_lose_digits():
    gt = np.full((2000, 1000), 80.0, np.float32)
    errors = depth_errors(gt + np.float32(0.125), gt, gt > 0)
    assert errors["rmse"] == pytest.approx(0.125, rel=1e-12)
    assert errors["abs_rel"] == pytest.approx(0.125 / 80, rel=1e-12)


def test_every_metric_has_a_direction():
    assert HIGHER_IS_BETTER <= set(DEPTH_METRICS) | set(IMAGE_METRICS)
    assert set(DEPTH_METRICS) - HIGHER_IS_BETTER == {"rmse", "abs_rel", "log10"}


def images(seed: int = 0, size: tuple[int, int] = (33, 47)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sharp = gaussian_filter(rng.random((*size, 3)), (2, 2, 0))
    sharp = (sharp - sharp.min()) / np.ptp(sharp)
    return np.clip(sharp + rng.normal(0, 0.05, sharp.shape), 0, 1), sharp


def as_batch(image: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(image).to(dtype).movedim(-1, 0)[None]


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_psnr_is_torchmetrics(seed):
    image, sharp = images(seed)
    expected = peak_signal_noise_ratio(as_batch(image), as_batch(sharp), data_range=1.0).item()
    # relative: torchmetrics takes the logarithm's base in float32
    assert psnr(image, sharp) == pytest.approx(expected, rel=1e-6)


def test_psnr_is_its_formula():
    image, sharp = (to_bytes(a) for a in images())
    pairs = zip(image.ravel().tolist(), sharp.ravel().tolist(), strict=True)
    squares = [((a - b) / 255) ** 2 for a, b in pairs]
    expected = -10 * math.log10(math.fsum(squares) / len(squares))
    assert psnr(image, sharp) == pytest.approx(expected, abs=1e-9)


def test_psnr_of_one_step_of_255_is_48_db():
    image = np.full((5, 6, 3), 100, np.uint8)
    assert psnr(image + np.uint8(1), image) == pytest.approx(20 * math.log10(255))


def test_psnr_of_bytes_does_not_wrap_around():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0


def test_psnr_of_equal_images_is_infinite():
    image = to_bytes(images()[0])
    assert psnr(image, image) == math.inf


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(11, 11), (12, 40), (33, 47)])
def test_ssim_is_pytorch_msssim(seed, size):
    image, sharp = images(seed, size)
    expected = pytorch_msssim.ssim(as_batch(image), as_batch(sharp), data_range=1.0).item()
    assert ssim(image, sharp) == pytest.approx(expected, abs=1e-6)
    in_torch = ssim_module.ssim(as_batch(image), as_batch(sharp))
    assert in_torch.shape == (1,) and in_torch.item() == pytest.approx(expected, abs=1e-6)


def test_ssim_of_a_batch_is_that_of_its_images_alone():
    pairs = [images(seed) for seed in range(4)]
    x, y = (torch.cat([as_batch(pair[i]) for pair in pairs]) for i in (0, 1))
    expected = [ssim(*pair) for pair in pairs]
    np.testing.assert_allclose(ssim_module.ssim(x, y), expected, rtol=0, atol=1e-12)


def test_ssim_in_float32_is_that_in_float64():
    image, sharp = images()
    single = ssim_module.ssim(as_batch(image, torch.float32), as_batch(sharp, torch.float32))
    assert single.item() == pytest.approx(ssim(image, sharp), abs=1e-4)


def test_ssim_of_equal_images_is_one_also_where_they_are_flat():
    image = images()[0]
    flat = np.full((15, 15, 3), 0.3)
    assert ssim(image, image) == pytest.approx(1) and ssim(flat, flat) == pytest.approx(1)


def test_ssim_is_symmetric_and_falls_with_blur():
    sharp = images()[0]
    scores = [ssim(gaussian_filter(sharp, (s, s, 0)), sharp) for s in (0.5, 1.0, 2.0, 4.0)]
    assert scores == sorted(scores, reverse=True)
    image, sharp = images()
    assert ssim(image, sharp) == pytest.approx(ssim(sharp, image), abs=1e-12)


def test_bytes_and_floats_of_one_image_have_one_score():
    image, sharp = (to_bytes(a) for a in images())
    for score in (psnr, ssim):
        assert score(image, sharp) == pytest.approx(score(image / 255, sharp / 255), abs=1e-9)
        assert score(image, sharp / 255) == pytest.approx(score(image, sharp), abs=1e-9)


@pytest.mark.parametrize("size", [(10, 30), (30, 10), (1, 1)])
def test_ssim_of_an_image_smaller_than_its_window_is_refused(size):
    image = np.zeros((*size, 3))
    with pytest.raises(HDEDError, match=f"{size[0]}x{size[1]}"):
        ssim(image, image)
    with pytest.raises(HDEDError, match=f"{size[0]}x{size[1]}"):
        ssim_module.ssim(as_batch(image), as_batch(image))


@pytest.mark.parametrize("score", [psnr, ssim])
@pytest.mark.parametrize("shape", [(12, 20, 3), (1, 20, 3), (20, 20, 1)])
def test_images_of_different_shapes_are_refused(score, shape):
    with pytest.raises(HDEDError, match="shape"):
        score(np.zeros((20, 20, 3)), np.ones(shape))
