"""Evaluation of predictors whose errors are known beforehand, and the saved network's own way."""

import itertools
import json
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_msssim
import torch
from PIL import Image

from hded.blur.render import list_renderings
from hded.common.errors import HDEDError
from hded.config.schema import Geometry
from hded.evaluation import evaluate as evaluate_module
from hded.evaluation.evaluate import (
    ErrorCurve,
    Evaluation,
    SystemInput,
    evaluate,
    median_depth_m,
)
from hded.inference import load_predictor
from hded.metrics import DEPTH_METRICS
from hded.network import HDEDNet
from hded.network.files import Header, save_network
from hded.optics import Camera
from hded.store import open_store, write_store
from pipeline.evaluate import summarise

BOTH_HEADS = ("depth", "all_in_focus")


def shifted(rgb: np.ndarray) -> np.ndarray:
    """Every value two steps of 255 off, without leaving the range."""
    return np.where(rgb <= 253, rgb + 2, rgb - 2).astype(np.uint8)


def oracle(
    data: SimpleNamespace, factor: float = 0.9, heads: tuple[str, ...] = BOTH_HEADS
) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], list[int]]:
    """A predictor that knows the frames, and the list of those it was shown.

    Depth is off by a factor, images by two steps.
    """
    index_of = {image.tobytes(): i for i, image in enumerate(data.defocused_rgb)}
    seen: list[int] = []

    def predict(defocused: np.ndarray) -> dict[str, np.ndarray]:
        i = index_of[np.ascontiguousarray(defocused).tobytes()]
        seen.append(i)
        depth = np.where(data.depth[i] > 0, factor * data.depth[i], 1.0).astype(np.float32)
        outputs = {"depth": depth, "all_in_focus": shifted(data.rgb[i])}
        return {head: outputs[head] for head in heads}

    return predict, seen


def run(data: SimpleNamespace, predict: Callable, **options) -> Evaluation:
    """Evaluate a predictor of one image."""
    chosen = {"heads": BOTH_HEADS, "size_px": None, **options}
    return evaluate(
        lambda images: [predict(i.rgb) for i in images], data.scenes, [data.defocused], **chosen
    )


@pytest.fixture(scope="module")
def result(stores) -> Evaluation:
    """The oracle's evaluation on the tiny dataset, whose depth reaches 8 m."""
    return run(stores, oracle(stores)[0])


def known(depth: np.ndarray, below_m: float = 8.0) -> np.ndarray:
    return depth[(depth > 1e-3) & (depth < below_m)].astype(np.float64)


def test_depth_ten_percent_short_has_the_errors_of_the_closed_form(stores, result):
    depths = [known(stores.depth[i]) for i in range(8, 12)]
    common = {
        "abs_rel": 0.1,
        "log10": math.log10(1 / 0.9),
        "delta1": 1.0,
        "delta2": 1.0,
        "delta3": 1.0,
        "spearman": 1.0,
    }
    each = [0.1 * math.sqrt((depth**2).mean()) for depth in depths]
    headline = {"rmse": np.mean(each), **common}
    pooled = {"rmse": 0.1 * math.sqrt((np.concatenate(depths) ** 2).mean()), **common}
    assert result.metrics["depth"]["headline"]["network"] == pytest.approx(headline, rel=1e-5)
    assert result.metrics["depth"]["pooled"]["network"] == pytest.approx(pooled, rel=1e-5)
    assert headline["rmse"] != pytest.approx(pooled["rmse"], rel=1e-4)


@pytest.mark.parametrize(("factor", "within"), [(0.75, 2), (0.6, 1), (0.5, 0)])
def test_depth_short_by_more_leaves_the_deltas_one_by_one(stores, factor, within):
    metrics = run(stores, oracle(stores, factor)[0]).metrics["depth"]["headline"]["network"]
    deltas = [metrics[f"delta{k}"] for k in (1, 2, 3)]
    assert deltas == [0.0] * (3 - within) + [1.0] * within


