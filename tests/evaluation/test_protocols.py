"""Each benchmark's protocol against code that measures it by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.ranks import spearman

from hded.common.errors import HDEDError
from hded.evaluation.protocols import (
    DEPTH_PROTOCOLS,
    DepthProtocol,
    aggregate_all_in_focus,
    all_in_focus_statement,
    depth_protocols,
    measure_all_in_focus,
)
from hded.metrics import DEPTH_METRICS, psnr, ssim

NYU_SIZE, MAKE3D_SIZE = (427, 561), (460, 345)


def nyu(name: str) -> DepthProtocol:
    return {p.name: p for p in DEPTH_PROTOCOLS["nyu"]}[name]


def make3d(name: str) -> DepthProtocol:
    return {p.name: p for p in DEPTH_PROTOCOLS["make3d"]}[name]


def by_hand(pred: np.ndarray, gt: np.ndarray) -> dict[str, float]:
    """The errors of two lists of metres, and how many there are."""
    pred, gt = pred.astype(np.float64).ravel(), gt.astype(np.float64).ravel()
    ratio = np.where(pred > gt, pred / gt, gt / pred)
    return {
        "valid_px": gt.size,
        "rmse": math.sqrt(np.mean((pred - gt) * (pred - gt))),
        "abs_rel": float(np.mean(abs(pred - gt) / gt)),
        "log10": float(np.mean(abs(np.log10(pred / gt)))),
        **{f"delta{k}": float(np.mean(ratio < 1.25**k)) for k in (1, 2, 3)},
        "spearman": spearman(pred, gt),
    }


def indoor(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth of the NYU crop, both also beyond what the protocol admits."""
    rng = np.random.default_rng(seed)
    gt = rng.uniform(0.5, 10.5, NYU_SIZE).astype(np.float32)
    pred = (gt * rng.uniform(0.6, 1.6, NYU_SIZE)).astype(np.float32)
    gt[::9, ::7], gt[1::50, 1::50], gt[2::50, 2::50] = 0, 10.0, 1e-3
    pred[::11, ::13], pred[3::70, 3::70] = -4, 900
    return pred, gt


def test_the_nyu_headline_masks_and_clips_as_stated():
    pred, gt = indoor()
    kept = [(p, g) for p, g in zip(pred.ravel(), gt.ravel(), strict=True) if 1e-3 < g < 10]
    expected = by_hand(
        np.array([min(max(float(p), 1e-3), 10.0) for p, _ in kept]), np.array([g for _, g in kept])
    )
    assert nyu("headline").measure(pred, gt) == pytest.approx(expected, rel=1e-6)


def test_the_eigen_rectangle_is_that_of_the_uncropped_frame():
    pred, gt = indoor()
    whole_pred, whole_gt = np.full((2, 480, 640), 3.0, np.float32)
    whole_pred[44:471, 40:601], whole_gt[44:471, 40:601] = pred, gt
    p, g = whole_pred[45:471, 41:601], whole_gt[45:471, 41:601]
    inside = (g > 1e-3) & (g < 10)
    expected = by_hand(np.clip(p[inside], 1e-3, 10), g[inside])
    assert nyu("eigen").measure(pred, gt) == pytest.approx(expected, rel=1e-6)


def test_the_raw_protocol_counts_only_what_the_sensor_measured():
    pred, gt = indoor()
    seen = np.random.default_rng(1).random(gt.shape) < 0.5
    inside = seen & (gt > 1e-3) & (gt < 10)
    expected = by_hand(np.clip(pred[inside], 1e-3, 10), gt[inside])
    assert nyu("raw").measure(pred, gt, seen) == pytest.approx(expected, rel=1e-6)
    assert nyu("headline").measure(pred, gt, seen) == nyu("headline").measure(pred, gt)
    with pytest.raises(HDEDError, match="rawDepths"):
        nyu("raw").measure(pred, gt)


def outdoor() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    gt = rng.uniform(1, 81, MAKE3D_SIZE).astype(np.float32)
    gt[:100] = 80.5  # sky
    gt[200:210, ::3], gt[::60, ::60], gt[1::60, 1::60] = 0, 70.0, 80.0
    pred = (gt * rng.uniform(0.7, 1.4, MAKE3D_SIZE) + 1).astype(np.float32)
    pred[::17, ::19] = -1
    return pred, gt


