"""The embedded sample: the ray-caster against closed forms, the files against plain readers."""

import io
import tarfile
from contextlib import ExitStack

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.io import loadmat
from support.hdf5 import dataset

from hded.common.errors import HDEDError
from hded.datasets.make3d import open_make3d
from hded.datasets.nyu import CROP_COLUMNS, CROP_ROWS, open_nyu
from hded.sample import rooms, streets
from hded.sample.raycast import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    ROOM,
    Camera,
    Scene,
    SceneBuilder,
    camera,
    cast_depth,
)
from hded.sample.shading import render
from hded.sample.textures import PLAIN, TILES, line
from hded.sample.write import write_make3d, write_nyu

LAMP = np.array([(0, 0, 9), (9, 9, 9), (0.3,) * 3, (0.2,) * 3, (0.5,) * 3, (0.5,) * 3], float)
VIEW = camera((0.2, -0.1, 1.4), 0.2, -0.15, 0.6, 0.45)
NYU_COUNTS = {"train": 3, "test": 1, "seed": 5}
MAKE3D_COUNTS = {"train": 2, "test": 1, "seed": 5}
ARCHIVES = {
    "Train400Img.tar.gz": ("Train400Img/img-", ".jpg", 2),
    "Train400Depth.tgz": ("Train400Depth/depth_sph_corr-", ".mat", 2),
    "Test134.tar.gz": ("Test134/img-", ".jpg", 1),
    "Test134Depth.tar.gz": ("Gridlaserdata/depth_sph_corr-", ".mat", 1),
}


@pytest.fixture(scope="module")
def nyu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nyu")
    write_nyu(folder, **NYU_COUNTS)
    return folder


@pytest.fixture(scope="module")
def make3d(tmp_path_factory):
    folder = tmp_path_factory.mktemp("make3d")
    write_make3d(folder, **MAKE3D_COUNTS)
    return folder


def _scene(*shapes: tuple, pattern: int = PLAIN, size_m: float = 1.0) -> Scene:
    build = SceneBuilder()
    paint = build.paint(pattern, (0.7, 0.7, 0.7), (0.2, 0.2, 0.2), size_m, 3, aspect=2.0)
    for kind, center, half, turn, tilt in shapes:
        build.add(kind, center, half, paint, turn=turn, tilt=tilt)
    return build.build(LAMP, lamp_m=0.5)


def _rays(view: Camera, width: int, height: int) -> NDArray:
    """Directions (H, W, 3) through the pixels' centres, whose component along the axis is one."""
    x = (2 * (np.arange(width) + 0.5) / width - 1) * view.tan_x
    y = (2 * (np.arange(height) + 0.5) / height - 1) * view.tan_y
    in_camera = np.stack([*np.meshgrid(x, y), np.ones((height, width))], -1)
    return in_camera @ view.axes


def _sphere_depth(view: Camera, rays: NDArray, center: NDArray, radius: float) -> NDArray:
    """Z-depth of a sphere: the smaller root of |o + t d - c| = r."""
    to = view.position - center
    a, b, c = (rays**2).sum(-1), rays @ to, to @ to - radius**2
    root = b * b - a * c
    return np.where(root >= 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)


# --- the ray-caster ---


def test_axes_of_a_camera_are_orthonormal_and_look_where_they_should():
    view = camera((0, 0, 0), 0.3, -0.2, 1, 1)
    assert np.allclose(view.axes @ view.axes.T, np.eye(3))
    assert np.allclose(
        view.axes[2], [np.sin(0.3) * np.cos(0.2), np.cos(0.3) * np.cos(0.2), -np.sin(0.2)]
    )
    assert view.axes[1, 2] < 0  # down is down
    assert view.axes[0, 0] > 0  # right is right


def test_depth_is_measured_along_the_optical_axis_not_along_the_ray():
    wall = _scene((BOX, (0, 6, 0), (50, 1, 50), 0.0, 0.0))
    straight_on = camera((0, 0, 0), 0.0, 0.0, 1.0, 1.0)
    assert np.allclose(cast_depth(wall, straight_on, 31, 31), 5.0)


