"""Photographs of 16 bits per channel: read, restored and written as they are."""

import struct
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from inference.test_photo import command, photo, weights
from inference.test_view import Half
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from hded.common.deep_image import decode_deep, eight_bits, encode_deep, is_deep
from hded.common.errors import HDEDError
from hded.common.image_io import ORIENTATION, turned, turned_array
from hded.inference import load_predictor
from hded.inference.photo import estimate, read_photo
from hded.inference.view import View

MAKE = 0x010F


def deep(height: int, width: int) -> NDArray[np.uint16]:
    """Return a photograph with detail below one count of 8 bits."""
    fine = np.random.default_rng(1).integers(0, 257, (height, width, 3))
    return (photo(height, width).astype(np.uint16) * 256 + fine).astype(np.uint16)


def exif(turn: int = 1) -> bytes:
    tags = Image.Exif()
    tags[MAKE], tags[ORIENTATION] = "Nikon", turn
    return tags.tobytes()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_read_from_files_of_another_program(tmp_path, suffix, channels) -> None:
    pixels, path = deep(30, 41), tmp_path / f"a{suffix}"
    stored = {1: pixels[..., 0], 3: pixels[..., ::-1]}.get(channels)
    if stored is None:  # transparency
        stored = np.dstack([pixels[..., ::-1], pixels[..., 0]])
    assert cv2.imwrite(str(path), stored)
    expected = pixels if channels > 1 else np.repeat(pixels[..., :1], 3, -1)
    for source in (path, BytesIO(path.read_bytes())):
        assert is_deep(source)
        np.testing.assert_array_equal(decode_deep(source), expected)
        np.testing.assert_array_equal(read_photo(source).rgb, expected)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "float.tif"])
def test_other_files_are_read_as_before(tmp_path, name) -> None:
    pixels = photo(20, 30)
    if name == "float.tif":
        Image.fromarray(pixels[..., 0].astype(np.float32)).save(tmp_path / name)
    else:
        Image.fromarray(pixels).save(tmp_path / name)
        assert read_photo(tmp_path / name).rgb.dtype == np.uint8
    assert not is_deep(tmp_path / name)


def test_a_damaged_file_is_one_line(tmp_path) -> None:
    path = tmp_path / "a.png"
    whole = encode_deep(deep(40, 40), b"", None)
    path.write_bytes(whole[:60])
    with pytest.raises(HDEDError, match=r"a\.png"):
        read_photo(path)
    path.write_bytes(b"\x89PNG")
    with pytest.raises(HDEDError, match=r"a\.png: its 16 bits per channel cannot be decoded"):
        decode_deep(path)


def test_what_is_written_is_what_another_program_reads() -> None:
    pixels = deep(30, 41)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for given in (exif(), exif().removeprefix(b"Exif\x00\x00")):
        with Image.open(BytesIO(encode_deep(pixels, given, profile))) as image:
            assert image.info["icc_profile"] == profile and image.getexif()[MAKE] == "Nikon"
            np.testing.assert_array_equal(np.asarray(image), pixels >> 8)  # pillow keeps 8 of 16
    with Image.open(BytesIO(encode_deep(pixels, b"", None))) as image:
        assert "icc_profile" not in image.info and not dict(image.getexif())


def test_every_orientation_is_that_of_pillow() -> None:
    pixels = photo(5, 8)
    for turn in range(1, 9):
        image = Image.fromarray(pixels)
        image.getexif()[ORIENTATION] = turn
        expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(turned_array(pixels, turn), expected)
        np.testing.assert_array_equal(np.asarray(turned(Image.fromarray(pixels), turn)), expected)


def test_exif_that_pillow_cannot_write_again_does_not_stop_a_photograph(tmp_path: Path) -> None:
    entries = (
        struct.pack("<HHII", 0x0100, 5, 1, 38)  # a width that is a fraction
        + struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0)
    )
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<III", 0, 3, 2)
    Image.fromarray(photo(5, 8)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image, pytest.raises(struct.error):
        image.getexif().tobytes()
    found = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(found.rgb, turned_array(photo(5, 8), 6))
    assert found.exif == b""


def test_eight_bits_are_the_nearest() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    found = eight_bits(values).astype(int)
    assert np.abs(found * 257 - values).max() <= 128
    np.testing.assert_array_equal(eight_bits(np.array([[3, 200]], np.uint8)), [[3, 200]])


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_restored_photograph_keeps_what_8_bits_lack(tmp_path: Path, scale: float) -> None:
    predictor = load_predictor(weights(tmp_path / "w.safetensors"))
    pixels = np.clip(deep(80, 96), 0, 60000).astype(np.uint16)
    same = Half(predictor)  # 10 counts brighter
    found = estimate(same, pixels, view=View(scale)).all_in_focus  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(found, pixels + 2570)
    # a network's own change is nearly that of 8 bits, which are rounded before and after
    found = estimate(predictor, pixels, view=View(scale)).all_in_focus
    shallow = estimate(predictor, eight_bits(pixels), view=View(scale)).all_in_focus
    assert found is not None and shallow is not None and found.dtype == np.uint16
    assert np.abs(found / 257 - shallow).max() <= 1.01


def test_the_command_keeps_16_bits_profile_and_exif_upright(tmp_path: Path) -> None:
    checkpoint = weights(tmp_path / "w.safetensors")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = deep(60, 90)
    (tmp_path / "a.png").write_bytes(encode_deep(pixels, exif(6), profile))
    run = ("predict", tmp_path / "a.png", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    done = command(*run)
    assert done.returncode == 0, done.stderr
    assert '"bits_per_channel": 16' in (tmp_path / "out/a.json").read_text()
    upright = np.ascontiguousarray(np.rot90(pixels, -1))
    expected = estimate(load_predictor(checkpoint), upright)
    path = tmp_path / "out/a_all_in_focus.png"
    np.testing.assert_array_equal(decode_deep(path), expected.all_in_focus)
    with Image.open(path) as image:
        assert image.info["icc_profile"] == profile and image.getexif()[MAKE] == "Nikon"
        assert image.getexif().get(ORIENTATION, 1) == 1
    with Image.open(tmp_path / "out/a_depth.png") as depth:
        np.testing.assert_array_equal(np.asarray(depth), expected.thousandths)
