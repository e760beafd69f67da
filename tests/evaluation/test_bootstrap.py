"""Intervals of paired differences: against scipy, against theory, and where none can be given."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from hded.common.errors import HDEDError
from hded.evaluation.bootstrap import paired_difference


def pair(images: int = 300, shift: float = 0.3, spread: float = 1.0, seed: int = 0):
    """Two networks whose images differ far more than the networks do."""
    rng = np.random.default_rng(seed)
    base = rng.normal(30, 5, images)
    return base[None], (base + rng.normal(shift, spread, images))[None]


def test_with_one_seed_it_is_scipys_paired_bootstrap() -> None:
    first, second = pair()
    found = paired_difference(second, first)
    differences = (second - first)[0]
    other = bootstrap((differences,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    assert found.value == pytest.approx(differences.mean())
    assert found.low == pytest.approx(other.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(other.confidence_interval.high, abs=0.01)
    assert (found.images, found.seeds, found.sign) == (300, (1, 1), 1)


def test_pairing_is_what_tells_them_apart() -> None:
    first, second = pair()
    apart = paired_difference(second, first[:, ::-1])
    paired = paired_difference(second, first)
    assert apart.high - apart.low > 4 * (paired.high - paired.low)
    assert apart.sign == 0 and paired.sign == 1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for trial in range(200):
        first, second = pair(images=60, seed=trial)
        found = paired_difference(second, first, resamples=500)
        held += found.low <= 0.3 <= found.high
    assert 0.88 <= held / 200 <= 0.99  # 95% less what 60 images and 200 trials leave open


def test_trainings_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    first, second = pair(spread=0.01)
    alike = paired_difference(np.repeat(second, 4, 0), np.repeat(first, 4, 0))
    moved = rng.normal(0, 1, (2, 4, 1))
    differ = paired_difference(second + moved[0], first + moved[1])
    assert alike.high - alike.low < 0.01
    # two means of four trainings
    variances = moved[0].var(ddof=1), moved[1].var(ddof=1)
    expected = 2 * 1.96 * math.sqrt(variances[0] / 4 + variances[1] / 4)
    assert differ.high - differ.low == pytest.approx(expected, rel=0.1)


def test_the_same_trainings_on_both_sides_are_drawn_together() -> None:
    first, second = pair(spread=0.01)
    moved = np.array([-3.0, 0.0, 3.0])[:, None]  # what a training gives, it gives on both
    apart = paired_difference(second + moved, first + moved)
    tied = paired_difference(second + moved, first + moved, same_networks=True)
    assert apart.value == tied.value == pytest.approx(0.3, abs=0.01)
    assert apart.sign == 0 and tied.high - tied.low < 0.01
    with pytest.raises(HDEDError, match="cannot be the same networks"):
        paired_difference(second + moved, first, same_networks=True)


def test_the_numbers_of_trainings_may_differ_and_order_gives_the_sign() -> None:
    first, second = pair()
    found = paired_difference(np.repeat(first, 3, 0), second)
    assert found.seeds == (3, 1) and found.sign == -1 and found.high < 0


def test_equal_input_gives_equal_output() -> None:
    first, second = pair()
    assert paired_difference(first, second) == paired_difference(first, second)


def test_an_image_without_a_value_counts_for_neither() -> None:
    first, second = pair()
    first[0, 3] = second[0, 7] = math.nan
    kept = [i for i in range(300) if i not in (3, 7)]
    assert paired_difference(first, second) == paired_difference(first[:, kept], second[:, kept])


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_give_no_interval(images: int) -> None:
    first, second = pair(images)
    found = paired_difference(first, second)
    assert math.isnan(found.low) and math.isnan(found.high) and found.sign == 0
    assert math.isnan(found.value) == (images == 0)


def test_a_perfect_image_gives_no_interval() -> None:
    first, second = pair()
    first[0, 0] = math.inf
    found = paired_difference(first, second)
    assert found.value == math.inf and math.isnan(found.low)
    second[0, 1] = math.inf
    assert math.isnan(paired_difference(first, second).value)


@pytest.mark.parametrize(
    ("first", "second"),
    [((1, 5), (1, 6)), ((5,), (5,)), ((0, 5), (1, 5))],
)
def test_values_that_cannot_be_paired_are_refused(first: tuple, second: tuple) -> None:
    with pytest.raises(HDEDError, match="bootstrap"):
        paired_difference(np.zeros(first), np.zeros(second))
