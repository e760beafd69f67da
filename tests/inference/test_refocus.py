"""Photographs that are focused elsewhere afterwards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inference.test_photo import command, photo
from inference.test_view import OPTIONS, saved
from PIL import Image
from scipy.ndimage import gaussian_filter
from support.cameras import PAPER

from hded.common.errors import HDEDError
from hded.inference.photo import read_photo
from hded.inference.refocus import refocus
from hded.network.files import read_network, save_network
from hded.optics import ThinLens
from hded.optics.photograph import EXIF_IFD, TAGS

LENS = ThinLens(
    focal_length_m=0.05, aperture_m=0.02, focus_distance_m=2.0, pixel_pitch_m=5e-5, max_coc_px=48
)
TAKEN = [f"--taken-{o.strip('-')}" if isinstance(o, str) else o for o in OPTIONS]


def depth(size: tuple[int, int], value_m: float) -> np.ndarray:
    return np.full(size, value_m, np.float32)


def test_what_the_new_lens_is_focused_on_stays_as_it_is() -> None:
    rgb = photo(120, 160)
    np.testing.assert_array_equal(refocus(rgb, depth((120, 160), 2.0), LENS), rgb)


def test_what_lies_elsewhere_is_blurred_by_the_lens() -> None:
    rgb = photo(120, 160)
    sigma = LENS.sigma_px([5.0])[0]
    assert sigma > 1
    expected = gaussian_filter(rgb.astype(float), (sigma, sigma, 0), mode="reflect", truncate=3.5)
    found = refocus(rgb, depth((120, 160), 5.0), LENS)
    assert np.abs(found - expected).max() <= 1.5


@pytest.mark.parametrize(("distance_m", "most"), [(2.0, 0), (2.05, 2.5), (5.0, 1.5)])
def test_a_large_photograph_keeps_its_detail_where_the_lens_leaves_it(distance_m, most) -> None:
    rng = np.random.default_rng(0)
    rgb = photo(200, 2048)
    rgb[..., 1] = rng.integers(60, 200, rgb.shape[:2])  # detail as fine as it can be
    lens = replace(LENS, pixel_pitch_m=LENS.pixel_pitch_m / 2)
    sigma = float(lens.sigma_px([distance_m])[0])
    expected = gaussian_filter(rgb.astype(float), (sigma, sigma, 0), mode="reflect", truncate=3.5)
    found = refocus(rgb, depth(rgb.shape[:2], distance_m), lens)
    inside = np.abs(found - expected)[20:-20, 20:-20]
    assert inside.mean() <= most + 1e-9
    if not most:
        np.testing.assert_array_equal(found, rgb)


def test_a_near_object_in_front_of_a_blurred_wall_stays_sharp() -> None:
    rgb, depth_m = photo(120, 160), depth((120, 160), 6.0)
    depth_m[40:80, 60:100] = 2.0
    found = refocus(rgb, depth_m, LENS)
    assert np.abs(found[50:70, 70:90].astype(int) - rgb[50:70, 70:90]).max() <= 2
    assert np.abs(found[:30].astype(int) - rgb[:30]).mean() > 5


def test_depth_must_fit_and_be_there() -> None:
    with pytest.raises(HDEDError, match="must agree"):
        refocus(photo(20, 30), depth((20, 31), 1.0), LENS)
    with pytest.raises(HDEDError, match="no depth anywhere"):
        refocus(photo(20, 30), depth((20, 30), 0.0), LENS)


# ---- the command ----


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return saved(folder / "any.safetensors"), saved(folder / "one.safetensors", PAPER)


def test_the_command_writes_an_image_for_each_distance(networks, tmp_path) -> None:
    Image.fromarray(photo(60, 90)).save(tmp_path / "a.png")
    done = command(
        "refocus", tmp_path / "a.png", "--checkpoint", networks[0], "--out", tmp_path / "out",
        *TAKEN, "--taken-focus-distance-m", 2, "--focus-distance-m", 1, "--focus-distance-m", 4.5,
        "--f-number", 1.2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {"a_refocused_1m.png", "a_refocused_4.5m.png"}
    assert {f.name for f in (tmp_path / "out").iterdir()} == names
    images = [np.asarray(Image.open(tmp_path / "out" / name)) for name in sorted(names)]
    assert images[0].shape == (60, 90, 3) and not np.array_equal(images[0], images[1])


def test_exif_states_the_new_lens(networks, tmp_path) -> None:
    tags = Image.Exif()
    tags[0x010F] = "Nikon"
    lens = tags.get_ifd(EXIF_IFD)
    lens[TAGS["f_number"]], lens[TAGS["subject_distance"]] = 2.8, 2.0
    Image.fromarray(photo(60, 90)).save(tmp_path / "a.jpg", exif=tags)
    done = command(
        "refocus", tmp_path / "a.jpg", "--checkpoint", networks[0], "--out", tmp_path / "out",
        *TAKEN, "--focus-distance-m", 4.5, "--f-number", 1.2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stated = read_photo(tmp_path / "out/a_refocused.png").lens
    assert (stated.f_number, stated.focus_distance_m) == pytest.approx((1.2, 4.5))
    with Image.open(tmp_path / "out/a_refocused.png") as image:
        assert image.getexif()[0x010F] == "Nikon"


def test_without_a_lens_it_asks_for_one_or_takes_that_of_training(networks, tmp_path) -> None:
    Image.fromarray(photo(60, 90)).save(tmp_path / "a.png")
    rest = ("--out", tmp_path / "out", "--focus-distance-m", 1)
    done = command("refocus", tmp_path / "a.png", "--checkpoint", networks[0], *rest)
    assert done.returncode == 2 and "state --taken-focal-length-mm, --taken-f-number" in done.stderr
    done = command("refocus", tmp_path / "a.png", "--checkpoint", networks[1], *rest)
    assert done.returncode == 0 and "depth is that of the training camera" in (
        done.stderr + done.stdout
    )
    assert (tmp_path / "out/a_refocused.png").is_file()


def test_a_network_without_a_head_and_a_lens_that_cannot_be_are_one_line(networks, tmp_path):
    Image.fromarray(photo(60, 90)).save(tmp_path / "a.png")
    alone = saved(tmp_path / "depth.safetensors", heads=["depth"])
    run = ("refocus", tmp_path / "a.png", "--out", tmp_path / "out", "--checkpoint")
    done = command(*run, alone, "--focus-distance-m", 1)
    assert done.returncode == 2 and "it lacks all_in_focus" in done.stderr
    done = command(*run, networks[1], "--focus-distance-m", 0.05)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "does not exceed the focal length" in last and "a.png" in last


def test_a_network_that_finds_no_depth_is_one_line(tmp_path) -> None:
    Image.fromarray(photo(60, 90)).save(tmp_path / "a.png")
    path = saved(tmp_path / "metres.safetensors", PAPER, readout="metres")
    header, state = read_network(path)
    name = "decoders.depth.predict.weight"  # of values that are not negative
    save_network(path, state | {name: -state[name].abs()}, header)
    run = ("refocus", tmp_path / "a.png", "--out", tmp_path / "out", "--checkpoint", path)
    done = command(*run, "--focus-distance-m", 1)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "a.png: refocus: there is no depth anywhere" in last
    assert list((tmp_path / "out").iterdir()) == []