def test_per_image_rows_come_first_and_aggregates_are_made_from_them(stores, result):
    rows = result.depth
    assert list(rows.columns) == ["frame", "method", "protocol", "valid_px", *DEPTH_METRICS]
    assert len(rows) == 4 * 2 * 2 == len(rows[["frame", "method", "protocol"]].drop_duplicates())
    assert list(rows["frame"].unique()) == ["0009", "0010", "0011", "0012"]
    for i, name in enumerate(("0009", "0010", "0011", "0012"), start=8):
        of_frame = rows[(rows["frame"] == name) & (rows["method"] == "network")]
        assert set(of_frame["valid_px"]) == {len(known(stores.depth[i]))}
    network = rows[(rows["method"] == "network") & (rows["protocol"] == "headline")]
    for name in DEPTH_METRICS:
        aggregate = result.metrics["depth"]["headline"]["network"][name]
        assert aggregate == pytest.approx(network[name].mean())


def test_the_summary_of_perfect_images_is_json_that_every_reader_knows(stores):
    predict, _ = oracle(stores)
    sharp = iter(stores.rgb[8:12])
    found = run(stores, lambda image: {**predict(image), "all_in_focus": next(sharp)})
    assert found.metrics["all_in_focus"]["native"]["network"]["psnr"] == math.inf
    summary = summarise(found)
    json.dumps(summary, allow_nan=False)
    assert summary["ssim"] == pytest.approx(1.0) and summary["input_psnr"] > 0
    assert not {"psnr", "psnr_gain"} & summary.keys()
    assert {"psnr", "psnr_gain", "rmse"} < summarise(run(stores, predict)).keys()


def test_only_test_frames_are_shown_and_each_once(stores):
    predict, seen = oracle(stores)
    run(stores, predict)
    assert seen == [8, 9, 10, 11]


def test_the_median_baseline_is_the_training_sets_median_everywhere(stores, result):
    median_m = float(np.median(stores.depth[:8][stores.depth[:8] > 0]))
    assert result.median_depth_m == pytest.approx(median_m, abs=1e-3)
    each = {name: [] for name in DEPTH_METRICS}
    for i in range(8, 12):
        gt = known(stores.depth[i])
        ratio = np.maximum(gt / median_m, median_m / gt)
        each["rmse"].append(math.sqrt(((gt - median_m) ** 2).mean()))
        each["abs_rel"].append((abs(gt - median_m) / gt).mean())
        each["log10"].append(abs(np.log10(gt / median_m)).mean())
        for k in (1, 2, 3):
            each[f"delta{k}"].append((ratio < 1.25**k).mean())
    each["spearman"].append(0.0)  # a constant orders nothing
    expected = {name: np.mean(values) for name, values in each.items()}
    assert result.metrics["depth"]["headline"]["median"] == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_median_looks_at_known_training_depth_alone(make_stores, seed):
    data = make_stores(splits=("train",) * 3 + ("test",) * 3, seed=seed, without_depth=(1,))
    depth = data.depth[:3]
    assert median_depth_m(data.scenes) == pytest.approx(np.median(depth[depth > 0]), abs=1.1e-3)


def test_one_absurd_depth_does_not_move_the_median():
    depth = np.linspace(1, 3, 101, dtype=np.float32).reshape(1, 101)
    depth[0, -1] = 1e30
    one = SimpleNamespace(indices=lambda split: [0], read=lambda name, index: depth)
    assert median_depth_m(one) == pytest.approx(2.0, abs=1e-3)  # pyright: ignore[reportArgumentType]


def test_an_image_two_steps_off_has_the_psnr_of_the_closed_form(stores, result):
    scores = result.metrics["all_in_focus"]["native"]
    assert scores["network"]["psnr"] == pytest.approx(20 * math.log10(255 / 2))
    each = []
    for i in range(8, 12):
        error = (stores.rgb[i].astype(float) - stores.defocused_rgb[i].astype(float)) / 255
        each.append(-10 * math.log10((error**2).mean()))
    assert scores["input"]["psnr"] == pytest.approx(np.mean(each))
    gain = scores["network"]["psnr"] - scores["input"]["psnr"]
    assert scores["gain"]["psnr"] == pytest.approx(gain)


