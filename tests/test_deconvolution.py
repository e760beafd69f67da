"""Deconvolution: its solver against a dense solution, its gains on real and drawn scenes."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import loadmat
from support.cameras import PAPER
from support.hdf5 import dataset

from hded.blur import gaussian_gather
from hded.common.errors import HDEDError
from hded.deconvolution import (
    BlurOperator,
    conjugate_gradients,
    deconvolve_total_variation,
    deconvolve_with_denoiser,
)

SIDE_PX, CROPS = 256, 16


def psnr(image: NDArray, truth: NDArray) -> float:
    rounded = np.clip(np.rint(image * 255), 0, 255) / 255
    return float(-10 * np.log10(np.mean((rounded - truth) ** 2)))


def scene(height: int = 60, width: int = 80) -> tuple[NDArray, NDArray, NDArray]:
    """A drawn picture of flat shapes, its depth, and the picture defocused, as 8 bits."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:height, :width]
    sharp = np.full((height, width, 3), 0.5, np.float32)
    for _ in range(25):
        top, left = rng.integers(0, height), rng.integers(0, width)
        inside = (abs(rows - top) < rng.integers(3, 12)) & (abs(columns - left) < 8)
        sharp[inside] = rng.random(3)
    depth_m = (1.0 + 5 * columns / width).astype(np.float32)
    sigma = PAPER.lens(depth_m, 640, rng).sigma_px(depth_m)
    return sharp, depth_m, (np.rint(gaussian_gather(sharp, sigma) * 255) / 255).astype(np.float32)


def sigma_of(depth_m: NDArray) -> NDArray:
    return PAPER.lens(depth_m, 640, np.random.default_rng(0)).sigma_px(depth_m)


def test_conjugate_gradients_solve_what_a_dense_solver_solves() -> None:
    rng = np.random.default_rng(0)
    half = rng.standard_normal((12, 12)).astype(np.float32)
    matrix = half @ half.T + 3 * np.eye(12, dtype=np.float32)
    b = rng.standard_normal(12).astype(np.float32)
    found = conjugate_gradients(lambda v: matrix @ v, b, np.zeros(12, np.float32), 30)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, b), rtol=1e-3, atol=1e-4)


def test_conjugate_gradients_end_at_the_solution() -> None:
    b = np.ones(4, np.float32)
    assert (conjugate_gradients(lambda v: v, b, b, 5) == b).all()


def test_a_small_deconvolution_is_the_minimum_of_its_objective() -> None:
    """Against scipy's general minimiser of the same objective, its corner rounded by 1e-4."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(1)
    size, weight = (6, 7), 2e-3
    sharp = (rng.random((*size, 3)) > 0.5).astype(np.float32)
    sigma = rng.uniform(0.5, 1.5, size).astype(np.float32)
    blurred = gaussian_gather(sharp, sigma)
    blur = BlurOperator(sigma)

    def objective(flat: NDArray) -> tuple[float, NDArray]:
        x = flat.reshape(*size, 3).astype(np.float32)
        residual = blur(x) - blurred
        dx, dy = np.zeros_like(x), np.zeros_like(x)
        dx[:, :-1], dy[:-1] = x[:, 1:] - x[:, :-1], x[1:] - x[:-1]
        length = np.sqrt((dx**2 + dy**2).sum(-1) + 1e-8)
        gx, gy = dx / length[..., None], dy / length[..., None]
        slope = np.zeros_like(x)
        slope[:, 1:] += gx[:, :-1]
        slope[:, :-1] -= gx[:, :-1]
        slope[1:] += gy[:-1]
        slope[:-1] -= gy[:-1]
        value = 0.5 * float((residual**2).sum()) + weight * float(length.sum())
        gradient = blur.adjoint(residual) + weight * slope
        return value, gradient.ravel().astype(np.float64)

    best = minimize(
        objective, blurred.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 3000}
    )
    found = deconvolve_total_variation(blurred, sigma, weight, iterations=200, steps=20)
    value = objective(found.ravel())[0]
    assert value == pytest.approx(best.fun, rel=0.02)
    assert value < 0.9 * objective(blurred.ravel())[0]


def test_true_depth_restores_and_a_worse_depth_restores_less() -> None:
    sharp, depth_m, blurred = scene()
    gains = []
    for factor in (1.0, 1.05, 1.15):
        restored = deconvolve_total_variation(blurred, sigma_of(depth_m * factor))
        gains.append(psnr(restored, sharp) - psnr(blurred, sharp))
    assert gains[0] > 2.5 and gains[0] > gains[1] > gains[2]


def test_a_denoiser_is_given_falling_levels_and_a_perfect_one_restores() -> None:
    sharp, depth_m, blurred = scene()
    seen: list[float] = []

    def knows(image: NDArray, level: float) -> NDArray:
        seen.append(level)
        return sharp

    levels = [0.2, 0.1, 0.05]
    restored = deconvolve_with_denoiser(blurred, sigma_of(depth_m), knows, levels, weight=1e-3)
    assert seen == levels
    assert psnr(restored, sharp) > psnr(blurred, sharp) + 6


@pytest.mark.parametrize("factor", [30.0, np.nan])
def test_a_prior_that_diverges_is_one_line_that_names_the_cause(factor: float) -> None:
    _, depth_m, blurred = scene()

    def wild(image: NDArray, level: float) -> NDArray:
        return (factor * image).astype(np.float32)

    with pytest.raises(HDEDError, match=r"deconvolution diverges") as caught:
        deconvolve_with_denoiser(blurred, sigma_of(depth_m), wild, [0.01] * 4, weight=1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_on_real_crops_true_depth_gains_at_least_4_db_in_the_median(real_data: Path) -> None:
    """The middle 256 px of 16 training images of NYU, spread evenly over the official split."""
    folder = real_data / "nyu_v2"
    train = loadmat(folder / "splits.mat")["trainNdxs"].ravel() - 1
    chosen = train[np.linspace(0, len(train) - 1, CROPS).round().astype(int)]
    half = SIDE_PX // 2
    window = slice(240 - half, 240 + half), slice(320 - half, 320 + half)
    with h5py.File(folder / "nyu_depth_v2_labeled.mat") as file:
        images = [dataset(file, "images")[i].T[window] for i in chosen]
        depths = [dataset(file, "depths")[i].T[window] for i in chosen]
    medians = []
    for factor in (1.0, 1.03, 1.1):
        gains = []
        for image, depth_m in zip(images, depths, strict=True):
            sharp = (image / 255).astype(np.float32)
            blurred = gaussian_gather(sharp, sigma_of(depth_m))
            blurred = (np.rint(blurred * 255) / 255).astype(np.float32)
            restored = deconvolve_total_variation(blurred, sigma_of(depth_m * factor))
            gains.append(psnr(restored, sharp) - psnr(blurred, sharp))
        medians.append(float(np.median(gains)))
    assert medians[0] > 4 and medians[0] > medians[1] > medians[2]
