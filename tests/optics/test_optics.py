"""The thin lens, and the cameras that put it in front of a picture."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cameras import CAMERAS, SYNDOF

from hded.common.errors import HDEDError
from hded.optics import (
    Camera,
    ThinLens,
    describe_cameras,
    draw_focus_m,
    sigma_of_coc,
)

PAPER = {
    "focal_length_m": 0.07,
    "aperture_m": 0.0448,
    "focus_distance_m": 2.0,
    "pixel_pitch_m": 0.036 / 640,
}


def lens(**changes) -> ThinLens:
    return ThinLens(**{**PAPER, **changes})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def traced_coc_px(
    depth_m: float, focus_m: float, focal_m: float, aperture_m: float, pitch_m: float
) -> float:
    """Diameter of the disc on the sensor, from where the cone of rays behind the lens narrows.

    Two Gaussian images, 1/f = 1/object + 1/image, and similar triangles; the sensor stands where
    the focused plane is sharp. A point beyond the focus distance images before the sensor.
    """
    sensor_m = 1 / (1 / focal_m - 1 / focus_m)
    image_m = 1 / (1 / focal_m - 1 / depth_m)
    return aperture_m * (sensor_m - image_m) / image_m / pitch_m


@pytest.mark.parametrize("depth_m", [0.5, 0.8, 1.2, 1.9, 2.1, 3.0, 5.0, 10.0, 80.0])
@pytest.mark.parametrize("focus_m", [0.7, 1.0, 2.0, 4.0])
def test_the_coc_is_the_width_of_the_traced_cone(depth_m, focus_m):
    coc = lens(focus_distance_m=focus_m, max_coc_px=1e6).coc_px(depth_m)
    expected = traced_coc_px(depth_m, focus_m, 0.07, 0.0448, 0.036 / 640)
    assert coc == pytest.approx(expected, rel=1e-6, abs=1e-5)


def test_the_paper_camera_gives_the_values_of_eq_8():
    # v = 0.07 * 2 / 1.93 m; CoC = 0.0448 (v/2) |x - 2| / x / 0.036 * 640
    picture = CAMERAS["paper"].lens(np.empty(0), 640, rng())
    expected = {1.0: -28.8870, 1.5: -9.6290, 2.0: 0.0, 3.0: 9.6290, 4.0: 14.4435, 10.0: 23.1096}
    for depth_m, coc_px in expected.items():
        assert picture.coc_px(depth_m) == pytest.approx(coc_px, abs=1e-3)


def test_nothing_is_blurred_at_the_focus_distance():
    for focus_m in (0.5, 0.7, 1.0, 2.0, 3.3, 10.0):
        sharp = lens(focus_distance_m=focus_m)
        assert sharp.coc_px(focus_m) == 0 and sharp.sigma_px(focus_m) == 0


@given(
    depths=st.lists(st.floats(0.05, 200), min_size=2, max_size=20, unique=True),
    focus_m=st.floats(0.2, 20),
    focal_m=st.floats(0.005, 0.15),
    f_number=st.floats(0.8, 22),
    pitch_m=st.floats(1e-6, 3e-4),
)
def test_the_coc_rises_with_depth_and_changes_sign_at_the_focus(
    depths, focus_m, focal_m, f_number, pitch_m
):
    picture = ThinLens(
        focal_length_m=focal_m,
        aperture_m=focal_m / f_number,
        focus_distance_m=focus_m,
        pixel_pitch_m=pitch_m,
        max_coc_px=29.0,
    )
    depth = np.sort(np.array(depths))
    coc, sigma = picture.coc_px(depth), picture.sigma_px(depth)
    assert (np.diff(coc) >= 0).all()
    assert (coc[depth < focus_m] <= 0).all() and (coc[depth > focus_m] >= 0).all()
    assert (np.diff(sigma[depth < focus_m]) <= 0).all()
    assert (np.diff(sigma[depth > focus_m]) >= 0).all()
    assert (np.abs(coc) <= 29).all()


def test_blur_grows_strictly_away_from_the_focus_on_both_sides():
    picture = lens(max_coc_px=1e6)
    near, far = np.linspace(0.3, 2.0, 50), np.linspace(2.0, 50.0, 50)
    assert (np.diff(picture.sigma_px(near)) < 0).all()
    assert (np.diff(picture.sigma_px(far)) > 0).all()


@pytest.mark.parametrize("limit_px", [3.0, 29.0])
def test_the_coc_is_clamped_on_both_sides(limit_px):
    coc = lens(focus_distance_m=1.0, max_coc_px=limit_px).coc_px([1e-320, 1e-6, 0.2, 100.0])
    assert coc.tolist() == [-limit_px, -limit_px, -limit_px, limit_px]


def test_depth_that_is_no_depth_is_left_sharp():
    depth = np.array([[np.nan, np.inf, -np.inf], [0.0, -0.0, -2.0]], np.float32)
    picture = lens()
    assert (picture.coc_px(depth) == 0).all() and (picture.sigma_px(depth) == 0).all()


@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (2, 3, 4), (0, 7)])
def test_any_shape_of_depth_comes_back_as_float32(shape):
    for dtype in (np.float16, np.float32, np.float64, np.int64):
        coc = lens().coc_px(np.full(shape, 3, dtype))
        assert coc.shape == shape and coc.dtype == np.float32
        assert lens().sigma_px(np.full(shape, 3, dtype)).dtype == np.float32


def test_the_same_scene_on_twice_the_pixels_has_twice_the_coc():
    depth = np.linspace(0.7, 9, 30)
    coarse, fine = (CAMERAS["paper"].lens(depth, width, rng()) for width in (345, 690))
    assert fine.coc_px(1.9) == pytest.approx(2 * coarse.coc_px(1.9), rel=1e-6)
    assert coarse.pixel_pitch_m == pytest.approx(0.036 / 345)


def test_a_crop_does_not_change_the_blur_of_what_it_shows():
    depth = np.linspace(0.7, 9, 60).reshape(6, 10)
    whole = CAMERAS["paper"].lens(depth, 10, rng())
    cut = CAMERAS["paper"].lens(depth[2:5, 3:9], 10, rng())  # still 10 px wide uncropped
    np.testing.assert_array_equal(whole.coc_px(depth)[2:5, 3:9], cut.coc_px(depth[2:5, 3:9]))


def test_twice_the_aperture_is_twice_the_blur_and_half_the_f_number():
    small, large = lens(max_coc_px=1e6), lens(aperture_m=0.0896, max_coc_px=1e6)
    assert large.coc_px(5.0) == pytest.approx(2 * small.coc_px(5.0), rel=1e-6)
    assert small.f_number == pytest.approx(1.5625) and large.f_number == pytest.approx(0.78125)


@pytest.mark.parametrize(
    ("rule", "formula"),
    [
        ("quarter", lambda coc: abs(coc) / 4),
        ("syndof", lambda coc: (abs(coc) - 1) / 4 if abs(coc) > 1 else 0.0),
        ("d3net", lambda coc: 0.3 * abs(coc)),
    ],
)
def test_sigma_follows_its_rule_on_both_sides(rule, formula):
    coc = np.array([-29, -8.5, -1.5, -1, -0.3, 0, 0.3, 1, 1.5, 8.5, 29], np.float32)
    expected = [formula(float(c)) for c in coc]
    np.testing.assert_allclose(sigma_of_coc(coc, rule), expected, rtol=1e-6)
    picture = lens(sigma_rule=rule, max_coc_px=1e6)
    np.testing.assert_allclose(
        picture.sigma_px([1.2, 2.0, 7.0]),
        [formula(float(c)) for c in picture.coc_px([1.2, 2.0, 7.0])],
        rtol=1e-6,
    )


def test_an_unknown_sigma_rule_is_refused():
    with pytest.raises(HDEDError, match="half"):
        lens(sigma_rule="half")
    with pytest.raises(HDEDError, match="half"):
        sigma_of_coc(np.ones(3), "half")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [0.0, -0.1, np.nan, np.inf])
@pytest.mark.parametrize(
    "name",
    ["focal_length_m", "aperture_m", "focus_distance_m", "pixel_pitch_m", "max_coc_px"],
)
def test_a_lens_of_an_impossible_length_is_refused_by_name(name, value):
    with pytest.raises(HDEDError, match=name) as caught:
        lens(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("focus_m", [0.01, 0.069, 0.07])
def test_a_focus_at_or_inside_the_focal_length_is_refused(focus_m):
    with pytest.raises(HDEDError, match="focus_distance_m"):
        lens(focus_distance_m=focus_m)


def test_the_named_cameras_are_those_of_their_sources():
    assert set(CAMERAS) == {"paper", "d3net", "syndof"}
    d3net = CAMERAS["d3net"].lens(np.empty(0), 640, rng())
    assert (d3net.focal_length_m, d3net.pixel_pitch_m) == (0.015, 5.6e-6)
    assert d3net.f_number == pytest.approx(2.8) and d3net.sigma_rule == "d3net"
    paper = CAMERAS["paper"].lens(np.empty(0), 640, rng())
    assert (paper.focal_length_m, paper.aperture_m, paper.focus_distance_m) == (0.07, 0.0448, 2.0)
    assert paper.max_coc_px == 29 and paper.sigma_rule == "quarter"


def test_a_fixed_pixel_pitch_does_not_look_at_the_image_width():
    narrow, wide = (CAMERAS["d3net"].lens(np.empty(0), width, rng()) for width in (100, 4000))
    assert narrow == wide


def test_a_fixed_camera_takes_every_picture_alike():
    camera = CAMERAS["paper"]
    assert camera.lens(np.ones((2, 2)), 640, rng(1)) == camera.lens(np.empty(0), 640, rng(2))


def scene(seed: int = 0) -> np.ndarray:
    depth = rng(seed).uniform(0.7, 9.5, (12, 16)).astype(np.float32)
    depth[0, :4] = (0, np.nan, np.inf, -1)
    return depth


@pytest.mark.parametrize("seed", range(12))
def test_syndof_opens_its_aperture_until_the_largest_coc_is_29_px(seed):
    depth = scene(seed)
    coc = CAMERAS["syndof"].lens(depth, 640, rng(seed)).coc_px(depth)
    assert np.abs(coc).max() == pytest.approx(29, rel=1e-5)
    assert (coc[0, :4] == 0).all()


def test_syndof_draws_alike_from_equal_generators_and_differently_from_others():
    depth, camera = scene(), CAMERAS["syndof"]
    assert camera.lens(depth, 640, rng(3)) == camera.lens(depth, 640, rng(3))
    assert len({camera.lens(depth, 640, rng(seed)).focus_distance_m for seed in range(20)}) > 15


def test_syndof_draws_focal_lengths_by_weight_and_focuses_inside_the_scene_rather_near():
    depth, camera = scene(), CAMERAS["syndof"]
    known = depth[np.isfinite(depth) & (depth > 0)]
    lenses = [camera.lens(depth, 640, rng(seed)) for seed in range(600)]
    focal = np.array([picture.focal_length_m for picture in lenses])
    # weights .1 .4 .4 are ninths; three standard deviations of 600 draws are under 0.065
    for length, share in ((0.050, 1 / 9), (0.070, 4 / 9), (0.085, 4 / 9)):
        assert np.mean(focal == length) == pytest.approx(share, abs=0.065)
    focus = np.array([picture.focus_distance_m for picture in lenses])
    assert focus.min() >= known.min() and focus.max() <= known.max()
    assert np.median(focus) < np.quantile(known, 0.35)
    assert all(picture.sigma_rule == "syndof" for picture in lenses)


def test_a_drawn_focus_is_one_of_the_pictures_depths_and_half_normal_in_rank():
    """As SYNDOF's code: rank |N(0, 1/2)| from the nearest, of distinct depths, not of pixels."""
    levels = np.round(np.linspace(1.0, 9.0, 81), 2)
    # half of all pixels are at the far end: pixels do not count
    depth = np.concatenate([levels, np.full(81, 9.0)]).astype(np.float32)[None]
    generator = rng(4)
    drawn = np.array([draw_focus_m(depth, 0.07, generator) for _ in range(4000)])
    assert set(np.round(drawn, 2)) <= set(levels)
    normal = np.abs(rng(5).normal(0, 0.5, 200_000))
    rank = normal[normal < 1]
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        expected = 1.0 + 8.0 * np.quantile(rank, share)
        # three standard errors of a quantile of 4000 draws are below 0.2 m here
        assert np.quantile(drawn, share) == pytest.approx(expected, abs=0.2)