def msssim(image: np.ndarray, sharp: np.ndarray) -> float:
    """pytorch-msssim's, with its window in float64: its own float32 one is off by up to 1e-5."""
    offset = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(offset**2) / (2 * 1.5**2))
    window = (window / window.sum()).expand(3, 1, 1, 11)
    x, y = (torch.from_numpy(a / 255).movedim(-1, 0)[None] for a in (image, sharp))
    return pytorch_msssim.ssim(x, y, data_range=1.0, win=window).item()


def squashed(rgb: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR))


def test_ssim_is_measured_at_native_size_and_at_the_papers(stores, result):
    assert list(result.metrics["all_in_focus"]) == ["native", "256"]
    for name, resize in (("native", lambda rgb: rgb), ("256", lambda rgb: squashed(rgb, 256))):
        scores = result.metrics["all_in_focus"][name]
        for method, images in (
            ("network", [shifted(rgb) for rgb in stores.rgb]),
            ("input", stores.defocused_rgb),
        ):
            each = [msssim(resize(images[i]), resize(stores.rgb[i])) for i in range(8, 12)]
            assert scores[method]["ssim"] == pytest.approx(np.mean(each), abs=1e-6)
        difference = scores["network"]["ssim"] - scores["input"]["ssim"]
        assert scores["gain"]["ssim"] == pytest.approx(difference)
    rows = result.all_in_focus
    assert list(rows.columns) == ["frame", "method", "protocol", "psnr", "ssim"]
    assert len(rows) == 4 * 2 * 2 == len(rows[["frame", "method", "protocol"]].drop_duplicates())


def test_frames_of_the_papers_size_are_measured_once(make_stores):
    data = make_stores(splits=("train", "test"), size=(256, 256))
    result = run(data, oracle(data)[0])
    assert not result.all_in_focus.duplicated(["frame", "method", "protocol"]).any()
    names = [block["name"] for block in result.protocols if block["kind"] == "all_in_focus"]
    assert len(set(names)) == len(names)


def test_a_test_frame_without_depth_counts_in_no_depth_mean(make_stores):
    data = make_stores(splits=("train", "test", "test"), without_depth=(2,))
    result = run(data, oracle(data)[0])
    rows = result.depth[result.depth["frame"] == "0003"]
    assert (rows["valid_px"] == 0).all() and rows["rmse"].isna().all()
    for protocol in ("headline", "pooled"):
        assert result.metrics["depth"][protocol]["network"]["abs_rel"] == pytest.approx(0.1)
    assert len(result.all_in_focus["frame"].unique()) == 2


# --- streaming ---


@pytest.mark.parametrize("batch_size", [1, 3, 4, 9])
def test_the_batch_changes_no_figure_and_no_order(stores, result, batch_size):
    given = []

    def predict(images: Sequence[SystemInput]) -> list[dict[str, np.ndarray]]:
        given.append(len(images))
        return [oracle(stores)[0](image.rgb) for image in images]

    other = evaluate(
        predict, stores.scenes, [stores.defocused],
        heads=BOTH_HEADS, size_px=None, batch_size=batch_size,
    )  # fmt: skip
    assert given == [min(batch_size, 4 - i) for i in range(0, 4, batch_size)]
    pd.testing.assert_frame_equal(other.depth, result.depth, check_exact=True)
    pd.testing.assert_frame_equal(other.all_in_focus, result.all_in_focus, check_exact=True)
    assert other.metrics == result.metrics
    pd.testing.assert_frame_equal(other.by_coc.table(), result.by_coc.table(), check_exact=True)


