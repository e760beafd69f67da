"""How a photograph comes to the size and the lens that a network knows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inference.test_photo import command, photo
from numpy.typing import NDArray
from PIL import Image, ImageCms
from support.cameras import PAPER

from hded.common.errors import HDEDError
from hded.common.resize import resize_bilinear, resize_rgb
from hded.inference import Predictor, load_predictor
from hded.inference.photo import estimate, read_photo
from hded.inference.view import View, view_of
from hded.network import HDEDNet
from hded.network.files import Header, Scale, read_network, save_network
from hded.optics import Camera
from hded.optics.photograph import EXIF_IFD, TAGS, StatedLens

ANY = Camera(name="any", focal_length_m=(0.035, 0.07), f_number=(1.4, 8.0), focus_distance_m=None)
PAPERS = PAPER.lens(np.empty(0), 640, np.random.default_rng(0))
# the paper's lens on a full-frame camera
STATED = StatedLens(
    focal_length_m=0.07, f_number=70 / 44.8, focus_distance_m=2.0, sensor_width_m=0.036
)
OPTIONS = ("--focal-length-mm", 70, "--f-number", 70 / 44.8, "--sensor-width-mm", 36)


def saved(path: Path, camera: Camera = ANY, **changes: Any) -> Path:
    """A network whose weights are random."""
    arguments = {
        "encoder": "efficientnet_lite0", "decoder": "bilinear", "width": 1 / 16, "readout": "coc",
        "heads": ["depth", "all_in_focus"], "depth_range_m": [0.1, 100.0], **changes,
    }  # fmt: skip
    torch.manual_seed(0)
    network = HDEDNet(**arguments)
    for decoder in network.decoders.values():
        torch.nn.init.normal_(decoder.get_parameter("predict.weight"), 0, 0.02)
    gain = PAPERS.row()[0]
    gains = (gain, gain) if camera is PAPER else (2.0, 40.0)
    header = Header(
        network=arguments, geometry="crop", size_px=64, cameras=(camera.describe(640),),
        scale=Scale(image_width_px=640, gain_px=gains, focus_distance_m=2.0),
    )  # fmt: skip
    save_network(path, network.state_dict(), header)
    return path


@pytest.fixture(scope="module")
def of_any(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("any") / "weights.safetensors")


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("one") / "weights.safetensors"
    return saved(path, PAPER, readout="log")


@pytest.mark.parametrize("long", [6400, 640, 320])
def test_the_lens_is_told_at_the_size_of_the_training_images(of_any: Path, long: int) -> None:
    view = view_of(load_predictor(of_any), (long * 2 // 3, long), STATED)
    assert view.scale == min(1, 640 / long)
    assert view.lens is not None and view.unit == "m" and not view.notes
    # the blur of a point does not depend on the size at which the photograph was stored
    coc = view.lens.coc_px(np.array([5.0]))[0]
    assert coc == pytest.approx(PAPERS.coc_px([5.0])[0] * view.scale * long / 640, rel=1e-5)


def test_blur_beyond_that_of_training_makes_the_photograph_smaller(of_any: Path) -> None:
    near = StatedLens(focal_length_m=0.07, f_number=1.4, focus_distance_m=0.8, sensor_width_m=0.036)
    view = view_of(load_predictor(of_any), (427, 640), near)
    assert view.lens is not None and view.lens.row()[0] == pytest.approx(40)
    assert view.scale < 1 and not view.notes


def test_too_little_blur_keeps_the_photograph_larger_and_is_told(of_any: Path) -> None:
    telephone = StatedLens(
        focal_length_m=0.0044, f_number=1.7, focus_distance_m=1.0, sensor_width_m=0.0056
    )
    view = view_of(load_predictor(of_any), (3024, 4032), telephone)
    assert view.lens is not None and view.lens.row()[0] == pytest.approx(2.0)
    assert 640 / 4032 < view.scale < 1 and not view.notes
    small = view_of(load_predictor(of_any), (240, 320), telephone)
    assert small.scale == 1 and "too little blur for depth" in small.notes[0]
    larger = view_of(load_predictor(of_any), (600, 800), telephone)
    assert 1 < larger.scale < 2 * 640 / 800 and not larger.notes


def test_a_photograph_is_never_enlarged_beyond_its_size_and_twice_that_of_training(of_one) -> None:
    telephone = StatedLens(
        focal_length_m=0.0069, f_number=1.8, focus_distance_m=1.5, sensor_width_m=0.0098
    )
    view = view_of(load_predictor(of_one), (3024, 4032), telephone)
    assert view.scale == 640 / 4032 and "too little blur" in view.notes[0]
    macro = StatedLens(
        focal_length_m=0.1, f_number=2.8, focus_distance_m=0.31, sensor_width_m=0.036
    )
    view = view_of(load_predictor(of_one), (3000, 4000), macro)
    assert 4000 * view.scale < 128 and "most of its detail is lost" in view.notes[-1]


def test_a_network_of_resized_frames_gets_one_lens_whatever_the_photographs_size(tmp_path) -> None:
    path = saved(tmp_path / "w.safetensors")
    header, state = read_network(path)
    save_network(path, state, header.model_copy(update={"geometry": "resize"}))
    predictor = load_predictor(path)
    views = [view_of(predictor, (long * 3 // 4, long), STATED) for long in (640, 4000)]
    assert [view.scale for view in views] == [1, 1]
    rows = [view.lens.row() for view in views if view.lens is not None]
    assert rows[0] == pytest.approx(rows[1]) and rows[0][0] == pytest.approx(PAPERS.row()[0])


def test_a_network_that_is_told_the_lens_restores_without_it(tmp_path) -> None:
    path = saved(tmp_path / "w.safetensors", readout="metres", reads_lens=True)
    predictor = load_predictor(path, heads=["all_in_focus"])
    view = view_of(predictor, (427, 640), STATED)
    assert view.lens is None
    found = estimate(predictor, photo(60, 90), view=view)
    assert found.depth is None
    both = load_predictor(path)
    whole = estimate(both, photo(60, 90), view=view_of(both, (427, 640), STATED))
    np.testing.assert_array_equal(found.all_in_focus, whole.all_in_focus)


def test_one_head_of_a_network_that_states_its_confidence_is_enough(tmp_path) -> None:
    path = saved(tmp_path / "w.safetensors", confidence=True)
    found = estimate(load_predictor(path, heads=["all_in_focus"]), photo(60, 90))
    assert found.confidence is None and found.all_in_focus is not None


def test_one_lens_is_reached_by_resizing_and_its_depth_by_a_factor(of_one: Path) -> None:
    far = StatedLens(
        focal_length_m=0.07, f_number=70 / 44.8, focus_distance_m=3.6, sensor_width_m=0.036
    )
    view = view_of(load_predictor(of_one), (427, 640), far)
    lens = far.lens(640, 29.0, "quarter")
    assert view.lens is None and view.factor == pytest.approx(1.8)
    assert lens.row()[0] * view.scale == pytest.approx(PAPERS.row()[0])
    # a scene that is so much farther away looks the same
    depth_m = np.array([1.5, 3.0, 9.0])
    seen = lens.coc_px(1.8 * depth_m) * view.scale
    np.testing.assert_allclose(seen, PAPERS.coc_px(depth_m), rtol=1e-4)


def test_without_a_lens_depth_is_that_of_the_training_camera(of_one: Path) -> None:
    view = view_of(load_predictor(of_one), (854, 1280), StatedLens(f_number=2.8))
    assert view.scale == 0.5 and view.unit == "m" and view.factor == 1
    (note,) = view.notes
    assert note.startswith("focal length and focus distance and sensor width not known")
    assert "training camera, 70 mm f/1.6 focused at 2 m" in note


def test_without_a_focus_distance_depth_is_in_units_of_it(of_any: Path) -> None:
    predictor = load_predictor(of_any)
    known = StatedLens(focal_length_m=0.07, f_number=70 / 44.8, sensor_width_m=0.036)
    view = view_of(predictor, (427, 640), known)
    assert view.unit == "focus distance" and "as if it were 2 m" in view.notes[0]
    whole = estimate(predictor, photo(427, 640), view=view_of(predictor, (427, 640), STATED))
    found = estimate(predictor, photo(427, 640), view=view)
    assert whole.depth is not None and found.depth is not None
    np.testing.assert_allclose(2 * found.depth, whole.depth, rtol=1e-5)
    nothing = view_of(predictor, (427, 640), StatedLens())
    assert nothing.unit == "focus distance" and "its order is meaningful" in nothing.notes[0]


def test_a_lens_focused_inside_its_focal_length_is_refused(of_any: Path) -> None:
    near = StatedLens(
        focal_length_m=0.07, f_number=2.0, focus_distance_m=0.05, sensor_width_m=0.036
    )
    with pytest.raises(HDEDError, match="does not exceed the focal length"):
        view_of(load_predictor(of_any), (427, 640), near)


def test_networks_that_restore_alone_need_no_lens(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", heads=["all_in_focus"])
    assert view_of(load_predictor(path), (1280, 854), StatedLens()) == View(0.5)


class Half:
    """Stands in for a network: depth is red, and the restored image is 10 counts brighter."""

    geometry, cameras = "crop", ()

    def __init__(self, predictor: Predictor) -> None:
        self.network = predictor.network

    def __call__(self, rgb: NDArray[np.uint8], lens: object, **_: object) -> dict[str, NDArray]:
        self.shape = rgb.shape
        brighter = np.clip(rgb.astype(int) + 10, 0, 255).astype(np.uint8)
        return {"depth": rgb[..., 0].astype(np.float32), "all_in_focus": brighter}


def test_a_smaller_view_changes_the_photograph_and_keeps_what_is_finer(of_any: Path) -> None:
    half, rgb = Half(load_predictor(of_any)), photo(300, 402) // 2 + 20
    found = estimate(half, rgb, view=View(0.5, factor=0.1))  # pyright: ignore[reportArgumentType]
    assert half.shape == (150, 201, 3)
    np.testing.assert_array_equal(found.all_in_focus, rgb + 10)
    small = resize_rgb(rgb, (150, 201))[..., 0].astype(np.float32)
    expected = resize_bilinear(small * np.float32(0.1), (300, 402))
    assert found.depth is not None
    np.testing.assert_allclose(found.depth, expected, rtol=1e-5)


# ---- the command ----


def taken(path: Path, size: tuple[int, int] = (60, 90), profile: bytes | None = None) -> Path:
    """A JPEG by a camera that states its lens and its focus distance, and a colour profile."""
    exif = Image.Exif()
    exif[0x010F] = "Nikon"
    exif[0x0112] = 6
    tags = {"f_number": 2.8, "focal_length": 35.0, "focal_length_35mm": 52, "subject_distance": 1.7}
    exif.get_ifd(EXIF_IFD).update({TAGS[name]: value for name, value in tags.items()})
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(photo(*size)).save(path, exif=exif, icc_profile=profile)
    return path


def test_the_command_takes_the_lens_of_exif_and_says_so(of_any: Path, tmp_path: Path) -> None:
    path = taken(tmp_path / "photos" / "a.jpg")
    run = ("predict", path.parent, "--checkpoint", of_any, "--out")
    done = command(*run, tmp_path / "out", "--floats")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out/a.json").read_text())
    assert told["depth_unit"] == "m" and told["lens"]["f_number"] == {"value": 2.8, "from": "exif"}
    assert told["size"] == [90, 60]
    depth_m = np.load(tmp_path / "out/a_depth.npy")
    with Image.open(tmp_path / "out/a_depth.png") as stored:
        np.testing.assert_allclose(np.asarray(stored), depth_m * 1000, atol=0.51)
    other = command(*run, tmp_path / "other", "--focus-distance-m", 3, "--floats")
    assert other.returncode == 0
    told = json.loads((tmp_path / "other/a.json").read_text())
    assert told["lens"]["focus_distance_m"] == {"value": 3.0, "from": "option"}
    assert not np.allclose(np.load(tmp_path / "other/a_depth.npy"), depth_m)


def test_without_a_focus_distance_the_file_and_the_message_say_so(of_any, tmp_path) -> None:
    Image.fromarray(photo(60, 90)).save(tmp_path / "a.png")
    done = command(
        "predict", tmp_path / "a.png", "--checkpoint", of_any, "--out", tmp_path / "out", *OPTIONS
    )
    assert done.returncode == 0
    assert "a.png: focus distance not known: depth is in units of it" in done.stdout + done.stderr
    written = {f.name for f in (tmp_path / "out").iterdir()}
    assert "a_depth_relative.png" in written and "a_depth.png" not in written
    assert json.loads((tmp_path / "out/a.json").read_text())["notes"]
    done = command(
        "predict", tmp_path / "a.png", "--checkpoint", of_any, "--out", tmp_path / "out", *OPTIONS,
        "--focus-distance-m", 2,
    )  # fmt: skip
    assert done.returncode == 0
    written = {f.name for f in (tmp_path / "out").iterdir()}
    assert "a_depth.png" in written and "a_depth_relative.png" not in written
    done = command(
        "predict", tmp_path / "a.png", "--checkpoint", of_any, "--out", tmp_path / "out",
        "--focus-distance-m", 2,
    )  # fmt: skip
    assert "the photograph's focus distance was not used" in done.stdout + done.stderr


def test_the_restored_photograph_keeps_colour_profile_and_exif(of_any, tmp_path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = taken(tmp_path / "photos" / "a.jpg", profile=profile)
    assert read_photo(path).icc_profile == profile
    done = command("predict", path, "--checkpoint", of_any, "--out", tmp_path / "out")
    assert done.returncode == 0
    with Image.open(tmp_path / "out/a_all_in_focus.png") as image:
        assert image.info["icc_profile"] == profile and image.size == (60, 90)
        assert image.getexif()[0x010F] == "Nikon"
        assert image.getexif().get(0x0112, 1) == 1  # it stands upright now
        assert image.getexif().get_ifd(EXIF_IFD)[TAGS["f_number"]] == pytest.approx(2.8)


def test_a_lens_that_cannot_be_is_one_line_and_the_others_are_done(of_any, tmp_path) -> None:
    taken(tmp_path / "photos" / "a.jpg")
    Image.fromarray(photo(60, 90)).save(tmp_path / "photos" / "b.png")
    done = command(
        "predict", tmp_path / "photos", "--checkpoint", of_any, "--out", tmp_path / "out",
        "--focus-distance-m", 0.04, "--focal-length-mm", 50,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "a.jpg: lens: focus_distance_m 0.04 does not exceed the focal length 0.05" in last
    assert (tmp_path / "out/b_depth_relative.png").is_file()


def test_heic_is_refused_by_the_name_of_what_opens_it(of_any, tmp_path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" * 4)
    done = command("predict", tmp_path / "a.heic", "--checkpoint", of_any, "--out", tmp_path / "o")
    assert done.returncode == 2 and "is HEIC" in done.stderr and "pillow-heif" in done.stderr
