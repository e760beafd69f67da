"""Which scenes are pictured: each network's own extremes, and the same fixed ones for all."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hded.evaluation.gallery import pick_examples, write_example
from hded.evaluation.png16 import decode_coc, decode_depth, encode_coc, encode_depth

FRAMES = [f"{i:04d}" for i in range(1, 21)]


def evaluated(seed: int, heads: tuple[str, ...] = ("depth", "all_in_focus")) -> Any:
    """Rows of a network that finds other frames hard than another seed's."""
    rng = np.random.default_rng(seed)
    depth = [{"frame": f, "protocol": "headline", "method": "median", "rmse": 2.0} for f in FRAMES]
    if "depth" in heads:
        depth += [
            {"frame": f, "protocol": "headline", "method": "network", "rmse": rmse}
            for f, rmse in zip(FRAMES, rng.permutation(20) / 10 + 0.1, strict=True)
        ]
    images = [
        {"frame": f, "protocol": "native", "method": method, "psnr": 25 + gain * shift}
        for f, gain in zip(FRAMES, rng.permutation(20), strict=True)
        for method, shift in (("input", 0.0), ("network", 0.1))
        if "all_in_focus" in heads
    ]
    return SimpleNamespace(depth=pd.DataFrame(depth), all_in_focus=pd.DataFrame(images))


def roles(picked: pd.DataFrame, *names: str) -> list[str]:
    return list(picked.loc[picked["role"].isin(names), "frame"])


@pytest.mark.parametrize("heads", [("depth", "all_in_focus"), ("depth",), ("all_in_focus",)])
def test_best_median_and_worst_are_the_networks_own(heads: tuple[str, ...]) -> None:
    result = evaluated(0, heads)
    picked = pick_examples(result, 6)
    if "depth" in heads:
        rows = result.depth.query("method == 'network'").set_index("frame")["rmse"]
    else:
        rows = -result.all_in_focus.query("method == 'network'").set_index("frame")["psnr"]
    order = list(rows.sort_values().index)
    assert roles(picked, "best", "median", "worst") == [order[0], order[9], order[19]]
    assert picked["frame"].is_unique
    if "depth" in heads:
        assert list(picked["rmse"]) == list(rows[picked["frame"]])


def test_fixed_scenes_are_those_of_every_network() -> None:
    shown = [set(pick_examples(evaluated(seed), 7)["frame"]) for seed in range(10)]
    shared = set.intersection(*shown)
    assert shared == {"0003", "0008", "0013", "0018"}
    assert all(len(frames) <= 7 for frames in shown)


def test_a_frame_without_depth_is_neither_best_nor_worst() -> None:
    result = evaluated(0)
    result.depth.loc[result.depth["frame"].isin(["0004", "0017"]), "rmse"] = np.nan
    picked = pick_examples(result, 3)
    rows = result.depth.query("method == 'network'").set_index("frame")["rmse"].dropna()
    order = list(rows.sort_values().index)
    assert list(picked["frame"]) == [order[0], order[8], order[17]]
    result.depth["rmse"] = np.nan  # none has any: what the image head does decides
    assert set(pick_examples(result, 3)["role"]) == {"best", "median", "worst"}
    alone = evaluated(0, ("depth",))
    alone.depth["rmse"] = np.nan
    assert list(pick_examples(alone, 3)["role"]) == ["fixed"] * 3


def test_depth_and_blur_come_back_from_16_bits_as_far_as_any_dataset_reaches() -> None:
    depth = np.array([[0.0, 0.4, 9.999, 65.6, 80.0, 81.0]])
    assert np.abs(decode_depth(encode_depth(depth)) - depth).max() <= 0.001
    coc = np.array([[-29.0, -0.3, 0.0, 28.999]])
    assert np.abs(decode_coc(encode_coc(coc)) - coc).max() <= 1 / 512
    assert encode_depth(depth).dtype == encode_coc(coc).dtype == np.uint16


@pytest.mark.parametrize(("count", "least"), [(3, 3), (6, 4), (100, 20)])
def test_no_more_are_picked_than_asked_for_or_than_there_are(count: int, least: int) -> None:
    assert least <= len(pick_examples(evaluated(1), count)) <= min(count, 20)
    one = evaluated(1)
    one.depth, one.all_in_focus = (t[t["frame"] == "0001"] for t in (one.depth, one.all_in_focus))
    assert list(pick_examples(one, count)["frame"]) == ["0001"]


@pytest.mark.parametrize("heads", [("depth", "all_in_focus"), ("depth",), ("all_in_focus",)])
@pytest.mark.parametrize("known", [True, False])
def test_a_scenes_files_hold_what_the_network_gave(
    stores: SimpleNamespace, tmp_path: Path, heads: tuple[str, ...], known: bool
) -> None:
    index = 8
    size = stores.depth[index].shape
    given = {"depth": np.full(size, 2.5, np.float32), "all_in_focus": stores.rgb[index][::-1]}
    scenes: Any = stores.scenes
    if not known:
        scenes = SimpleNamespace(
            read=lambda name, i: (
                0 * stores.scenes.read(name, i) if name == "depth" else stores.scenes.read(name, i)
            ),
            attributes={"truths": []},
        )
    predict: Any = lambda images: [{h: given[h] for h in heads}]  # noqa: E731
    write_example(tmp_path, "0009", predict, scenes, [stores.defocused])
    files = {path.stem for path in tmp_path.iterdir()}
    expected = {"input", "depth_gt", "coc", "grid"} | ({"all_in_focus_gt"} if known else set())
    expected |= {"depth_pred"} if "depth" in heads else set()
    expected |= {"all_in_focus"} if "all_in_focus" in heads else set()
    assert files == expected
    gt = np.asarray(Image.open(tmp_path / "depth_gt.png"))
    truth = stores.depth[index] if known else 0 * stores.depth[index]
    np.testing.assert_array_equal(gt, np.rint(500 * truth.astype(np.float64)))
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width >= 600 and np.asarray(grid.convert("L")).std() > 10
