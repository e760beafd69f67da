"""Degraded test images: the same for every network, and what they cost."""

from types import SimpleNamespace

import numpy as np
import pytest

from hded.evaluation.controls import ControlRenderings
from hded.evaluation.evaluate import evaluate
from hded.evaluation.robustness import DegradedRenderings
from hded.optics.sensor import DEGRADATIONS, compress

BY_NAME = {degradation.name: degradation for degradation in DEGRADATIONS}


def degraded(stores: SimpleNamespace, name: str, count: int = 4, shot: int = 0):
    return DegradedRenderings(stores.defocused, BY_NAME[name], count, shot)


def test_the_degradations_are_those_of_the_report() -> None:
    assert list(BY_NAME) == ["clean", "noise 1", "noise 2", "noise 4", "JPEG 95", "JPEG 75"]


def test_noise_and_compression_are_their_definitions(stores: SimpleNamespace) -> None:
    row = int(stores.defocused.indices("test")[0])
    clean = stores.defocused.read("defocused", row)
    np.testing.assert_array_equal(degraded(stores, "clean").read("defocused", row), clean)
    for count in (1, 2, 4):
        noisy = degraded(stores, f"noise {count}").read("defocused", row)
        inside = (clean > 30) & (clean < 225)  # away from the clipping
        spread = (noisy.astype(float) - clean)[inside].std()
        assert spread == pytest.approx(np.hypot(count, 12**-0.5), rel=0.06)  # and rounding
    found = degraded(stores, "JPEG 75").read("defocused", row)
    np.testing.assert_array_equal(found, compress(clean, 75))
    # what only describes the image stays
    np.testing.assert_array_equal(
        degraded(stores, "noise 4").read("coc", row), stores.defocused.read("coc", row)
    )


def test_all_networks_get_the_same_noise_and_each_frame_and_shot_its_own(
    stores: SimpleNamespace,
) -> None:
    rows = stores.defocused.indices("test")[:2]

    def noise(renderings, row: int) -> np.ndarray:
        found = degraded(SimpleNamespace(defocused=renderings), "noise 4", 2).read("defocused", row)
        return found.astype(int) - renderings.read("defocused", row)

    first = noise(stores.defocused, int(rows[0]))
    np.testing.assert_array_equal(first, noise(stores.defocused, int(rows[0])))
    assert not np.array_equal(first, noise(stores.defocused, int(rows[1])))
    other = degraded(stores, "noise 4", shot=1).read("defocused", int(rows[0]))
    assert not np.array_equal(other, degraded(stores, "noise 4").read("defocused", int(rows[0])))
    # a network that reads sharp images gets the same, up to clipping
    sharp = ControlRenderings(stores.scenes, None)
    inside = (sharp.read("defocused", int(rows[0])) // 20 % 12 > 1) & (np.abs(first) < 12)
    assert (noise(sharp, int(rows[0])) == first)[inside].mean() > 0.95


def test_so_many_frames_are_tested_evenly_spaced(stores: SimpleNamespace) -> None:
    every = stores.defocused.indices("test")
    chosen = degraded(stores, "clean", 2).indices("test")
    assert chosen.tolist() == [every[0], every[-1]]
    assert degraded(stores, "clean", 99).indices("test").tolist() == every.tolist()
    trained_on = degraded(stores, "clean", 2).indices("train")
    assert trained_on.tolist() == stores.defocused.indices("train").tolist()


def test_the_inputs_own_score_is_that_of_the_degraded_input(stores: SimpleNamespace) -> None:
    """A network that returns its input gains nothing, at any degradation."""
    scores = {}
    for degradation in DEGRADATIONS:
        renderings = DegradedRenderings(stores.defocused, degradation, 4)
        result = evaluate(
            lambda images: [{"all_in_focus": image.rgb} for image in images],
            stores.scenes, [renderings], heads=("all_in_focus",), size_px=None, median_m=2.0,
        )  # fmt: skip
        native = result.metrics["all_in_focus"]["native"]
        assert native["gain"]["psnr"] == pytest.approx(0)
        scores[degradation.name] = native["input"]["psnr"]
        assert result.median_depth_m == 2.0
    assert scores["clean"] > scores["noise 1"] > scores["noise 2"] > scores["noise 4"]
    assert scores["clean"] > scores["JPEG 95"] > scores["JPEG 75"]