@pytest.mark.parametrize("tilt", [0.0, 0.4, -0.9])
@pytest.mark.parametrize("turn", [0.0, 0.5])
def test_a_slanted_plane_has_the_depth_of_its_closed_form(turn, tilt):
    center, thick = np.array([0.1, 4.0, 1.2]), 0.05
    panel = _scene((BOX, tuple(center), (60, thick, 60), turn, tilt))
    normal = np.array([np.sin(turn) * np.cos(tilt), -np.cos(turn) * np.cos(tilt), np.sin(tilt)])
    rays = _rays(VIEW, 80, 60)
    with np.errstate(divide="ignore"):
        expected = ((center + thick * normal - VIEW.position) @ normal) / (rays @ normal)
    depth = cast_depth(panel, VIEW, 80, 60)
    front = (rays @ normal < -0.05) & (expected < 30)
    assert front.mean() > 0.5
    assert np.allclose(depth[front], expected[front], rtol=1e-9)


def test_a_cloud_of_spheres_has_the_depth_of_its_closed_form():
    rng = np.random.default_rng(0)
    centers = rng.uniform([-3, 1.5, 0], [3, 9, 3], (40, 3))
    radii = rng.uniform(0.05, 0.6, 40)
    scene = _scene(
        *((ELLIPSOID, tuple(c), (r, r, r), 0.3, 0.2) for c, r in zip(centers, radii, strict=True))
    )
    rays = _rays(VIEW, 120, 90)
    expected = np.min(
        [_sphere_depth(VIEW, rays, c, r) for c, r in zip(centers, radii, strict=True)], 0
    )
    assert 0.2 < np.isfinite(expected).mean() < 0.95
    assert np.allclose(cast_depth(scene, VIEW, 120, 90), expected)


def test_hits_on_boxes_and_cylinders_lie_on_their_surfaces():
    half, turn, center = np.array([0.7, 0.5, 0.9]), 0.4, np.array([0.3, 3.5, 1.0])
    c, s = np.cos(turn), np.sin(turn)
    for kind in (BOX, CYLINDER):
        depth = cast_depth(_scene((kind, tuple(center), tuple(half), turn, 0.0)), VIEW, 90, 70)
        hit = np.isfinite(depth)
        points = VIEW.position + depth[hit, None] * _rays(VIEW, 90, 70)[hit] - center
        own = points @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) / half
        if kind == BOX:
            reach = np.abs(own).max(-1)
        else:
            reach = np.maximum(np.hypot(own[:, 0], own[:, 1]), np.abs(own[:, 2]))
        assert hit.sum() > 300
        assert np.allclose(reach, 1.0)


def test_a_room_is_seen_from_inside_and_hides_behind_what_stands_in_it():
    room = (ROOM, (0.0, 2.0, 1.5), (3.0, 4.0, 1.5), 0.0, 0.0)
    ball = (ELLIPSOID, (0.5, 3.0, 1.0), (0.5, 0.5, 0.5), 0.0, 0.0)
    rays = _rays(VIEW, 64, 48)
    with np.errstate(divide="ignore"):
        walls = np.where(rays > 0, [3.0, 6.0, 3.0], [-3.0, -2.0, 0.0])
        expected = ((walls - VIEW.position) / rays).min(-1)
    assert np.allclose(cast_depth(_scene(room), VIEW, 64, 48), expected)
    expected = np.minimum(expected, _sphere_depth(VIEW, rays, np.array([0.5, 3.0, 1.0]), 0.5))
    assert np.allclose(cast_depth(_scene(room, ball), VIEW, 64, 48), expected)


def test_rendered_depth_is_that_of_the_pixel_centres():
    scene, views = rooms.furnish(np.random.SeedSequence(3))
    _, depth = render(scene, views[0], 100, 70, samples=2)
    same = np.isclose(depth, cast_depth(scene, views[0], 100, 70), rtol=1e-9)
    assert same.mean() > 0.999  # rounding may tell a ray at an edge apart


def test_an_object_before_the_lamp_casts_a_shadow_and_only_there():
    floor = (BOX, (0.0, 0.0, -0.1), (50.0, 50.0, 0.1), 0.0, 0.0)
    ball = (ELLIPSOID, (0.0, 0.0, 4.0), (0.8, 0.8, 0.8), 0.0, 0.0)
    steep = camera((0, -5, 3.0), 0.0, -0.54, 0.7, 0.7)  # looks at (0, 0, 0), under the ball
    lit, _ = render(_scene(floor), steep, 61, 61, samples=2)
    shaded, _ = render(_scene(floor, ball), steep, 61, 61, samples=2)
    assert shaded[30, 30].mean() < 0.6 * lit[30, 30].mean()
    assert np.array_equal(shaded[50:, :10], lit[50:, :10])