def test_a_fixed_camera_may_have_its_focus_drawn_for_each_picture():
    camera = Camera(name="x", focal_length_m=0.07, aperture_m=0.0448, focus_distance_m=None)
    depth = scene()
    lenses = [camera.lens(depth, 640, rng(seed)) for seed in range(20)]
    assert len({picture.focus_distance_m for picture in lenses}) > 15
    assert {picture.aperture_m for picture in lenses} == {0.0448}
    record = camera.describe(640)
    assert record["focus_distance_m"] is None and record["f_number"] == pytest.approx(1.5625)


def test_cameras_that_differ_in_focus_are_described_as_one_with_a_list():
    near, far = (
        Camera(name="x", focal_length_m=0.07, aperture_m=0.0448, focus_distance_m=f) for f in (1, 4)
    )
    assert describe_cameras([near], 640) == near.describe(640)
    assert describe_cameras([near, far], 640) == near.describe(640) | {"focus_distance_m": [1, 4]}


@pytest.mark.parametrize(
    "depth",
    [np.full((3, 4), 2.5), np.zeros((3, 4)), np.full((3, 4), np.nan), np.empty((0, 4))],
    ids=["flat", "unknown", "nan", "empty"],
)
def test_syndof_takes_a_scene_without_depth_differences_sharply(depth):
    picture = CAMERAS["syndof"].lens(depth, 640, rng())
    assert (picture.coc_px(depth) == 0).all()


def test_syndof_never_focuses_inside_its_focal_length():
    depth = np.full((4, 4), 0.01)
    depth[0, 0] = 0.02
    for seed in range(10):
        picture = CAMERAS["syndof"].lens(depth, 640, rng(seed))
        assert picture.focus_distance_m > picture.focal_length_m


@pytest.mark.parametrize("name", ["paper", "d3net", "syndof"])
def test_every_camera_describes_itself_with_the_same_keys(name):
    record = CAMERAS[name].describe(640)
    assert record["name"] == name
    assert set(record) == set(CAMERAS["paper"].describe(640))
    if not CAMERAS[name].draws:
        assert record["f_number"] == pytest.approx(record["focal_length_m"] / record["aperture_m"])
    else:
        assert record["f_number"] is None and record["focus_distance_m"] is None


def test_a_syndof_camera_may_have_another_largest_coc():
    camera, depth = replace(SYNDOF, max_coc_px=10.0), scene()
    assert np.abs(camera.lens(depth, 345, rng()).coc_px(depth)).max() == pytest.approx(10, rel=1e-5)
