"""Noise and compression of a camera, against their definitions."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from hded.common.errors import HDEDError
from hded.optics import IDEAL, Sensor, recorded_sensor
from hded.optics.sensor import (
    add_noise,
    add_srgb_noise,
    compress,
    to_linear,
    to_srgb,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(size: tuple[int, int] = (64, 80)) -> np.ndarray:
    rows, columns = np.indices(size) / 16
    planes = [np.sin(rows + n) * np.cos((n + 1) * columns / 2) for n in range(3)]
    return ((np.stack(planes, -1) + 1) / 2).astype(np.float32)


def test_linear_light_is_that_of_srgb() -> None:
    # IEC 61966-2-1: known pairs of the standard's curve
    for srgb, linear in ((0.0, 0.0), (0.04045, 0.0031308), (0.5, 0.2140411), (1.0, 1.0)):
        assert float(to_linear(np.array(srgb))) == pytest.approx(linear, abs=1e-6)
    values = np.linspace(0, 1, 1001, dtype=np.float32)
    np.testing.assert_allclose(to_srgb(to_linear(values)), values, atol=2e-6)


@pytest.mark.parametrize(("shot", "read"), [(0.01, 0.0), (0.0, 0.02), (0.004, 0.01)])
def test_noise_has_the_stated_variance_in_linear_light(shot: float, read: float) -> None:
    for value in (0.35, 0.6, 0.75):
        flat = np.full((300, 300, 3), value, np.float32)
        noisy = to_linear(add_noise(flat, shot, read, rng()))
        signal = float(to_linear(np.array(value)))
        assert noisy.mean() == pytest.approx(signal, abs=2e-3)
        assert noisy.var() == pytest.approx(shot * signal + read**2, rel=0.03)


def test_an_ideal_sensor_rounds_and_draws_nothing() -> None:
    drawn, untouched = rng(), rng()
    image = picture()
    assert IDEAL.ideal
    np.testing.assert_array_equal(IDEAL.expose(image, drawn), np.rint(image * 255))
    assert drawn.random() == untouched.random()


def test_noise_comes_before_rounding_and_rounding_before_compression() -> None:
    sensor = Sensor(shot=(0.01, 0.01), read=(0.002, 0.002), quality=(80, 80))
    image = picture()
    noisy = np.rint(add_noise(image, 0.01, 0.002, rng()) * 255).astype(np.uint8)
    np.testing.assert_array_equal(sensor.expose(image, rng()), compress(noisy, 80))
    # values leave [0, 1] before they are clipped, and none wraps around
    white = Sensor(read=(0.2, 0.2)).expose(np.ones((40, 40, 3), np.float32), rng())
    assert white.min() > 120 and (white == 255).mean() == pytest.approx(0.5, abs=0.05)


def test_each_image_draws_between_the_ends() -> None:
    sensor = Sensor(read=(1e-3, 1e-1), quality=(60, 95))
    flat = np.full((64, 64, 3), 0.6, np.float32)
    spreads = [sensor.expose(flat, rng(seed)).std() for seed in range(30)]
    assert max(spreads) > 8 * min(spreads)
    # half of the draws lie below the geometric middle of the ends
    middle = Sensor(read=(1e-2, 1e-2), quality=(78, 78)).expose(flat, rng()).std()
    assert 8 <= sum(spread < middle for spread in spreads) <= 22


def test_compression_is_pillows_and_less_quality_is_a_larger_error() -> None:
    image = np.rint(picture() * 255).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=75, subsampling="4:2:0")
    np.testing.assert_array_equal(compress(image, 75), np.asarray(Image.open(stream)))
    errors = [np.abs(compress(image, q).astype(float) - image).mean() for q in (95, 75, 20)]
    assert errors == sorted(errors) and errors[0] < 3
    assert (compress(image, 75, "4:4:4") != compress(image, 75)).any()


def test_a_crop_is_compressed_in_the_blocks_of_its_image() -> None:
    image = np.rint(picture((96, 128)) * 255).astype(np.uint8)
    whole = compress(image, 50)
    for top, left in ((16, 32), (21, 39)):
        crop = compress(image[top:, left:], 50, corner=(top, left))
        # inside whole blocks of the image nothing differs
        y, x = -(-top // 16) * 16 + 16, -(-left // 16) * 16 + 16
        np.testing.assert_array_equal(crop[y - top : -16, x - left : -16], whole[y:-16, x:-16])
    misplaced = compress(image[21:, 39:], 50)
    assert (misplaced[27:-16, 41:-16] != whole[48:-16, 80:-16]).any()


def test_srgb_noise_has_its_deviation() -> None:
    flat = np.full((200, 200, 3), 128, np.uint8)
    assert add_srgb_noise(flat, 4 / 255, rng()).std() == pytest.approx(4, rel=0.03)
    np.testing.assert_array_equal(add_srgb_noise(flat, 0.0, rng()), flat)


@pytest.mark.parametrize(
    "sensor",
    [
        IDEAL,
        Sensor(shot=(1e-4, 1e-2), read=(0.0, 0.01)),
        Sensor(quality=(75, 95), subsampling="4:4:4"),
    ],
)
def test_a_description_gives_the_sensor_back(sensor: Sensor) -> None:
    assert recorded_sensor({"name": "x", **sensor.describe()}) == sensor


@pytest.mark.parametrize(
    "ends",
    [
        {"shot": (0.1, 0.01)}, {"read": (-0.1, 0.1)}, {"read": (0.5, 1.0)},
        {"quality": (0, 50)}, {"quality": (90, 80)}, {"quality": (50, 101)},
        {"quality": (50, 50), "subsampling": "4:1:1"},
    ],
)  # fmt: skip
def test_impossible_ends_are_refused(ends: dict) -> None:
    with pytest.raises(HDEDError, match=r"noise|jpeg"):
        Sensor(**ends)
