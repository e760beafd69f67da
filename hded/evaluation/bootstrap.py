"""Confidence intervals for the difference of two networks, by the paired bootstrap.

- Images are resampled with replacement, and both networks use the same resample, because they are
  evaluated on the same images: the difficulty of an image cancels (Efron and Tibshirani 1993,
  chapters 6 and 13; Koehn 2004 for metrics of machine translation).
- Seeds are resampled too, independently for the two networks, since seed 0 of one has nothing in
  common with seed 0 of the other. They are resampled together where both columns are the same
  trained networks, tested in two ways (`same_networks`). Two or three seeds say little of how far
  trainings differ, however they are resampled.
- With one seed each, the interval covers the choice of images only. It holds for these two trained
  networks and not for their configurations in general.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hded.common.errors import HDEDError

RESAMPLES = 10_000
LEVEL = 0.95
CHUNK = 500  # resamples at a time, to limit memory


@dataclass(frozen=True, slots=True)
class Difference:
    """Two means and the interval of their difference; its ends are NaN where it is undefined."""

    first: float
    second: float
    low: float
    high: float
    images: int
    seeds: tuple[int, int]  # number of trained networks of each

    @property
    def value(self) -> float:
        """Return the first mean minus the second."""
        return self.first - self.second

    @property
    def sign(self) -> int:
        """Return +1 or -1 where the whole interval lies on that side of zero, else 0."""
        return (self.low > 0) - (self.high < 0)


def paired_difference(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    same_networks: bool = False,
) -> Difference:
    """Return the mean of `first` minus the mean of `second`, with its percentile interval.

    first, second: (seeds, images), one metric on the same images in the same order; the numbers of
    seeds may differ. level: the interval's confidence level. same_networks: row i of both is one
    trained network. seed: of the resampling; equal arguments give equal results.

    An image is left out where any of its values is NaN (it has no valid pixel). The interval is NaN
    for infinite values (the PSNR of a perfect image) and for fewer than two images. Raises
    HDEDError for shapes that cannot be paired.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise HDEDError(
            f"bootstrap: values of shapes {first.shape} and {second.shape}; both must be (seeds, "
            "images) over the same images"
        )
    if not len(first) or not len(second):
        raise HDEDError("bootstrap: one of the two networks has no seed; train at least one")
    if same_networks and len(first) != len(second):
        raise HDEDError(
            f"bootstrap: {len(first)} and {len(second)} seeds cannot be the same networks"
        )
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
        # how often each resample contains each image
        times = rng.multinomial(images, np.full(images, 1 / images), count)
        pair = [times @ values.T / images for values in (first, second)]
        if same_networks:
            drawn[start : start + count] = _resample_seeds(pair[0] - pair[1], rng)
        else:
            means = [_resample_seeds(each, rng) for each in pair]
            drawn[start : start + count] = means[0] - means[1]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Difference(*centres, float(low), float(high), images, seeds)


def _resample_seeds(means: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Resample each row's seeds: means (resamples, seeds) -> mean over seeds (resamples,).

    A resample of k seeds spreads less than their mean does, its variance by (k - 1) / k; this is
    made up for (Davison and Hinkley 1997, section 2.3).
    """
    count, seeds = means.shape
    drawn = np.take_along_axis(means, rng.integers(seeds, size=(count, seeds)), 1).mean(1)
    centre = means.mean(1)
    return centre + math.sqrt(seeds / max(seeds - 1, 1)) * (drawn - centre)