def test_a_batch_gives_what_each_image_gives_alone(stores, tmp_path):
    torch.manual_seed(0)
    network = HDEDNet(width=0.05, dropout=0.0)
    for module in network.modules():  # a new network gives back its input, and no depth
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, 0, 0.05)
    arguments = {"heads": list(BOTH_HEADS), "width": 0.05, "dropout": 0.0}
    save_network(
        tmp_path / "w.pt", network.state_dict(),
        Header(network=arguments, geometry="crop", size_px=64),
    )  # fmt: skip
    predictor = load_predictor(tmp_path / "w.pt")
    images = list(stores.defocused_rgb[:3])
    for image, outputs in zip(images, predictor.batch(images), strict=True):
        alone = predictor(image)
        np.testing.assert_allclose(outputs["depth"], alone["depth"], rtol=1e-4, atol=1e-5)
        off = outputs["all_in_focus"].astype(int) - alone["all_in_focus"]
        assert abs(off).max() <= 1 and (off != 0).mean() < 0.01
    assert len({predictor(image)["depth"].tobytes() for image in images}) == 3


def test_only_a_few_frames_are_held_however_many_there_are():
    """Frames are numbers here, each alive until it is measured."""
    alive, most = 0, 0

    def frames() -> Iterator[Any]:
        nonlocal alive, most
        for i in range(500):
            alive += 1
            most = max(most, alive)
            yield SimpleNamespace(number=i, image=i)

    def measure(frame: Any, outputs: Any) -> Any:
        return frame.number, outputs["depth"]

    seen = []
    stream: Any = evaluate_module._stream(
        lambda numbers: [{"depth": n} for n in numbers],  # pyright: ignore[reportArgumentType]
        frames(),
        measure,
        batch_size=4,
    )
    for number, output in stream:
        assert number == output
        seen.append(number)
        alive -= 1
    assert seen == list(range(500))
    assert most <= 2 * torch.get_num_threads() + 2 * 4


# --- error curves --------------------------------------------------------------------------------


def curve_by_hand(
    x: np.ndarray, pred: np.ndarray, gt: np.ndarray, edges: np.ndarray
) -> pd.DataFrame:
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = (x >= low) & ((x < high) | ((x == high) & (high == edges[-1])))
        if inside.any():
            error = pred[inside].astype(np.float64) - gt[inside]
            rows.append(
                {
                    "bin_low": low,
                    "bin_high": high,
                    "pixels": inside.sum(),
                    "rmse": math.sqrt((error**2).mean()),
                    "abs_rel": (abs(error) / gt[inside]).mean(),
                    "bias": error.mean(),
                }
            )
    return pd.DataFrame(rows)


def test_an_error_curve_is_the_error_of_each_bins_pixels():
    rng = np.random.default_rng(0)
    curve = ErrorCurve(np.array([0.0, 1.0, 2.5, 2.75, 6.0]))
    every = []
    for _ in range(3):  # frames add up
        x, gt = rng.uniform(-1, 7, (9, 11)), rng.uniform(0.5, 9, (9, 11))
        pred, valid = gt + rng.normal(0.2, 0.5, gt.shape), rng.random(gt.shape) < 0.7
        x[0, 0], x[0, 1], x[0, 2], valid[0, :3] = 1.0, 6.0, 0.0, True
        curve.add(x, pred, gt, valid)
        every.append((x[valid], pred[valid], gt[valid]))
    x, pred, gt = (np.concatenate(parts) for parts in zip(*every, strict=True))
    pd.testing.assert_frame_equal(
        curve.table(), curve_by_hand(x, pred, gt, curve.edges), check_dtype=False
    )


def test_an_error_curve_leaves_empty_bins_out():
    curve = ErrorCurve(np.arange(5.0))
    assert len(curve.table()) == 0
    one = np.full((1, 1), 2.5)
    curve.add(one, one + 1, one, one > 0)
    curve.add(one, one, one, one < 0)
    assert curve.table().to_dict("records") == [
        {"bin_low": 2.0, "bin_high": 3.0, "pixels": 1, "rmse": 1.0, "abs_rel": 0.4, "bias": 1.0}
    ]


