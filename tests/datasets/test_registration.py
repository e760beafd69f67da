"""Shift and exposure between two photographs, on pairs whose shift and exposure are known."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import fourier_shift, gaussian_filter, rotate

from hded.blur import gaussian_gather
from hded.datasets.registration import Registration, register


@cache
def scene(size: tuple[int, int] = (360, 480), seed: int = 0) -> NDArray[np.float64]:
    """An image of shapes of many sizes, periodic at its borders, within 0.15 to 0.85."""
    rng = np.random.default_rng(seed)
    image = sum(
        gaussian_filter(rng.standard_normal((*size, 3)), (s, s, 0), mode="wrap") * s
        for s in (1, 2, 4, 8, 32)
    )
    image = (image - image.min()) / (image.max() - image.min())  # pyright: ignore
    return 0.15 + 0.7 * image


def moved(image: NDArray, shift_px: tuple[float, float]) -> NDArray:
    """An image shifted around its borders, by another method than the one under test."""
    planes = [
        np.fft.ifft2(fourier_shift(np.fft.fft2(image[..., c]), shift_px)).real for c in range(3)
    ]
    return np.stack(planes, -1)


def to_bytes(image: NDArray) -> NDArray[np.uint8]:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def blurred(image: NDArray) -> NDArray:
    """Blur that varies from left to right, as of depth."""
    sigma = np.broadcast_to(np.linspace(0.5, 4, image.shape[1], dtype=np.float32), image.shape[:2])
    return gaussian_gather(image.astype(np.float32), np.ascontiguousarray(sigma))


@pytest.mark.parametrize("shift_px", [(0.0, 0.0), (0.4, -1.43), (-2.25, 3.5), (7.6, -12.3)])
def test_the_shift_is_found_below_a_pixel_whatever_the_blur(shift_px: tuple[float, float]) -> None:
    sharp = scene()
    found = register(to_bytes(sharp), to_bytes(blurred(moved(sharp, shift_px))))
    np.testing.assert_allclose(found.shift_px, shift_px, atol=0.06)
    np.testing.assert_allclose(found.gain, 1, atol=0.03)
    np.testing.assert_allclose(found.offset, 0, atol=0.015)


def test_the_exposure_of_each_channel_is_found() -> None:
    sharp = scene()
    gain, offset = np.array([0.9, 1.1, 1.0]), np.array([0.02, -0.05, 0.0])
    photograph = blurred(moved(sharp, (1.5, -0.5))) * gain + offset
    found = register(to_bytes(sharp), to_bytes(photograph))
    np.testing.assert_allclose(found.gain, gain, atol=0.03)
    np.testing.assert_allclose(found.offset, offset, atol=0.02)


def test_the_registered_truth_lies_on_the_photograph() -> None:
    sharp = scene()
    there = moved(sharp, (-3.3, 2.7)) * 0.9 + 0.03
    truth, photograph = to_bytes(sharp), to_bytes(there)
    found = register(truth, photograph)
    assert found.margin_px == 4
    inside = slice(4, -4), slice(4, -4)
    error = np.abs(found.apply(truth)[inside].astype(int) - photograph[inside])
    assert error.mean() < 1 < np.abs(truth[inside].astype(int) - photograph[inside]).mean()
    assert found.residual < 0.01


def test_the_residual_tells_a_pair_that_a_shift_cannot_align() -> None:
    sharp = scene()
    good = register(to_bytes(sharp), to_bytes(blurred(sharp))).residual
    turned = np.clip(rotate(sharp, 6, reshape=False, order=1, mode="reflect"), 0, 1)
    other = register(to_bytes(sharp), to_bytes(scene(seed=1))).residual
    assert good < 0.03 < register(to_bytes(sharp), to_bytes(turned)).residual
    assert other > 0.05


def test_pictures_without_detail_are_left_where_they_are() -> None:
    flat = np.full((90, 100, 3), 120, np.uint8)
    found = register(flat, flat + 10)
    assert found.shift_px == (0.0, 0.0)
    np.testing.assert_allclose(found.gain, 1)
    np.testing.assert_allclose(found.offset, 10 / 255)
    black = np.zeros((90, 100, 3), np.uint8)
    assert np.isfinite(register(black, black).residual)


def test_no_registration_changes_nothing() -> None:
    truth = to_bytes(scene())
    none = Registration((0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 0.0)
    np.testing.assert_array_equal(none.apply(truth), truth)
    assert none.margin_px == 0
