"""Doubts about a photograph and its result, and how they are told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inference.test_photo import command, photo
from inference.test_view import ANY, OPTIONS, saved
from PIL import Image
from scipy.ndimage import gaussian_filter
from support.cameras import PAPER

from hded.inference import load_predictor
from hded.inference.doubts import doubts, noise_counts, trained_noise_counts, without_detail
from hded.inference.photo import estimate
from hded.inference.view import view_of
from hded.optics import Sensor
from hded.optics.photograph import StatedLens

NOISY = replace(ANY, sensor=Sensor(shot=(0.0, 6e-4), read=(0.0, 6e-3)))
STATED = StatedLens(
    focal_length_m=0.07, f_number=70 / 44.8, focus_distance_m=2.0, sensor_width_m=0.036
)


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("sure") / "weights.safetensors", confidence=True)


def test_areas_without_detail_are_found_and_edges_are_not() -> None:
    rgb = np.full((120, 200, 3), 90, np.uint8)
    rgb[:, 100:] = photo(120, 100)
    plain = without_detail(rgb)
    assert plain[:, :80].all() and not plain[:, 90:].any()
    gradient = np.broadcast_to(np.linspace(0, 255, 200)[None, :, None], (120, 200, 3))
    assert not without_detail(gradient.astype(np.uint8)).any()


@pytest.mark.parametrize("sigma", [2.0, 5.0, 10.0])
def test_noise_is_measured_beside_detail(sigma: float) -> None:
    rng = np.random.default_rng(0)
    clean = gaussian_filter(photo(256, 320).astype(float), (2, 2, 0))
    noisy = np.rint(clean + rng.normal(0, sigma, clean.shape)).clip(0, 255).astype(np.uint8)
    assert noise_counts(noisy) == pytest.approx(sigma, rel=0.15)
    assert noise_counts(np.rint(clean).astype(np.uint8)) < 1.2
    assert noise_counts(noisy[:10]) == 0


def test_the_noise_of_training_is_that_of_its_sensor() -> None:
    assert trained_noise_counts(ANY.describe(640)) == 0
    grey = np.full((200, 200, 3), 0.4845, np.float32)  # linear 0.2
    sensor = Sensor(shot=(6e-4, 6e-4), read=(6e-3, 6e-3))
    image = sensor.expose(grey, np.random.default_rng(0))
    expected = trained_noise_counts(NOISY.describe(640))
    assert image.astype(float).std() == pytest.approx(expected, rel=0.05)


def test_noise_beyond_that_of_training_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clean = gaussian_filter(photo(128, 128).astype(float), (2, 2, 0))
    noisy = np.rint(clean + rng.normal(0, 4, clean.shape)).clip(0, 255).astype(np.uint8)
    one, other = (
        load_predictor(saved(tmp_path / f"{i}.safetensors", camera))
        for i, camera in enumerate((ANY, NOISY))
    )
    assert [s for s in doubts(one, noisy, None, None) if "training images none" in s]
    assert not list(doubts(other, noisy, None, None))
    more = np.rint(noisy + rng.normal(0, 9, clean.shape)).clip(0, 255).astype(np.uint8)
    assert [s for s in doubts(other, more, None, None) if "at most 3.6" in s]


@pytest.mark.parametrize("value", [0, 90])
def test_a_picture_of_one_colour_has_no_confidence_and_is_told(sure: Path, value: int) -> None:
    rgb = np.full((96, 128, 3), value, np.uint8)
    predictor = load_predictor(sure)
    found = estimate(predictor, rgb, view=view_of(predictor, (96, 128), STATED))
    assert found.confidence is not None and not found.confidence.any()
    text = " ".join(found.notes)
    assert "100% of the photograph is without detail" in text and "not sure" in text


def test_blur_that_no_depth_explains_is_told(tmp_path: Path) -> None:
    predictor = load_predictor(saved(tmp_path / "w.safetensors"))
    rgb = photo(96, 128)
    for share, said in ((0.05, False), (0.3, True)):
        depth_m = np.full((96, 128), 2.0, np.float32)
        depth_m[: int(96 * share)] = 100.0
        text = " ".join(doubts(predictor, rgb, depth_m, None))
        assert ("check the lens and its focus distance" in text) == said
    log = load_predictor(saved(tmp_path / "log.safetensors", PAPER, readout="log"))
    text = " ".join(doubts(log, rgb, np.full((96, 128), 100.0, np.float32), None))
    assert "check the lens" not in text


def test_the_command_writes_confidence_beside_depth(sure: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(90, 700)).save(tmp_path / "a.png")
    done = command(
        "predict", tmp_path / "a.png", "--checkpoint", sure, "--out", tmp_path / "out", *OPTIONS,
        "--focus-distance-m", 2, "--tile", 256, "--overlap", 64,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out/a_confidence.png") as image:
        assert image.mode == "L" and image.size == (700, 90)
        assert np.asarray(image).std() > 0