def test_the_curves_are_taken_over_all_test_pixels_by_depth_and_by_coc(stores, result):
    gt = stores.depth[8:]
    valid = gt > 1e-3
    gt, coc = gt[valid], stores.coc[8:][valid].astype(np.float64)
    pred = (0.9 * gt).astype(np.float32)
    for curve, x, edges in (
        (result.by_depth, gt, np.linspace(0, 8, 21)),
        (result.by_coc, coc, np.arange(-12.0, 13.0)),
    ):
        table = curve.table()
        assert table["pixels"].sum() == gt.size
        pd.testing.assert_frame_equal(
            table, curve_by_hand(x, pred, gt, edges), check_dtype=False, rtol=1e-5
        )
    np.testing.assert_allclose(result.by_depth.table()["abs_rel"], 0.1, rtol=1e-5)
    assert (result.by_depth.table()["bias"] < 0).all()


# --- what is measured where ----------------------------------------------------------------------


def blocks(result: Evaluation, kind: str) -> dict[str, dict]:
    return {block["name"]: block for block in result.protocols if block["kind"] == kind}


@pytest.mark.parametrize(
    ("format", "raw_valid", "measured"),
    [
        ("folder", False, ["headline", "pooled"]),
        ("make3d", False, ["c1", "c1_pooled", "c2", "c2_pooled"]),
        ("nyu", False, ["headline", "pooled", "eigen"]),
        ("nyu", True, ["headline", "pooled", "eigen", "raw"]),
    ],
)
def test_every_protocol_of_the_format_is_measured_and_stated(
    make_stores, format, raw_valid, measured
):
    data = make_stores(splits=("train", "test"), format=format, raw_valid=raw_valid)
    result = run(data, oracle(data)[0])
    assert list(result.metrics["depth"]) == measured
    declared = blocks(result, "depth")
    assert [name for name, block in declared.items() if block["available"]] == measured
    assert all(block["statement"] and block["title"] for block in declared.values())
    if format == "nyu":
        assert declared["raw"]["available"] == raw_valid
        assert (declared["raw"]["why_not"] is None) == raw_valid
    if raw_valid:
        row = result.depth.query("protocol == 'raw' and method == 'network'").iloc[0]
        gt = data.depth[1]
        assert row["valid_px"] == ((gt > 1e-3) & (gt < 10) & data.raw_valid[1]).sum()
    images = blocks(result, "all_in_focus")
    assert list(images) == ["native", "256"]
    assert "40x56" in images["native"]["statement"] and "256x256" in images["256"]["statement"]


def test_a_network_without_a_depth_head_leaves_the_baseline_alone(stores):
    heads = ("all_in_focus",)
    result = run(stores, oracle(stores, heads=heads)[0], heads=heads)
    assert set(result.depth["method"]) == {"median"}
    assert list(result.metrics["depth"]["headline"]) == ["median"]
    assert len(result.by_depth.table()) == len(result.by_coc.table()) == 0
    assert set(result.all_in_focus["method"]) == {"network", "input"}


def test_a_network_without_an_image_head_has_no_all_in_focus(stores):
    result = run(stores, oracle(stores, heads=("depth",))[0], heads=("depth",))
    assert result.all_in_focus.empty and result.metrics["all_in_focus"] == {}
    assert set(result.depth["method"]) == {"network", "median"}


def test_a_network_of_squashed_frames_is_measured_squashed_and_its_depth_also_upsampled(stores):
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 7, (32, 32)).astype(np.float32)
    image = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    result = run(stores, lambda _: {"depth": depth, "all_in_focus": image}, size_px=32)
    assert list(result.metrics["depth"]) == ["headline", "pooled", "headline_32", "pooled_32"]
    rows = [int((i + 0.5) * 40 / 32) for i in range(32)]
    columns = [int((i + 0.5) * 56 / 32) for i in range(32)]
    large = np.asarray(Image.fromarray(depth).resize((56, 40), Image.Resampling.BILINEAR))
    squashed_rmse, native_rmse = [], []
    for gt in stores.depth[8:]:
        small = gt[rows][:, columns]
        for pred, truth, into in ((depth, small, squashed_rmse), (large, gt, native_rmse)):
            inside = (truth > 1e-3) & (truth < 8)
            error = pred[inside].astype(np.float64) - truth[inside]
            into.append(math.sqrt((error**2).mean()))
    metrics = result.metrics["depth"]
    assert metrics["headline_32"]["network"]["rmse"] == pytest.approx(np.mean(squashed_rmse))
    assert metrics["headline"]["network"]["rmse"] == pytest.approx(np.mean(native_rmse))
    assert list(result.metrics["all_in_focus"]) == ["32"]
    each = [msssim(image, squashed(stores.rgb[i], 32)) for i in range(8, 12)]
    assert result.metrics["all_in_focus"]["32"]["network"]["ssim"] == pytest.approx(
        np.mean(each), abs=1e-6
    )
    each = [
        msssim(squashed(stores.defocused_rgb[i], 32), squashed(stores.rgb[i], 32))
        for i in range(8, 12)
    ]
    assert result.metrics["all_in_focus"]["32"]["input"]["ssim"] == pytest.approx(
        np.mean(each), abs=1e-6
    )
    statement = blocks(result, "depth")["headline_32"]["statement"]
    assert "32x32" in statement and "40x56" in blocks(result, "depth")["headline"]["statement"]


