"""Test images with noise and compression: how much of a network's accuracy is left.

Every network gets the same degraded images: what is drawn at random follows from the frame. Noise
is Gaussian, on sRGB values, as is usual in tests of restoration; compression is JPEG with 4:2:0.
It comes on top of what the camera of the test images does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hded.evaluation.controls import Renderings
from hded.optics.sensor import add_srgb_noise, compress

ROBUSTNESS_STREAM = 2  # tells these random numbers from those of lens and sensor


@dataclass(frozen=True, slots=True)
class Degradation:
    """Gaussian noise of a standard deviation in counts of 255, or JPEG of a quality, or neither."""

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


class DegradedRenderings:
    """`Renderings` of some evenly spaced test frames, degraded when they are read.

    shot: the place of the camera, since each camera's noise is its own; count: of test renderings,
    at most all.
    """

    def __init__(
        self, renderings: Renderings, degradation: Degradation, count: int, shot: int = 0
    ) -> None:
        self._renderings, self._degradation, self._shot = renderings, degradation, shot
        every = renderings.indices("test")
        count = min(count, len(every))
        self._test = every[np.linspace(0, len(every) - 1, count).round().astype(np.intp)]

    @property
    def frames(self) -> pd.DataFrame:
        """The table of all renderings."""
        return self._renderings.frames

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Those of the renderings."""
        return self._renderings.attributes

    def indices(self, split: str) -> NDArray[np.int64]:
        """Return the positions of a split's rows; of the test's, those that were chosen."""
        return self._test if split == "test" else self._renderings.indices(split)

    def read(self, name: str, index: int) -> NDArray:
        """Return `defocused` (H, W, 3) uint8, degraded, or `coc` (H, W) [px] of one row."""
        array = self._renderings.read(name, index)
        if name != "defocused":
            return array
        frame = int(self.frames["frame_index"].iloc[index])
        rng = np.random.default_rng([frame, self._shot, ROBUSTNESS_STREAM])
        return self._degradation.apply(array, rng)
