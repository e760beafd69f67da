"""The sensor of a camera, behind its lens: noise, rounding to 8 bits, JPEG compression.

Noise is that of an image sensor, in linear light: the variance at a signal s, both in units of full
scale, is shot * s + read^2 (Foi et al. 2008). Photons are counted (shot noise), and the electronics
add noise of their own (read noise). It is added after the blur, then values are clipped and rounded
to 8 bits, then compressed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hded.common.errors import HDEDError, check_choice

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
SUBSAMPLINGS: tuple[str, ...] = get_args(Subsampling)
JPEG_BLOCK_PX = 16  # side of JPEG's minimum coded unit with 4:2:0
# of the sRGB transfer function (IEC 61966-2-1)
SRGB_LINEAR_BELOW, SRGB_SLOPE, SRGB_OFFSET, SRGB_POWER = 0.04045, 12.92, 0.055, 2.4


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensor:
    """Noise and compression, each drawn anew for every image between two ends.

    `shot` and `read` (see above) are (smallest, largest): one value is drawn for each image,
    log-uniformly where both are above 0, otherwise uniformly. `quality`: of JPEG, 1 to 100, both
    ends included; None does not compress. `subsampling`: of the colours.

    Raises HDEDError for ends that do not ascend or are out of range.
    """

    shot: tuple[float, float] = (0.0, 0.0)
    read: tuple[float, float] = (0.0, 0.0)
    quality: tuple[int, int] | None = None
    subsampling: Subsampling = "4:2:0"

    def __post_init__(self) -> None:
        for name in ("shot", "read"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < 1:
                raise HDEDError(f"noise: {name} {low} to {high} must ascend, within 0 and 1")
        if self.quality is not None and not 1 <= self.quality[0] <= self.quality[1] <= 100:
            low, high = self.quality
            raise HDEDError(f"jpeg: quality {low} to {high} must ascend, within 1 and 100")
        check_choice("jpeg: subsampling", self.subsampling, SUBSAMPLINGS)

    @property
    def ideal(self) -> bool:
        """Return whether an image is only rounded to 8 bits."""
        return self.quality is None and self.shot[1] == self.read[1] == 0

    def expose(
        self,
        image: NDArray[np.floating],
        rng: np.random.Generator,
        corner: tuple[int, int] = (0, 0),
    ) -> NDArray[np.uint8]:
        """Return the camera's 8-bit image of sRGB values (H, W, 3) in [0, 1].

        corner: where the image lies in a larger one that is compressed as a whole, in px from the
        top and from the left. Without noise and compression nothing is drawn.
        """
        shot, read = (_between(getattr(self, name), rng) for name in ("shot", "read"))
        if shot or read:
            image = add_noise(image, shot, read, rng)
        rounded = np.rint(image * 255).astype(np.uint8)
        if self.quality is None:
            return rounded
        quality = int(rng.integers(self.quality[0], self.quality[1], endpoint=True))
        return compress(rounded, quality, self.subsampling, corner)

    def describe(self) -> dict[str, Any]:
        """Return the settings that are not ideal, to be recorded."""
        record: dict[str, Any] = {}
        if self.shot[1] or self.read[1]:
            record["noise"] = {"shot": list(self.shot), "read": list(self.read)}
        if self.quality is not None:
            record["jpeg"] = {"quality": list(self.quality), "subsampling": self.subsampling}
        return record


IDEAL = Sensor()


def recorded_sensor(camera: Mapping[str, Any]) -> Sensor:
    """Return the sensor of a camera's description, which holds what `Sensor.describe` returns."""
    noise, jpeg = camera.get("noise", {}), camera.get("jpeg", {})
    ends = {name: tuple(value) for name, value in noise.items()}
    if jpeg:
        ends["quality"] = tuple(jpeg["quality"])
    return Sensor(**ends, subsampling=jpeg.get("subsampling", "4:2:0"))


def add_noise(
    image: NDArray[np.floating], shot: float, read: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return sRGB values (H, W, 3) in [0, 1] with noise in linear light, clipped to [0, 1]."""
    linear = to_linear(image)
    deviation = np.sqrt(np.float32(shot) * linear + np.float32(read * read))
    noisy = linear + deviation * rng.standard_normal(linear.shape, np.float32)
    return to_srgb(np.clip(noisy, 0, 1))


def add_srgb_noise(
    image: NDArray[np.uint8], deviation: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return an image with Gaussian noise on its sRGB values, as in most tests of robustness.

    deviation: its standard deviation, in units of full scale.
    """
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(255 * deviation)
    return np.rint(np.clip(image + noise, 0, 255)).astype(np.uint8)


def compress(
    image: NDArray[np.uint8],
    quality: int,
    subsampling: Subsampling = "4:2:0",
    corner: tuple[int, int] = (0, 0),
) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) as it is after JPEG compression.

    corner: see `Sensor.expose`. The blocks lie as in the larger image; what they hold beyond the
    upper and left border is its edge, repeated.
    """
    top, left = (n % JPEG_BLOCK_PX for n in corner)
    padded = np.pad(image, ((top, 0), (left, 0), (0, 0)), mode="edge")
    stream = BytesIO()
    Image.fromarray(padded).save(stream, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(stream))[top:, left:].copy()


@dataclass(frozen=True, slots=True)
class Degradation:
    """Noise or compression of a test image, for the table of robustness.

    Gaussian noise on sRGB values, of a standard deviation in counts of 255, as is usual in tests of
    restoration; or JPEG of a quality, at 4:2:0; or neither.
    """

    noise: float = 0.0
    quality: int | None = None

    @property
    def name(self) -> str:
        """Return `clean`, `noise 2` or `JPEG 75`."""
        if self.quality is not None:
            return f"JPEG {self.quality}"
        return f"noise {self.noise:g}" if self.noise else "clean"

    def apply(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the degraded image (H, W, 3)."""
        if self.noise:
            image = add_srgb_noise(image, self.noise / 255, rng)
        return image if self.quality is None else compress(image, self.quality)


DEGRADATIONS = (
    Degradation(),
    Degradation(noise=1),
    Degradation(noise=2),
    Degradation(noise=4),
    Degradation(quality=95),
    Degradation(quality=75),
)


def to_linear(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the linear light of sRGB values in [0, 1]."""
    x = np.asarray(image, np.float32)
    curve = ((x + np.float32(SRGB_OFFSET)) / np.float32(1 + SRGB_OFFSET)) ** np.float32(SRGB_POWER)
    return np.where(x <= SRGB_LINEAR_BELOW, x / np.float32(SRGB_SLOPE), curve)


def to_srgb(linear: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the sRGB values of linear light in [0, 1]."""
    x = np.asarray(linear, np.float32)
    curve = np.float32(1 + SRGB_OFFSET) * x ** np.float32(1 / SRGB_POWER) - np.float32(SRGB_OFFSET)
    return np.where(x <= SRGB_LINEAR_BELOW / SRGB_SLOPE, x * np.float32(SRGB_SLOPE), curve)


def _between(ends: tuple[float, float], rng: np.random.Generator) -> float:
    low, high = ends
    if low == high:
        return low
    if low > 0:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))