def test_crops_and_sensor_masks_stay_at_native_size(make_stores):
    data = make_stores(splits=("train", "test"), format="nyu", raw_valid=True)
    outputs = {"depth": np.ones((32, 32), np.float32), "all_in_focus": data.rgb[0][:32, :32]}
    result = run(data, lambda _: outputs, size_px=32)
    names = ["headline", "pooled", "eigen", "raw", "headline_32", "pooled_32"]
    assert list(result.metrics["depth"]) == names


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_network_is_named_as_such(stores, value):
    def predict(defocused: np.ndarray) -> dict[str, np.ndarray]:
        return {"depth": np.full((40, 56), value, np.float32), "all_in_focus": defocused}

    with pytest.raises(HDEDError, match=r"frame 0009: .*prediction has NaN"):
        run(stores, predict)


# --- a saved network -----------------------------------------------------------------------------

ARGUMENTS = {"heads": ["depth", "all_in_focus"], "width": 1 / 32, "depth_scale_m": 8.0}


def saved(path: Path, geometry: Geometry = "crop", size_px: int = 32, **arguments) -> HDEDNet:
    torch.manual_seed(0)
    network = HDEDNet(**{**ARGUMENTS, **arguments}).eval()
    if arguments.get("init") == "normal":  # so narrow that it starts at next to nothing
        for decoder in network.decoders.values():
            decoder.get_submodule("predict").weight.data.normal_(0, 1e4)  # pyright: ignore
    header = Header(network={**ARGUMENTS, **arguments}, geometry=geometry, size_px=size_px)
    save_network(path, network.state_dict(), header)
    return network


def test_a_saved_network_predicts_what_it_did(tmp_path, stores):
    network = saved(tmp_path / "weights.pt", init="normal")
    outputs = load_predictor(tmp_path / "weights.pt")(stores.defocused_rgb[8])
    image = torch.from_numpy(stores.defocused_rgb[8] / np.float32(127.5) - 1)
    with torch.no_grad():
        expected = network(image.movedim(-1, 0)[None])
    assert expected["depth"].std() > 0.1
    np.testing.assert_allclose(outputs["depth"], expected["depth"][0, 0], rtol=1e-4, atol=1e-4)
    all_in_focus = (expected["all_in_focus"][0].movedim(0, -1).numpy() + 1) * 127.5
    np.testing.assert_allclose(
        outputs["all_in_focus"], all_in_focus.clip(0, 255), rtol=0, atol=0.51
    )
    assert outputs["depth"].dtype == np.float32 and outputs["all_in_focus"].dtype == np.uint8
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]


def test_an_untrained_network_of_identity_scores_as_its_input(tmp_path, stores):
    saved(tmp_path / "weights.pt")
    result = run(stores, load_predictor(tmp_path / "weights.pt"))
    for protocol in ("native", "256"):
        scores = result.metrics["all_in_focus"][protocol]
        assert scores["network"] == scores["input"]
        assert scores["gain"] == {"psnr": 0.0, "ssim": 0.0}


