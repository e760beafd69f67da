"""The lens of a photograph, from its EXIF and from its user."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from hded.common.errors import HDEDError
from hded.optics.photograph import EXIF_IFD, TAGS, StatedLens, lens_of_exif

NIKON = {
    "f_number": IFDRational(28, 10), "focal_length": IFDRational(350, 10), "focal_length_35mm": 52,
}  # fmt: skip


def photograph(path: Path, size: tuple[int, int] = (645, 432), **tags: Any) -> Image.Image:
    """A JPEG with these tags, read again; pillow writes and reads them in between."""
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD).update({TAGS[name]: value for name, value in tags.items()})
    Image.new("RGB", size).save(path / "a.jpg", exif=exif)
    with Image.open(path / "a.jpg") as image:
        image.load()
        return image


def test_a_lens_is_read_and_its_sensor_follows_from_the_equivalent(tmp_path: Path) -> None:
    found = lens_of_exif(photograph(tmp_path, **NIKON, subject_distance=IFDRational(17, 10)))
    assert (found.focal_length_m, found.f_number) == pytest.approx((0.035, 2.8))
    assert found.focus_distance_m == pytest.approx(1.7)
    # the D200's sensor is 23.6 x 15.8 mm; the equivalent is rounded to whole millimetres
    assert found.sensor_width_m == pytest.approx(23.6e-3, rel=0.03)
    turned = lens_of_exif(photograph(tmp_path, (432, 645), **NIKON))
    assert turned.sensor_width_m == pytest.approx(found.sensor_width_m)


def test_the_sensor_follows_from_the_focal_plane_where_there_is_no_equivalent(tmp_path) -> None:
    plane = {"resolution": IFDRational(3872 * 10, 236), "resolution_unit": 4, "pixels_wide": 3872}
    tags = {**NIKON, "focal_length_35mm": 0, **plane}
    assert lens_of_exif(photograph(tmp_path, **tags)).sensor_width_m == pytest.approx(23.6e-3)
    inches = {**tags, "resolution": IFDRational(3872 * 254, 236), "resolution_unit": 2}
    assert lens_of_exif(photograph(tmp_path, **inches)).sensor_width_m == pytest.approx(23.6e-3)


@pytest.mark.parametrize(
    ("tags", "missing"),
    [
        ({}, {"focal_length_m", "f_number", "focus_distance_m", "sensor_width_m"}),
        (NIKON, {"focus_distance_m"}),
        ({**NIKON, "subject_distance": IFDRational(0, 1)}, {"focus_distance_m"}),
        ({**NIKON, "subject_distance": IFDRational(0xFFFFFFFF, 1)}, {"focus_distance_m"}),
        ({**NIKON, "focal_length": IFDRational(0, 1)},
         {"focal_length_m", "focus_distance_m", "sensor_width_m"}),
        ({**NIKON, "f_number": IFDRational(0, 0)}, {"f_number", "focus_distance_m"}),
        ({**NIKON, "focal_length_35mm": 9000}, {"focus_distance_m", "sensor_width_m"}),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_missing(tmp_path: Path, tags: dict, missing: set[str]) -> None:
    assert set(lens_of_exif(photograph(tmp_path, **tags)).missing) == missing


def test_damaged_exif_is_no_lens(tmp_path: Path) -> None:
    image = photograph(tmp_path, **NIKON)
    image.info["exif"] = b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"
    image._exif = None  # pyright: ignore[reportAttributeAccessIssue]
    assert set(lens_of_exif(image).missing) == set(StatedLens().missing)


def test_what_the_user_states_comes_first() -> None:
    user, exif = StatedLens(f_number=2.0), StatedLens(f_number=2.8, focal_length_m=0.035)
    found = user.or_else(exif)
    assert (found.f_number, found.focal_length_m) == (2.0, 0.035)
    assert found.missing == ("focus_distance_m", "sensor_width_m")


def test_the_lens_of_a_photograph_is_the_thin_lens_of_its_numbers() -> None:
    stated = StatedLens(
        focal_length_m=0.035, f_number=2.8, focus_distance_m=1.67, sensor_width_m=0.0236
    )
    lens = stated.lens(645, 29.0, "quarter")
    x = 3.0
    aperture, pitch = 0.035 / 2.8, 0.0236 / 645
    image = 0.035 * 1.67 / (1.67 - 0.035)
    expected = aperture * image / 1.67 * (x - 1.67) / x / pitch
    assert lens.coc_px(np.array([x]))[0] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(HDEDError, match="focus_distance_m is not known"):
        StatedLens(focal_length_m=0.035, f_number=2.8, sensor_width_m=0.0236).lens(
            645, 29.0, "quarter"
        )
    near = StatedLens(
        focal_length_m=0.035, f_number=2.8, focus_distance_m=0.03, sensor_width_m=0.0236
    )
    with pytest.raises(HDEDError, match="does not exceed the focal length"):
        near.lens(645, 29.0, "quarter")
    assert math.isclose(lens.f_number, 2.8)
