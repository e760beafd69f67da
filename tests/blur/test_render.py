"""Pictures through a lens, copies by focus distance, and what there is to look at."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.cameras import CAMERAS

from hded.blur import gaussian_gather_reference
from hded.blur.holes import fill_holes
from hded.blur.render import list_renderings, render_defocused
from hded.defocus_diagnostics import (
    BlurCount,
    camera_table,
    contact_sheet,
    input_scores,
    pick_for_sheet,
)
from hded.optics import Camera, ThinLens
from hded.store import open_store, write_store


def lens(focus_m: float = 2.0, **changes) -> ThinLens:
    settings = {
        "focal_length_m": 0.07, "aperture_m": 0.0448, "focus_distance_m": focus_m,
        "pixel_pitch_m": 0.036 / 640,
    }  # fmt: skip
    return ThinLens(**{**settings, **changes})


def scene(size: tuple[int, int] = (30, 44)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    rgb = rng.integers(0, 256, (*size, 3), np.uint8)
    depth = np.linspace(1.2, 6.0, size[0] * size[1]).reshape(size).astype(np.float32)
    depth[5:9, 5:9] = 0
    return rgb, depth


def cameras(*focus_m: float) -> list[Camera]:
    return [
        Camera(name="x", focal_length_m=0.07, aperture_m=0.0448, focus_distance_m=f)
        for f in focus_m
    ]


def frames(count: int = 3) -> pd.DataFrame:
    names = [f"{i + 1:04d}" for i in range(count)]
    splits = ["train", *["test"] * (count - 1)]
    return pd.DataFrame({"frame": names, "split": splits, "scene": ""})


def test_a_picture_is_the_reference_blur_rounded_to_bytes():
    rgb, depth = scene()
    picture, coc = render_defocused(rgb, depth, lens(), "gather")
    depth = fill_holes(depth)
    exact = gaussian_gather_reference(rgb, lens().sigma_px(depth)) * 255
    assert picture.dtype == np.uint8
    assert np.abs(picture - exact).max() <= 0.5 + 255e-4
    np.testing.assert_array_equal(coc, lens().coc_px(depth))


@pytest.mark.parametrize("invalid", [0.0, -1.0, np.nan, np.inf])
def test_a_hole_has_the_depth_of_a_nearest_valid_pixel(invalid: float):
    rng = np.random.default_rng(0)
    depth = rng.choice([1.5, 4.0], (12, 16)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = invalid
    hole = ~(np.isfinite(depth) & (depth > 0))
    filled = fill_holes(depth)
    np.testing.assert_array_equal(filled[~hole], depth[~hole])
    valid = np.argwhere(~hole)
    for y, x in np.argwhere(hole):
        distance = ((valid - (y, x)) ** 2).sum(1)
        nearest = {float(depth[tuple(p)]) for p in valid[distance == distance.min()]}
        assert float(filled[y, x]) in nearest  # several may be equally near
    for whole in (np.full((4, 5), 2.0, np.float32), np.full((4, 5), invalid, np.float32)):
        assert fill_holes(whole) is whole


def test_a_hole_is_no_sharp_island():
    rgb, depth = scene()
    depth[:] = 6.0
    filled, _ = render_defocused(rgb, depth, lens(), "gather")
    depth[8:20, 8:20] = 0
    np.testing.assert_array_equal(render_defocused(rgb, depth, lens(), "gather")[0], filled)


def test_softness_adds_to_the_blur_in_squares_and_blurs_what_is_in_focus():
    soft = lens(softness_px=0.43)
    depth = np.array([1.5, 2.0, 6.0], np.float32)
    expected = np.sqrt(lens().sigma_px(depth).astype(float) ** 2 + 0.43**2)
    np.testing.assert_allclose(soft.sigma_px(depth), expected, rtol=1e-6)
    rgb, _ = scene()
    picture, coc = render_defocused(rgb, np.full(rgb.shape[:2], 2.0, np.float32), soft, "gather")
    assert not coc.any() and (picture != rgb).any()


@pytest.mark.parametrize("renderer", ["gather", "layered"])
def test_what_is_at_the_focus_distance_stays_as_it_is(renderer):
    rgb, _ = scene()
    picture, coc = render_defocused(rgb, np.full(rgb.shape[:2], 2.0, np.float32), lens(), renderer)
    np.testing.assert_array_equal(picture, rgb)
    assert not coc.any()


def test_the_renderers_differ_at_a_depth_edge_alone():
    rgb, _ = scene((40, 60))
    depth = np.full((40, 60), 2.0, np.float32)
    rgb[:, :30] = 230  # in focus, before a dark background
    rgb[:, 30:] //= 4
    depth[:, 30:] = 5.0
    sharp_in_front = {
        name: render_defocused(rgb, depth, lens(), name)[0] for name in ("gather", "layered")
    }
    different = np.abs(sharp_in_front["gather"].astype(int) - sharp_in_front["layered"]).max(2)
    reach = int(np.ceil(3 * lens().sigma_px(5.0)))
    assert different[:, 30 : 30 + reach].max() > 10
    assert different[:, :30].max() == 0 and different[:, 30 + reach :].max() <= 1


def test_one_camera_gives_one_copy_of_each_frame_under_its_own_name():
    table = list_renderings(frames(), [CAMERAS["syndof"]])
    assert table["frame"].tolist() == ["0001", "0002", "0003"]
    assert table["frame_index"].tolist() == [0, 1, 2]
    assert table["camera_index"].tolist() == [0, 0, 0]


def test_several_distances_give_each_frame_a_copy_for_each_named_by_it():
    table = list_renderings(frames(2), cameras(0.8, 2))
    assert table["frame"].tolist() == ["0001-0.8m", "0001-2m", "0002-0.8m", "0002-2m"]
    assert table["split"].tolist() == ["train", "train", "test", "test"]
    assert table["frame_index"].tolist() == [0, 0, 1, 1]
    assert table["camera_index"].tolist() == [0, 1, 0, 1]


def test_the_blur_count_is_that_of_all_pixels_with_depth():
    picture = lens(max_coc_px=12.0)
    rng = np.random.default_rng(1)
    count = BlurCount(12.0, "quarter")
    coc = []
    for _ in range(3):
        depth = rng.uniform(0.5, 9, (20, 30)).astype(np.float32)
        depth[rng.random((20, 30)) < 0.2] = 0
        count.add(picture.coc_px(depth), depth)
        coc.append(picture.coc_px(depth)[depth > 0])
    everything = np.concatenate(coc).astype(np.float64)
    summary = count.summary()
    assert summary["mean_abs_coc_px"] == pytest.approx(np.abs(everything).mean(), rel=1e-6)
    assert summary["mean_sigma_px"] == pytest.approx(np.abs(everything).mean() / 4, rel=1e-6)
    assert summary["sharp_percent"] == pytest.approx(100 * (np.abs(everything) / 4 < 0.1).mean())
    assert summary["clamped_percent"] == pytest.approx(100 * (np.abs(everything) == 12).mean())
    table = count.table()
    assert table["share_percent"].sum() == pytest.approx(100)
    for coc_px, percent in zip(table["coc_px"], table["share_percent"], strict=True):
        inside = (everything >= coc_px - 0.25) & (everything < coc_px + 0.25)
        assert percent == pytest.approx(100 * inside.mean(), abs=1e-9)
    assert 0.0 in table["coc_px"].tolist()


def test_without_any_depth_there_is_nothing_to_count():
    count = BlurCount(29.0, "quarter")
    count.add(np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32))
    assert set(count.summary().values()) == {0.0} and count.table()["share_percent"].sum() == 0


def test_the_table_of_cameras_holds_each_lens_and_what_it_does():
    named = {name: [camera] for name, camera in CAMERAS.items()}
    table = camera_table({"x": cameras(1.0, 3.0), **named}, 345, 80.0)
    assert table["depth_m"].max() == 80
    assert set(table["camera"]) == {"x, 1 m", "x, 3 m", *CAMERAS}
    for _, rows in table.groupby("camera"):
        first = rows.iloc[0]
        fields = ThinLens.__dataclass_fields__
        built = ThinLens(**{name: first[name] for name in fields})
        depth_m = rows["depth_m"].to_numpy()
        np.testing.assert_allclose(rows["sigma_px"], built.sigma_px(depth_m), rtol=1e-6)
        np.testing.assert_allclose(rows["coc_px"], built.coc_px(depth_m), rtol=1e-6)
    syndof = table[table["camera"] == "syndof"]
    assert syndof["coc_px"].abs().max() == pytest.approx(29, rel=1e-5)
    assert camera_table({"x": cameras(1.0)}, 640, 10.0)["depth_m"].max() == 10


def test_a_drawn_focus_is_shown_at_two_metres():
    drawn = Camera(name="x", focal_length_m=0.07, aperture_m=0.0448, focus_distance_m=None)
    own = camera_table({"x": [drawn]}, 640, 10.0)
    assert set(own["focus_distance_m"]) == {2.0}


@pytest.fixture(params=["depth, all_in_focus"])
def taken(tmp_path, request):
    """Three frames through cameras focused at 1 and 3 m, as the stage stores them.

    The parameter names the truths that the frames have.
    """
    rgb, depth = scene()
    scenes, chosen = frames(), cameras(1.0, 3.0)
    attributes = {"size": list(depth.shape), "image_width_px": 44, "max_depth_m": 10.0}
    attributes["truths"] = request.param.split(", ")
    arrays = {"rgb": (rgb.shape, np.uint8), "depth": (depth.shape, np.float32)}
    pictures = [{"rgb": np.roll(rgb, i, 0), "depth": depth} for i in range(3)]
    write_store(tmp_path / "scenes", scenes, arrays, pictures, attributes)
    table = list_renderings(scenes, chosen)
    records = []
    for row in table.to_dict("records"):
        picture = pictures[row["frame_index"]]
        camera = chosen[row["camera_index"]]
        taken = camera.lens(depth, 640, np.random.default_rng(0))
        image, coc = render_defocused(picture["rgb"], depth, taken, "gather")
        scores = {"psnr": 20.0 + len(records), "ssim": 0.5 + len(records) / 10}
        focus = {"focus_distance_m": taken.focus_distance_m}
        records.append({"defocused": image, "coc": coc.astype(np.float16), **scores, **focus})
    arrays = {"defocused": (rgb.shape, np.uint8), "coc": (depth.shape, np.float16)}
    camera = {"camera": {"max_coc_px": 29.0, "sigma_rule": "quarter"}}
    write_store(tmp_path / "defocused", table, arrays, records, camera)
    return open_store(tmp_path / "scenes"), open_store(tmp_path / "defocused")


def test_the_inputs_scores_are_means_over_test_copies_and_by_distance(taken):
    scores = input_scores(taken[1].frames)
    assert scores["test_frames"] == 4
    assert scores["psnr"] == pytest.approx(np.mean([22, 23, 24, 25]))
    assert scores["focus"]["1 m"]["psnr"] == pytest.approx(23)
    assert scores["focus"]["3 m"]["ssim"] == pytest.approx(np.mean([0.8, 1.0]))


def test_the_sheet_shows_every_copy_of_test_frames(taken):
    scenes, defocused = taken
    rows = pick_for_sheet(defocused.frames)
    assert rows == [2, 3, 4, 5]
    figure = contact_sheet(scenes, defocused, rows)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "0002-1m: all in focus" in titles and "defocused: 22.00 dB, SSIM 0.700" in titles
    shown = [np.ma.asarray(axes.get_images()[0].get_array()) for axes in figure.axes[:3]]
    np.testing.assert_array_equal(shown[0], scenes.read("rgb", 1))
    unknown = np.ma.getmaskarray(shown[1])
    assert unknown[5:9, 5:9].all() and unknown.sum() == 16
    np.testing.assert_array_equal(shown[2], defocused.read("defocused", 2))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpg")
    with Image.open(buffer) as image:
        assert image.width == 1100


@pytest.mark.parametrize("taken", ["depth"], indirect=True)
def test_a_sheet_of_photographs_without_a_sharp_one_has_no_column_for_it(taken):
    scenes, defocused = taken
    figure = contact_sheet(scenes, defocused, [2])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0].startswith("focus at 1 m") and titles[1] == "0002-1m: defocused"
    assert not any("dB" in title for title in titles)
    shown = figure.axes[1].get_images()[0].get_array()
    np.testing.assert_array_equal(shown, defocused.read("defocused", 2))


def test_a_long_list_of_frames_is_shown_by_six(tmp_path):
    table = list_renderings(frames(40), [CAMERAS["paper"]])
    rows = pick_for_sheet(table)
    assert len(rows) == 6 and rows[0] == 1 and rows[-1] == 39
