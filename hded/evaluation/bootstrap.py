"""Is one network better than another? Intervals by the paired bootstrap.

Two networks are measured on the same images, so the images are drawn anew once for both (Efron and
Tibshirani 1993, chapters 6 and 13; for metrics of vision and language, Koehn 2004): what makes an
image hard for both cancels. Trainings from other seeds are drawn anew too: for each of the two
apart, since nothing ties one's seed 0 to the other's, unless they are the same trainings tested in
two ways. With one seed each the interval speaks of this pair of networks, not of what their recipes
give.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hded.common.errors import HDEDError

RESAMPLES = 10_000
LEVEL = 0.95
CHUNK = 500  # resamples at a time: memory stays small for any number of images


@dataclass(frozen=True, slots=True)
class Difference:
    """Two means and their difference's interval, whose ends are NaN where none can be given."""

    first: float
    second: float
    low: float
    high: float
    images: int
    seeds: tuple[int, int]  # trainings of each of the two

    @property
    def value(self) -> float:
        """The first mean less the second."""
        return self.first - self.second

    @property
    def sign(self) -> int:
        """+1 or -1 where the whole interval lies on that side of zero, else 0."""
        return (self.low > 0) - (self.high < 0)


def paired_difference(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    tied: bool = False,
) -> Difference:
    """Mean of `first` minus mean of `second`, with the percentile interval of `level`.

    first (seeds, images), second (seeds, images): one metric, the same images in the same order;
    the numbers of seeds may differ. tied: row by row the two are one training. An image whose value
    is NaN in any of them (no valid pixel) does not count. Infinite values (the PSNR of a perfect
    image) and fewer than two images give no interval. Equal input gives equal output. Raises
    HDEDError for shapes that cannot be paired.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise HDEDError(
            f"bootstrap: values of shapes {first.shape} and {second.shape}; both must be (seeds, "
            "images) over the same images"
        )
    if not len(first) or not len(second):
        raise HDEDError("bootstrap: no seed to take values from")
    if tied and len(first) != len(second):
        raise HDEDError(f"bootstrap: {len(first)} and {len(second)} seeds cannot be tied")
    known = ~(np.isnan(first).any(0) | np.isnan(second).any(0))
    first, second = first[:, known], second[:, known]
    images, seeds = int(known.sum()), (len(first), len(second))
    if not images:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0, seeds)
    centres = float(first.mean()), float(second.mean())
    if images < 2 or not all(map(math.isfinite, centres)):
        return Difference(*centres, math.nan, math.nan, images, seeds)
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for start in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - start)
        times = rng.multinomial(images, np.full(images, 1 / images), count)  # each image is drawn
        pair = [times @ values.T / images for values in (first, second)]
        if tied:
            drawn[start : start + count] = _draw_seeds(pair[0] - pair[1], rng)
        else:
            means = [_draw_seeds(each, rng) for each in pair]
            drawn[start : start + count] = means[0] - means[1]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Difference(*centres, float(low), float(high), images, seeds)


def _draw_seeds(means: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """From each seed's mean (resamples, seeds) to the mean over seeds drawn anew (resamples,)."""
    count, seeds = means.shape
    return np.take_along_axis(means, rng.integers(seeds, size=(count, seeds)), 1).mean(1)