@pytest.mark.parametrize("name", ["c1", "c1_pooled"])
def test_make3d_c1_counts_what_is_nearer_than_70_m(name):
    pred, gt = outdoor()
    inside = (gt > 0) & (gt < 70)
    expected = by_hand(np.maximum(pred[inside], 1e-3), gt[inside])
    assert make3d(name).measure(pred, gt) == pytest.approx(expected, rel=1e-6)
    assert pred[inside].max() > 80  # so no cap was applied


@pytest.mark.parametrize("name", ["c2", "c2_pooled"])
def test_make3d_c2_counts_everything_capped_at_80_m(name):
    pred, gt = outdoor()
    inside = gt > 0
    expected = by_hand(np.clip(pred[inside], 1e-3, 80), np.minimum(gt[inside], 80))
    assert make3d(name).measure(pred, gt) == pytest.approx(expected, rel=1e-6)
    assert expected["valid_px"] > ((gt > 0) & (gt < 70)).sum()


def test_nothing_is_scaled_to_the_truth():
    _, gt = indoor()
    half = nyu("headline").measure(gt / 2, gt)
    assert half["abs_rel"] == pytest.approx(0.5, abs=1e-3) and half["delta3"] < 0.01


def test_a_prediction_of_nan_is_refused_and_not_clipped_away():
    pred, gt = indoor()
    pred[5, 5], gt[5, 5] = np.nan, 3.0
    with pytest.raises(HDEDError, match="prediction"):
        nyu("headline").measure(pred, gt)


def test_measuring_changes_neither_prediction_nor_truth():
    for protocol, (pred, gt) in ((make3d("c2"), outdoor()), (nyu("eigen"), indoor())):
        before = pred.copy(), gt.copy()
        protocol.measure(pred, gt)
        np.testing.assert_array_equal(pred, before[0])
        np.testing.assert_array_equal(gt, before[1])


def test_a_small_prediction_is_brought_to_the_truths_size_bilinearly():
    gt = np.full(NYU_SIZE, 4.0, np.float32)
    small = np.random.default_rng(0).uniform(2, 6, (256, 256)).astype(np.float32)
    large = np.asarray(Image.fromarray(small).resize((561, 427), Image.Resampling.BILINEAR))
    expected = by_hand(large, gt)
    assert nyu("headline").measure(small, gt) == pytest.approx(expected, rel=1e-6)


def test_at_another_size_the_truth_is_taken_by_nearest_neighbour():
    protocol = DepthProtocol(
        name="small",
        title="Small",
        mask_above_m=0,
        mask_below_m=10,
        clip_m=(1e-3, 10),
        size=(8, 10),
    )
    rng = np.random.default_rng(0)
    gt, pred = rng.uniform(1, 9, (24, 30)), rng.uniform(1, 9, (8, 10)).astype(np.float32)
    gt[rng.random(gt.shape) < 0.3] = 0
    near = gt[1::3, 1::3]  # the pixel at the centre of each block of three by three
    expected = by_hand(pred[near > 0], near[near > 0])
    assert protocol.measure(pred, gt) == pytest.approx(expected, rel=1e-6)


def test_an_image_without_valid_depth_has_no_errors():
    errors = nyu("headline").measure(np.ones(NYU_SIZE, np.float32), np.zeros(NYU_SIZE, np.float32))
    assert errors.pop("valid_px") == 0
    assert all(math.isnan(error) for error in errors.values())