def test_a_network_of_squashed_frames_squashes_what_it_is_given(tmp_path, stores):
    saved(tmp_path / "weights.pt", "resize", 64)
    outputs = load_predictor(tmp_path / "weights.pt")(stores.defocused_rgb[8])
    assert outputs["depth"].shape == (64, 64)
    np.testing.assert_array_equal(outputs["all_in_focus"], squashed(stores.defocused_rgb[8], 64))


@pytest.mark.parametrize("head", BOTH_HEADS)
def test_a_network_of_one_head_predicts_that_alone(tmp_path, stores, head):
    saved(tmp_path / "weights.pt", heads=[head])
    assert set(load_predictor(tmp_path / "weights.pt")(stores.defocused_rgb[8])) == {head}


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harm_was_done"),))


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "cut", "harmful", "foreign", "other"])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    saved(path)
    if kind == "missing":
        path.unlink()
    elif kind == "text":
        path.write_text("not a checkpoint\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "harmful":
        path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    elif kind == "foreign":
        torch.save({"state_dict": {}}, path)
    else:
        header = Header(network=ARGUMENTS, geometry="crop", size_px=32)
        save_network(path, HDEDNet(width=1 / 16).state_dict(), header)
    with pytest.raises(HDEDError, match=r"weights\.pt") as caught:
        load_predictor(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm_was_done").exists()


def test_every_copy_of_a_test_frame_counts_and_each_distance_has_its_own_aggregates(
    tmp_path, make_stores
):
    data = make_stores(splits=["train", "test", "test"])
    near, far = (
        Camera(name="x", focal_length_m=0.07, aperture_m=0.0448, focus_distance_m=f) for f in (1, 4)
    )
    table = list_renderings(data.scenes.frames, [near, far])
    table["focus_distance_m"] = np.where(table["camera_index"] == 0, 1.0, 4.0)
    size = data.depth.shape[1:]
    arrays = {"defocused": ((*size, 3), np.uint8), "coc": (size, np.float16)}
    # the far copies carry a mark by which the oracle sees that they are, and then errs more
    marked = [data.defocused_rgb[s].copy() for s in table["frame_index"]]
    for image, camera in zip(marked, table["camera_index"], strict=True):
        image[0, 0] = 255 * camera
    records = [
        {"defocused": image, "coc": data.coc[scene]}
        for image, scene in zip(marked, table["frame_index"], strict=True)
    ]
    camera = {"camera": {"name": "x", "max_coc_px": 29.0}}
    write_store(tmp_path / "copies", table, arrays, records, camera)

    def predict(image: np.ndarray) -> dict[str, np.ndarray]:
        factor = 0.9 if image[0, 0, 0] == 0 else 0.7
        scene = next(s for s in (1, 2) if (data.defocused_rgb[s, 1:] == image[1:]).all())
        depth = np.where(data.depth[scene] > 0, factor * data.depth[scene], 1.0)
        return {"depth": depth.astype(np.float32), "all_in_focus": image}

    result = run(
        SimpleNamespace(scenes=data.scenes, defocused=open_store(tmp_path / "copies")), predict
    )
    assert result.depth["frame"].nunique() == 4
    error = {
        focus: result.metrics["focus"][focus]["depth"]["headline"]["network"]["abs_rel"]
        for focus in ("1", "4")
    }
    assert error["1"] == pytest.approx(0.1, abs=1e-6)
    assert error["4"] == pytest.approx(0.3, abs=1e-6)
    whole = result.metrics["depth"]["headline"]["network"]["abs_rel"]
    assert whole == pytest.approx(0.2, abs=1e-6)
    images = result.all_in_focus.query("protocol == 'native'").set_index(["frame", "method"])
    assert images.loc[("0002-4m", "network"), "focus_distance_m"] == 4.0
    assert images.loc[("0002-4m", "network"), "source_frame"] == "0002"
    # the truth is that of the scenes, whatever the number of their copies
    one = run(data, lambda image: {"depth": np.ones(size, np.float32), "all_in_focus": image})
    assert one.truth == result.truth
    gain = result.metrics["focus"]["4"]["all_in_focus"]["native"]["gain"]["psnr"]
    assert gain == pytest.approx(0, abs=1e-9)