@given(
    x=st.floats(-20, 20), period=st.floats(0.1, 3), share=st.floats(0.05, 0.95),
    footprint=st.floats(0.01, 10),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_filtered_line_pattern_is_the_mean_over_the_footprint(x, period, share, footprint):
    points = x + footprint * ((np.arange(20000) + 0.5) / 20000 - 0.5)
    inside = points / period - np.floor(points / period) < share
    assert line(x, period, share * period, footprint) == pytest.approx(inside.mean(), abs=2e-3)


def test_distant_tiles_fade_to_their_mean_instead_of_aliasing():
    def contrast(distance: float) -> float:
        wall = _scene(
            (BOX, (0, distance + 1, 0), (500, 1, 500), 0.0, 0.0), pattern=TILES, size_m=0.2
        )
        rgb, _ = render(wall, camera((0, 0, 0), 0, 0, 0.6, 0.45), 160, 120, samples=1)
        return float(rgb.std() / rgb.mean())

    assert contrast(200.0) < 0.6 * contrast(3.0)


@pytest.mark.parametrize("distance", [1.0, 3.0, 9.0, 40.0])
def test_texture_has_detail_of_one_to_three_pixels_at_any_distance(distance):
    wall = _scene((BOX, (0, distance + 1, 0), (500, 1, 500), 0.0, 0.0))
    rgb, _ = render(wall, camera((0, 0, 0), 0, 0, 0.6, 0.45), 320, 240, samples=2)
    log = np.log(rgb[..., 0])
    assert np.diff(log, axis=0).std() > 0.05
    assert np.diff(log, axis=1).std() > 0.05


# --- the scenes ---


def test_rooms_keep_their_range_and_spread_their_medians():
    depths = []
    for i in range(14):
        scene, views = rooms.furnish(np.random.SeedSequence(i))
        assert len(views) == rooms.VIEWS
        depths += [cast_depth(scene, view, 96, 72) for view in views]
    medians = [np.median(d) for d in depths]
    assert min(d.min() for d in depths) >= rooms.NEAR_M
    assert max(d.max() for d in depths) <= rooms.FAR_M
    assert min(medians) < 3.5 and max(medians) > 5.5
    assert np.std(medians) > 1.0
    layers = [np.quantile(d, 0.95) / np.quantile(d, 0.05) for d in depths]
    assert min(layers) > 1.2


def test_streets_keep_their_range_spread_their_medians_and_show_sky():
    depths = [
        cast_depth(*streets.build_street(np.random.SeedSequence(i)), 48, 64) for i in range(10)
    ]
    assert min(d.min() for d in depths) >= streets.NEAR_M
    medians = [np.median(np.minimum(d, streets.FAR_M)) for d in depths]
    assert max(medians) > 2 * min(medians)
    assert all(np.mean(d > streets.FAR_M) < 0.45 for d in depths)
    assert any(np.isinf(d).any() for d in depths)


# --- NYU's files ---


def test_the_nyu_file_is_laid_out_as_matlab_does(nyu):
    path = nyu / "nyu_depth_v2_labeled.mat"
    head = path.read_bytes()[:512]
    assert head.startswith(b"MATLAB 7.3 MAT-file")
    assert head[124:128] == b"\x00\x02IM"
    with h5py.File(path, "r") as mat:
        assert mat.userblock_size == 512
        for name, shape, dtype, kind in (
            ("images", (4, 3, 640, 480), np.uint8, b"uint8"),
            ("depths", (4, 640, 480), np.float32, b"single"),
            ("rawDepths", (4, 640, 480), np.float32, b"single"),
        ):
            assert dataset(mat, name).shape == shape
            assert dataset(mat, name).dtype == dtype
            assert dataset(mat, name).attrs["MATLAB_class"] == kind
        assert dataset(mat, "scenes").shape == (1, 4)
        assert dataset(mat, "scenes").attrs["MATLAB_class"] == b"cell"
        texts = [dataset(mat, reference) for reference in dataset(mat, "scenes")[0]]
        assert all(text.dtype == np.uint16 and text.shape[1] == 1 for text in texts)
        assert all(text.attrs["MATLAB_class"] == b"char" for text in texts)
        names = ["".join(map(chr, text[:, 0])) for text in texts]
    assert all(name.startswith("sample_room_") for name in names)


def test_the_split_is_one_based_complete_and_mixed_and_keeps_rooms_apart(nyu):
    splits = loadmat(nyu / "splits.mat")
    train, test = splits["trainNdxs"], splits["testNdxs"]
    assert train.shape == (3, 1) and test.shape == (1, 1)
    assert sorted([*train[:, 0], *test[:, 0]]) == [1, 2, 3, 4]
    assert train.min() < test[0, 0] < train.max()
    with h5py.File(nyu / "nyu_depth_v2_labeled.mat", "r") as mat:
        names = ["".join(map(chr, dataset(mat, r)[:, 0])) for r in dataset(mat, "scenes")[0]]
    in_train, in_test = ({names[int(i) - 1] for i in part[:, 0]} for part in (train, test))
    assert not in_train & in_test
    assert len(in_train) == 2  # neighbouring training frames share a room


def test_nyu_depth_is_in_range_with_a_few_holes_and_raw_depth_with_more(nyu):
    with h5py.File(nyu / "nyu_depth_v2_labeled.mat", "r") as mat:
        depth, raw = dataset(mat, "depths")[()], dataset(mat, "rawDepths")[()]
    known = depth > 0
    assert depth[known].min() >= 0.7 and depth.max() <= 10
    assert 0 < (~known).mean() < 0.01
    assert any(frame.all() for frame in known)  # not every frame has holes
    assert not raw[~known].any()
    assert np.array_equal(raw[raw > 0], depth[raw > 0])
    inside = raw[:, CROP_COLUMNS, CROP_ROWS] == 0
    assert (inside.mean((1, 2)) > 0.01).all()
    assert inside.mean() < 0.3


def test_nyu_pictures_have_a_white_border_that_the_crop_removes(nyu):
    with h5py.File(nyu / "nyu_depth_v2_labeled.mat", "r") as mat:
        white = (dataset(mat, "images")[()] == 255).all(1)  # (N, W, H)
    assert white[:, :, :5].all() and white[:, :5].all()
    assert white[:, :, -5:].all() and white[:, -5:].all()
    assert white[:, CROP_COLUMNS, CROP_ROWS].mean() < 0.05


def test_nyu_depth_edges_are_picture_edges(nyu):
    with h5py.File(nyu / "nyu_depth_v2_labeled.mat", "r") as mat:
        rgb = dataset(mat, "images")[:, :, CROP_COLUMNS, CROP_ROWS].astype(float).mean(1)
        depth = dataset(mat, "rawDepths")[:, CROP_COLUMNS, CROP_ROWS]
    known = (depth[:, 1:] > 0) & (depth[:, :-1] > 0)
    jump = known & (np.abs(np.diff(depth, axis=1)) > 0.3)
    step = np.abs(np.diff(rgb, axis=1))
    assert step[jump].mean() > 2 * step[known & ~jump].mean()


def test_the_real_nyu_reader_takes_the_file(nyu):
    with ExitStack() as stack:
        scenes = open_nyu(nyu, stack)
        assert len(scenes.frames) == 4
        assert scenes.has_raw_valid
        assert sorted(scenes.frames["split"]) == ["test", "train", "train", "train"]


# --- Make3D's files ---


def _members(path):
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # pyright: ignore[reportOptionalMemberAccess]


def test_the_make3d_archives_hold_pairs_under_the_official_names(make3d):
    assert {path.name for path in make3d.iterdir()} == set(ARCHIVES)
    names = {}
    for archive, (prefix, suffix, count) in ARCHIVES.items():
        members = _members(make3d / archive)
        assert len(members) == count
        assert all(m.startswith(prefix) and m.endswith(suffix) for m in members)
        names[archive] = {m.removeprefix(prefix).removesuffix(suffix) for m in members}
    assert names["Train400Img.tar.gz"] == names["Train400Depth.tgz"]
    assert names["Test134.tar.gz"] == names["Test134Depth.tar.gz"]
    assert not names["Train400Img.tar.gz"] & names["Test134.tar.gz"]


def test_make3d_grids_are_metres_and_consistent_points(make3d):
    for archive in ("Train400Depth.tgz", "Test134Depth.tar.gz"):
        for data in _members(make3d / archive).values():
            grid = loadmat(io.BytesIO(data))["Position3DGrid"]
            assert grid.shape == (55, 305, 4)
            assert grid.dtype == np.float64
            up, right, forward, depth = np.moveaxis(grid, -1, 0)
            assert 2 <= depth.min() and depth.max() <= 81
            assert (depth < 80).mean() > 0.5
            assert np.array_equal(forward, depth)
            assert np.allclose(right / depth, (right / depth)[:1])  # one angle per column
            assert np.allclose(up / depth, (up / depth)[:, :1])  # one angle per row
            assert up[0].min() > 0 > up[-1].max()
            assert right[:, 0].max() < 0 < right[:, -1].min()
            assert (up / depth)[0, 0] == pytest.approx(2272 / 2 / 2640 * 54 / 55)


def test_one_make3d_picture_lies_on_its_side_and_its_exif_turns_it_upright(make3d):
    pictures = {**_members(make3d / "Train400Img.tar.gz"), **_members(make3d / "Test134.tar.gz")}
    images = [Image.open(io.BytesIO(data)) for data in pictures.values()]
    assert [image.size for image in images].count((2272, 1704)) == 1
    assert [image.size for image in images].count((1704, 2272)) == 2
    assert {ImageOps.exif_transpose(image).size for image in images} == {(1704, 2272)}


def test_depth_edges_are_edges_of_the_upright_make3d_picture_and_not_of_its_mirror_image(make3d):
    for archive, depths in (
        ("Train400Img.tar.gz", "Train400Depth.tgz"), ("Test134.tar.gz", "Test134Depth.tar.gz")
    ):  # fmt: skip
        pairs = zip(
            sorted(_members(make3d / archive).items()),
            sorted(_members(make3d / depths).items()),
            strict=True,
        )
        for (_, jpg), (_, mat) in pairs:
            depth = loadmat(io.BytesIO(mat))["Position3DGrid"][..., 3]
            jump = np.abs(np.diff(np.log(depth), axis=1)) > 0.2
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(jpg)))
            grey = np.asarray(image.resize((305, 55), Image.Resampling.BOX), float).mean(-1)
            for flip, at_edges in (
                (np.s_[:], True), (np.s_[::-1], False), (np.s_[:, ::-1], False)
            ):  # fmt: skip
                step = np.abs(np.diff(grey[flip], axis=1))
                assert (step[jump].mean() > 4 * step[~jump].mean()) == at_edges


