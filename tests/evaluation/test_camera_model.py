"""Blur that is measured between photographs, on pairs whose blur is known."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from support.cameras import PAPER

from hded.blur import gaussian_gather
from hded.evaluation.camera_model import (
    Law,
    by_depth,
    explained,
    fit_law,
    measure_windows,
    relative_sigma_px,
)
from hded.optics import ThinLens
from pipeline.camera_model import only_lens

LENS = ThinLens(
    focal_length_m=0.035, aperture_m=0.0125, focus_distance_m=1.64, pixel_pitch_m=36.6e-6
)
LAW = Law(2.0, 1.64, 0.35)


@cache
def scene(seed: int = 0, size: tuple[int, int] = (220, 320)) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    noise = (gaussian_filter(rng.standard_normal((*size, 3)), (s, s, 0)) * s for s in (0.7, 2, 6))
    image = sum(noise)
    image = (image - image.min()) / (image.max() - image.min())  # pyright: ignore
    return np.rint(255 * image).astype(np.uint8)


def steps(size: tuple[int, int] = (220, 320)) -> NDArray[np.float32]:
    """Planes side by side at several depths."""
    depth = np.empty(size, np.float32)
    for part, depth_m in zip(
        np.array_split(np.arange(size[1]), 4), (0.9, 1.6, 3.0, 5.0), strict=True
    ):
        depth[:, part] = depth_m
    return depth


def photograph(sharp: NDArray, depth_m: NDArray, law: Law = LAW) -> NDArray[np.uint8]:
    return np.rint(255 * gaussian_gather(sharp, law(depth_m).astype(np.float32))).astype(np.uint8)


def test_each_window_has_the_blur_that_was_put_in() -> None:
    depth = steps()
    windows = pd.concat(
        [measure_windows(scene(i), photograph(scene(i), depth), depth) for i in range(4)]
    )
    assert len(windows) > 60
    assert set(windows["depth_m"].round(2)) == {0.9, 1.6, 3.0, 5.0}  # none across an edge
    medians = windows.groupby(windows["depth_m"].round(2))["sigma_px"].median()
    for depth_m, sigma in medians.items():
        assert sigma == pytest.approx(float(LAW(np.float64(depth_m))), abs=0.06)  # pyright: ignore


def test_brightness_does_not_count_and_flat_places_are_left_out() -> None:
    sharp, depth = scene(), steps()
    taken = photograph(sharp, depth)
    plain = measure_windows(sharp, taken, depth)
    brighter = measure_windows(sharp, np.minimum(taken.astype(int) + 4, 255).astype("u1"), depth)
    assert brighter["sigma_px"].to_numpy() == pytest.approx(plain["sigma_px"].to_numpy(), abs=0.1)
    sharp = sharp.copy()
    sharp[:, :160] = 90
    assert measure_windows(sharp, photograph(sharp, depth), depth)["depth_m"].min() > 2
    unknown = np.zeros_like(depth)
    assert measure_windows(sharp, taken, unknown).empty


def test_the_law_is_found_although_some_windows_are_wrong() -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.7, 6, 2000)
    sigma = LAW(depth) + rng.normal(0, 0.05, 2000)
    sigma[:100] = rng.uniform(0, 6, 100)
    windows = pd.DataFrame({"depth_m": depth, "sigma_px": sigma})
    found = fit_law(windows)
    assert found.gain_px == pytest.approx(2.0, abs=0.05)
    assert found.focus_m == pytest.approx(1.64, abs=0.03)
    assert found.floor_px == pytest.approx(0.35, abs=0.06)
    table = by_depth(windows)
    assert table["windows"].sum() <= 2000 and (table["q1"] <= table["q3"]).all()
    assert table["median"].to_numpy() == pytest.approx(LAW(table["depth_m"].to_numpy()), abs=0.15)


def test_the_law_of_distant_scenes_is_found() -> None:
    depth = np.random.default_rng(0).uniform(25, 60, 500)
    law = Law(8.0, 30.0, 0.35)
    found = fit_law(pd.DataFrame({"depth_m": depth, "sigma_px": law(depth)}))
    assert found.focus_m == pytest.approx(30, rel=0.02)


def test_what_the_sharp_photograph_has_is_taken_off_in_squares() -> None:
    small = ThinLens(
        focal_length_m=0.035, aperture_m=0.035 / 8, focus_distance_m=1.64, pixel_pitch_m=36.6e-6
    )
    depth = np.array([0.8, 1.64, 4.0], np.float32)
    relative = relative_sigma_px(LENS, small, depth)
    assert np.hypot(relative, small.sigma_px(depth)) == pytest.approx(
        LENS.sigma_px(depth), abs=1e-5
    )
    assert relative_sigma_px(LENS, None, depth).tolist() == LENS.sigma_px(depth).tolist()


def test_the_true_blur_explains_a_photograph_best() -> None:
    sharp, depth = scene(), steps()
    taken = photograph(sharp, depth)
    scores = dict(
        explained(sharp, taken, depth, lambda d: 0.8 * LAW(d), lambda d: LENS.coc_px(d), LAW)
    )
    assert list(scores) == ["sharp", "uniform", "gather", "layered", "fitted"]
    assert scores["sharp"] < scores["uniform"] < scores["gather"] < scores["fitted"]
    assert scores["fitted"] > 55


def test_one_lens_is_the_cameras_or_that_of_all_frames() -> None:
    taker, frames = replace(PAPER, photographs=True), pd.DataFrame({"frame": ["a", "b"]})
    assert only_lens([taker], frames) == taker
    alike = frames.assign(stated_f_number=8.0)
    found = only_lens([taker], alike)
    assert (
        found is not None and found.lens(np.empty(0), 640, np.random.default_rng(0)).f_number == 8
    )
    assert only_lens([taker], frames.assign(stated_f_number=[8.0, 4.0])) is None
    assert only_lens([taker], frames.assign(stated_focus_distance_m=[1.0, np.nan])) is None
    assert only_lens([taker, replace(taker, focus_distance_m=4.0)], frames) is None
    assert only_lens([replace(taker, focus_distance_m=None)], frames) is None
