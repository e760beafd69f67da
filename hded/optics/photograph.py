"""The lens of a photograph, as far as it is known: stated by its user, or by its EXIF."""

import math
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image

from hded.common.errors import HDEDError
from hded.optics.lens import SigmaRule, ThinLens

FULL_FRAME_DIAGONAL_M = math.hypot(0.036, 0.024)
SENSOR_WIDTHS_M = (0.002, 0.07)  # of a small telephone's camera, and of medium format
FARTHEST_M = 1e6  # some cameras write a distance of 2^32 - 1 for infinity
EXIF_IFD = 0x8769
TAGS = {  # of that part of EXIF
    "f_number": 0x829D,
    "focal_length": 0x920A,
    "focal_length_35mm": 0xA405,
    "subject_distance": 0x9206,
    "pixels_wide": 0xA002,
    "pixels_high": 0xA003,
    "resolution": 0xA20E,
    "resolution_unit": 0xA210,
}
UNITS_M = {2: 0.0254, 3: 0.01, 4: 0.001, 5: 1e-6}  # of the focal plane's resolution


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedLens:
    """A photograph's lens as far as it is known; what is None is not.

    `sensor_width_m` is that of the photograph's long side.
    """

    focal_length_m: float | None = None
    f_number: float | None = None
    focus_distance_m: float | None = None
    sensor_width_m: float | None = None

    @classmethod
    def of(cls, lens: ThinLens, width_px: int) -> "StatedLens":
        """Return the numbers of a lens, in front of a sensor of so many pixels."""
        return cls(
            focal_length_m=lens.focal_length_m,
            f_number=lens.f_number,
            focus_distance_m=lens.focus_distance_m,
            sensor_width_m=lens.pixel_pitch_m * width_px,
        )

    def or_else(self, other: "StatedLens") -> "StatedLens":
        """Return this lens, with what it lacks from another."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return StatedLens(**{k: getattr(other, k) if v is None else v for k, v in own.items()})

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the names of what is not known."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is None)

    def lens(self, long_side_px: int, max_coc_px: float, sigma_rule: SigmaRule) -> ThinLens:
        """Return the lens for a photograph of this size; all of it must be known.

        Raises HDEDError for numbers that are not positive, and for a lens that is focused inside
        its focal length.
        """
        if self.missing:
            raise HDEDError(f"the photograph's lens: {', '.join(self.missing)} is not known")
        focal_length_m, f_number, focus_m, width_m = (
            float(getattr(self, field.name)) for field in fields(self)
        )
        if not all(0 < n < math.inf for n in (focal_length_m, f_number, focus_m, width_m)):
            raise HDEDError("the photograph's lens: every number must be above 0")
        return ThinLens(
            focal_length_m=focal_length_m,
            aperture_m=focal_length_m / f_number,
            focus_distance_m=focus_m,
            pixel_pitch_m=width_m / long_side_px,
            max_coc_px=max_coc_px,
            sigma_rule=sigma_rule,
        )


def lens_of_exif(image: Image.Image) -> StatedLens:
    """Return what an image's EXIF states; numbers that cannot be meant count as missing.

    The sensor's width follows from the focal length that would see as much on full frame, which
    compares diagonals, or else from the resolution of the focal plane. A photograph that was
    cropped afterwards has a narrower one.
    """
    try:
        exif = image.getexif().get_ifd(EXIF_IFD)
    except Exception:  # damaged EXIF makes pillow raise many kinds of errors
        return StatedLens()
    found = {name: _number(exif.get(tag)) for name, tag in TAGS.items()}
    focal_m = found["focal_length"] and found["focal_length"] / 1000
    distance_m = found["subject_distance"]
    if distance_m is not None and distance_m > FARTHEST_M:
        distance_m = None
    return StatedLens(
        focal_length_m=focal_m,
        f_number=found["f_number"],
        focus_distance_m=distance_m,
        sensor_width_m=_sensor_width_m(found, image.size),
    )


def with_lens(exif: bytes, lens: ThinLens) -> bytes:
    """Return the EXIF of a photograph with this lens's f-number and focus distance."""
    tags = Image.Exif()
    tags.load(exif)
    lens_tags = tags.get_ifd(EXIF_IFD)
    lens_tags[TAGS["f_number"]] = lens.f_number
    lens_tags[TAGS["subject_distance"]] = lens.focus_distance_m
    return tags.tobytes()


def _sensor_width_m(found: dict[str, float | None], size: tuple[int, int]) -> float | None:
    long, short = max(size), min(size)
    width_m = None
    if found["focal_length"] and found["focal_length_35mm"]:
        diagonal_m = FULL_FRAME_DIAGONAL_M * found["focal_length"] / found["focal_length_35mm"]
        width_m = diagonal_m * long / math.hypot(long, short)
    elif found["resolution"] and found["pixels_wide"]:
        unit_m = UNITS_M.get(int(found["resolution_unit"] or 2))
        pixels = max(found["pixels_wide"], found["pixels_high"] or 0)
        width_m = unit_m and pixels / found["resolution"] * unit_m
    low, high = SENSOR_WIDTHS_M
    return width_m if width_m is not None and low <= width_m <= high else None


def _number(value: Any) -> float | None:
    """Return a positive, finite number of an EXIF entry; None for anything else, as 0/0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