def test_the_real_make3d_reader_takes_the_archives(make3d):
    scenes = open_make3d(make3d)
    assert list(scenes.frames["split"]) == ["train", "train", "test"]
    assert not scenes.skipped


# --- seeds ---


@pytest.mark.parametrize(("write", "made"), [(write_nyu, "nyu"), (write_make3d, "make3d")])
def test_equal_arguments_give_equal_bytes(write, made, tmp_path, request):
    first = request.getfixturevalue(made)
    write(tmp_path, **(NYU_COUNTS if made == "nyu" else MAKE3D_COUNTS))
    for path in first.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def _nyu_frames(folder) -> dict[str, NDArray]:
    splits = loadmat(folder / "splits.mat")
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "r") as mat:
        images = dataset(mat, "images")[()]
    return {k: images[splits[f"{k}Ndxs"].astype(int)[:, 0] - 1] for k in ("train", "test")}


def test_a_frame_does_not_depend_on_how_many_are_made_but_on_the_seed(nyu, tmp_path):
    many = _nyu_frames(nyu)
    write_nyu(tmp_path / "few", train=1, test=1, seed=5)
    few = _nyu_frames(tmp_path / "few")
    assert np.array_equal(few["train"][0], many["train"][0])
    assert np.array_equal(few["test"][0], many["test"][0])
    write_nyu(tmp_path / "other", train=1, test=1, seed=6)
    assert not np.array_equal(_nyu_frames(tmp_path / "other")["train"][0], few["train"][0])


def test_no_two_frames_are_alike(nyu, make3d):
    frames = [*_nyu_frames(nyu)["train"], *_nyu_frames(nyu)["test"]]
    for i, frame in enumerate(frames):
        for other in frames[:i]:
            assert np.abs(frame.astype(int) - other).mean() > 10
    jpgs = [*_members(make3d / "Train400Img.tar.gz").values()]
    jpgs += _members(make3d / "Test134.tar.gz").values()
    assert len(set(jpgs)) == 3


@pytest.mark.parametrize("write", [write_nyu, write_make3d])
@pytest.mark.parametrize("wrong", [{"train": 0}, {"test": 0}, {"test": -3}, {"seed": -1}])
def test_impossible_counts_are_refused_by_name_and_nothing_is_written(write, wrong, tmp_path):
    with pytest.raises(HDEDError, match=rf"sample\.{next(iter(wrong))}"):
        write(tmp_path / "out", **{"train": 1, "test": 1, "seed": 1, **wrong})
    assert not (tmp_path / "out").exists()
