"""Test images with noise and compression: how much of a network's accuracy is left.

Every network gets the same degraded images: what is drawn at random follows from the frame. The
degradation comes on top of what the camera of the test images does.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hded.evaluation.controls import Renderings
from hded.optics.sensor import Degradation

ROBUSTNESS_STREAM = 2  # tells these random numbers from those of lens and sensor


class DegradedRenderings:
    """`Renderings` of some evenly spaced test frames, degraded when they are read.

    shot: the position of these images among those that are read together, each of which has noise
    of its own; count: the number of test renderings, at most all of them.
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