def rows_of(protocol: DepthProtocol, pairs: list[tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    return pd.DataFrame([protocol.measure(pred, gt) for pred, gt in pairs])


def uneven_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Three images of which one has few valid pixels and one has none."""
    pairs = [indoor(seed) for seed in range(3)]
    pairs[1][1][5:] = 0
    pairs[2][1][:] = 0
    return pairs


def test_the_headline_is_the_mean_over_images_of_each_images_error():
    pairs = uneven_pairs()
    rows = rows_of(nyu("headline"), pairs)
    aggregate = nyu("headline").aggregate(rows)
    assert list(aggregate) == list(DEPTH_METRICS)
    for name in DEPTH_METRICS:
        assert aggregate[name] == pytest.approx((rows[name][0] + rows[name][1]) / 2)


def test_pooling_is_measuring_all_pixels_as_one_image():
    pairs = uneven_pairs()
    pooled = nyu("pooled").aggregate(rows_of(nyu("pooled"), pairs))
    pred, gt = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    inside = (gt > 1e-3) & (gt < 10)
    expected = by_hand(np.clip(pred[inside], 1e-3, 10), gt[inside])
    del expected["valid_px"]
    rows = rows_of(nyu("pooled"), pairs)
    rows = rows[rows["valid_px"] > 0]
    # ranks are an image's own
    expected["spearman"] = np.average(rows["spearman"], weights=rows["valid_px"])
    assert pooled == pytest.approx(expected, rel=1e-6)
    assert pooled["rmse"] != pytest.approx(
        nyu("headline").aggregate(rows_of(nyu("headline"), pairs))["rmse"], rel=1e-4
    )


@pytest.mark.parametrize("name", ["headline", "pooled"])
def test_no_valid_pixel_anywhere_aggregates_to_nan(name):
    empty = (np.ones(NYU_SIZE, np.float32), np.zeros(NYU_SIZE, np.float32))
    aggregate = nyu(name).aggregate(rows_of(nyu(name), [empty, empty]))
    assert set(aggregate) == set(DEPTH_METRICS)
    assert all(math.isnan(value) for value in aggregate.values())


@pytest.mark.parametrize("dataset", ["nyu", "make3d"])
def test_protocols_that_differ_in_pooling_alone_share_their_rows(dataset):
    protocols = {p.name: p for p in depth_protocols(dataset, 10.0)}
    pairs = [(a, b) for a in protocols for b in protocols if a < b]
    shared = {(a, b) for a, b in pairs if protocols[a].per_image == protocols[b].per_image}
    expected = {("headline", "pooled")} if dataset == "nyu" else {("c1", "c1_pooled"),
                                                                 ("c2", "c2_pooled")}  # fmt: skip
    assert shared == expected


def test_the_headline_comes_first_and_names_are_distinct():
    for dataset, first in (("nyu", "headline"), ("make3d", "c1"), ("folder", "headline")):
        names = [p.name for p in depth_protocols(dataset, 12.0)]
        assert names[0] == first and len(set(names)) == len(names)


def test_ones_own_pictures_are_measured_up_to_their_own_largest_depth():
    headline, pooled = depth_protocols("folder", 4.0)
    assert not headline.pooled and pooled.pooled
    gt = np.array([[0.0, 1.0, 3.9, 4.0, 5.0]], np.float32)
    errors = headline.measure(np.full((1, 5), 50.0, np.float32), gt)
    assert errors == pytest.approx(by_hand(np.full(2, 4.0), gt[0, 1:3]), rel=1e-6)


STATEMENTS = {
    ("nyu", "headline"): [
        "0.001 < gt < 10 m", "clipped to 0.001-10 m", "no crop", "427x561", "mean over images"],
    ("nyu", "pooled"): ["0.001 < gt < 10 m", "427x561", "pooled over all pixels"],
    ("nyu", "eigen"): ["rows 1:427, columns 1:561", "427x561", "mean over images"],
    ("nyu", "raw"): ["measured by the sensor", "0.001 < gt < 10 m", "no crop"],
    ("make3d", "c1"): ["0 < gt < 70 m", "at least 0.001 m", "460x345", "mean over images"],
    ("make3d", "c1_pooled"): ["0 < gt < 70 m", "pooled over all pixels"],
    ("make3d", "c2"): ["gt > 0 m", "truth and prediction capped at 80 m", "mean over images"],
    ("make3d", "c2_pooled"): ["capped at 80 m", "460x345", "pooled over all pixels"],
}  # fmt: skip


@pytest.mark.parametrize(("dataset", "name"), STATEMENTS)
def test_a_statement_names_every_element_of_its_protocol(dataset, name):
    native = NYU_SIZE if dataset == "nyu" else MAKE3D_SIZE
    protocol = {p.name: p for p in DEPTH_PROTOCOLS[dataset]}[name]
    statement = protocol.statement(native)
    for part in (*STATEMENTS[dataset, name], "no median scaling"):
        assert part in statement, statement
    assert "\n" not in statement
    assert ("measured by the sensor" in statement) == protocol.raw
    assert ("capped" in statement) == (protocol.cap_m is not None)


def test_every_protocol_has_a_tested_statement():
    declared = {(dataset, p.name) for dataset, every in DEPTH_PROTOCOLS.items() for p in every}
    assert declared == set(STATEMENTS)


def network_output(seed: int, size: tuple[int, int] = (40, 52)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def test_all_in_focus_at_native_size_is_the_plain_score():
    sharp, network, blurred = network_output(0), network_output(1), network_output(2)
    scores = measure_all_in_focus({"network": network, "input": blurred}, sharp, (40, 52))
    assert scores == {
        "network": {"psnr": psnr(network, sharp), "ssim": ssim(network, sharp)},
        "input": {"psnr": psnr(blurred, sharp), "ssim": ssim(blurred, sharp)},
    }


def test_all_in_focus_at_another_size_compares_antialiased_pictures():
    def small(rgb: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(rgb).resize((24, 20), Image.Resampling.BILINEAR))

    sharp, network = network_output(0), network_output(1)
    scores = measure_all_in_focus({"network": network}, sharp, (20, 24))
    assert scores["network"]["psnr"] == psnr(small(network), small(sharp))
    assert scores["network"]["ssim"] == ssim(small(network), small(sharp))
    # an output that already has the size is left as it is
    done = measure_all_in_focus({"network": small(network)}, sharp, (20, 24))
    assert done == scores


def test_all_in_focus_is_the_mean_over_images_of_decibels():
    rows = pd.DataFrame({"psnr": [20.0, 30.0, 25.5], "ssim": [0.5, 0.9, 0.7]})
    assert aggregate_all_in_focus(rows) == pytest.approx({"psnr": 75.5 / 3, "ssim": 0.7})


def test_a_all_in_focus_statement_says_size_and_how_it_was_reached():
    native = all_in_focus_statement(NYU_SIZE, NYU_SIZE)
    small = all_in_focus_statement((256, 256), NYU_SIZE)
    assert "427x561" in native and "native size" in native
    assert "256x256" in small and "antialiased" in small and "native" not in small
    for statement in (native, small):
        for part in ("8 bits", "RGB", "range 1", "mean over images", "input"):
            assert part in statement


def test_depth_of_photographs_is_also_scored_away_from_its_edges_and_nearby() -> None:
    protocols = {p.name: p for p in depth_protocols("folder", 10.0, photographs=True)}
    assert list(protocols) == ["headline", "pooled", "inside", "near"]
    assert list(depth_protocols("folder", 10.0)) == [protocols["headline"], protocols["pooled"]]
    gt = np.full((60, 90), 2.0, np.float32)
    gt[:, 45:] = 2.1  # no edge: a slope between neighbours of 5%
    gt[:, 70:] = 6.0
    gt[30, 10] = 0  # a hole
    pred = gt + 1
    pred[:, 50:] += 3  # wrong beside the edge, and beyond it
    inside = protocols["inside"].measure(pred, gt)
    counted = np.ones(gt.shape, bool)
    counted[:, 70 - 16 : 70 + 16] = False
    counted[30 - 16 : 30 + 17, : 10 + 17] = False
    assert inside["valid_px"] == counted.sum()
    errors = (pred - gt)[counted]
    assert inside["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
    near = protocols["near"].measure(pred, gt)
    assert near["valid_px"] == ((gt > 0.5) & (gt < 5)).sum()
    assert "within 15 px of an edge of depth" in protocols["inside"].statement((60, 90))
    assert "0.5 < gt < 5 m" in protocols["near"].statement((60, 90))


def test_depth_alone_everywhere_near_an_edge_is_no_score() -> None:
    (inside,) = [p for p in depth_protocols("folder", 10.0, photographs=True) if p.edge_px]
    checkered = np.indices((20, 20)).sum(0) % 2 * 3.0 + 1
    rows = pd.DataFrame([inside.measure(checkered, checkered)])
    assert rows["valid_px"].tolist() == [0] and math.isnan(inside.aggregate(rows)["rmse"])
