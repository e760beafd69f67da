"""The table of differences: which networks are compared, on what, and what it says."""

import csv
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.report_fixtures import Tree, write_tree

from hded.report.read.runs import Selection, read_selection
from hded.report.tables.differences import (
    NO_INTERVAL,
    ONE_SEED,
    ONE_TRAINING,
    SAME_TRAININGS,
    build_differences,
)
from hded.report.tables.rendering import to_csv


def select(tree: Tree, **chosen: tuple) -> Selection:
    names = {"datasets": tree.datasets, "variants": tree.variants, "seeds": tree.seeds, **chosen}
    return read_selection(tree.evaluated, tree.trained, *names.values())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return write_tree(
        tmp_path_factory.mktemp("differences"),
        variants=("l1_l1", "full", "deblur_only", "depth_only"),
        seeds=(0, 1),
        frames=6,
        pictured=1,
    )


def cells(selection: Selection) -> dict[str, dict[str, dict[str, str]]]:
    table = build_differences(selection)
    found: dict[str, dict[str, dict[str, str]]] = {}
    for cell in csv.DictReader(StringIO(to_csv(table))):
        found.setdefault(cell["row"], {})[cell["column"]] = cell
    return found


DEPTH, IMAGE = ("RMSE [m]", "AbsRel", "δ₁"), ("PSNR [dB]", "SSIM")
GAIN = ("PSNR gain [dB]", "SSIM gain")


def test_each_is_compared_with_its_baselines_and_the_full_one_with_each_other(tree: Tree) -> None:
    found = cells(select(tree))
    expected = {f"full − l1_l1: {m}" for m in (*DEPTH, *GAIN)}
    expected |= {f"full − deblur_only: {m}" for m in GAIN}
    expected |= {f"full − depth_only: {m}" for m in DEPTH}
    for variant in tree.variants:
        if variant != "deblur_only":
            expected |= {f"{variant} − training-median depth: {m}" for m in DEPTH}
        if variant != "depth_only":
            expected |= {f"{variant} − defocused input: {m}" for m in IMAGE}
    assert set(found) == expected


def test_without_the_full_network_all_pairs_are_compared(tree: Tree) -> None:
    found = cells(select(tree, variants=("l1_l1", "deblur_only", "depth_only")))
    pairs = {row.split(":")[0] for row in found}
    assert {"l1_l1 − deblur_only", "l1_l1 − depth_only"} <= pairs
    assert "deblur_only − depth_only" not in pairs  # no head in common


@pytest.mark.parametrize(
    ("row", "file", "protocol", "metric", "baseline"),
    [
        ("full − training-median depth: AbsRel", "depth.csv", "headline", "abs_rel", "median"),
        ("full − defocused input: PSNR [dB]", "all_in_focus.csv", "native", "psnr", "input"),
    ],
)
def test_a_baseline_is_that_of_the_per_image_file(
    tree: Tree, row: str, file: str, protocol: str, metric: str, baseline: str
) -> None:
    cell = cells(select(tree, seeds=(0,)))[row]
    rows = pd.read_csv(tree.folder() / file)
    rows = rows[rows["protocol"] == protocol]
    means = [rows.loc[rows["method"] == m, metric].mean() for m in ("network", baseline)]
    assert float(cell["first"]["value"]) == pytest.approx(means[0])
    assert float(cell["second"]["value"]) == pytest.approx(means[1])
    assert float(cell["difference"]["value"]) == pytest.approx(means[0] - means[1])


def test_the_difference_is_that_of_the_per_image_files(tree: Tree) -> None:
    found = cells(select(tree))
    means = {}
    for variant in ("full", "deblur_only"):
        gains = []
        for seed in tree.seeds:
            rows = pd.read_csv(tree.folder("nyu", variant, seed) / "all_in_focus.csv")
            rows = rows[rows["protocol"] == "native"].set_index("frame")
            network, given = (rows[rows["method"] == m]["psnr"] for m in ("network", "input"))
            gains.append((network - given).mean())
        means[variant] = np.mean(gains)
    row = found["full − deblur_only: PSNR gain [dB]"]
    assert float(row["first"]["value"]) == pytest.approx(means["full"])
    assert float(row["second"]["value"]) == pytest.approx(means["deblur_only"])
    difference = float(row["difference"]["value"])
    assert difference == pytest.approx(means["full"] - means["deblur_only"])
    assert float(row["low"]["value"]) < difference < float(row["high"]["value"])
    assert row["images"]["value"] == "6" and row["seeds"]["value"] == "2, 2"
    assert row["seeds"]["note"] == ""


@pytest.mark.parametrize(("metric", "column"), [("RMSE [m]", "rmse"), ("PSNR gain [dB]", "psnr")])
def test_the_verdict_names_the_better_network(tmp_path: Path, metric: str, column: str) -> None:
    tree = write_tree(tmp_path, variants=("full", "l1_l1"), frames=6, pictured=1)
    for variant, shift in (("full", 0.0), ("l1_l1", 0.5)):
        for name in ("depth.csv", "all_in_focus.csv"):
            path = tree.folder("nyu", variant) / name
            rows = pd.read_csv(path, dtype={"frame": str})
            if column in rows:
                network = rows["method"] == "network"
                rows.loc[network, column] = 2.0 + shift + 0.01 * np.arange(network.sum())
                rows.to_csv(path, index=False)
    row = cells(select(tree))[f"full − l1_l1: {metric}"]
    better = "full" if column == "rmse" else "l1_l1"
    assert row["verdict"]["value"] == f"{better} is better"
    assert row["seeds"]["note"] == ONE_SEED


def test_a_control_that_only_tests_another_way_is_paired_with_its_own_training(
    tmp_path: Path,
) -> None:
    tree = write_tree(
        tmp_path, variants=("full", "wrong_focus"), seeds=(0, 1), frames=6, pictured=1
    )
    for seed, moved in ((0, -3.0), (1, 3.0)):
        for variant in tree.variants:
            path = tree.folder("nyu", variant, seed) / "all_in_focus.csv"
            rows = pd.read_csv(path, dtype={"frame": str})
            network = rows["method"] == "network"
            better = 0.5 + 0.01 * np.arange(network.sum()) if variant == "full" else 0.0
            rows.loc[network, "psnr"] = 30 + moved + better
            rows.to_csv(path, index=False)
    row = cells(select(tree))["full − wrong_focus: PSNR gain [dB]"]
    assert (row["seeds"]["value"], row["seeds"]["note"]) == ("2", SAME_TRAININGS)
    assert 0.4 < float(row["low"]["value"]) < float(row["high"]["value"]) < 0.7
    row = cells(select(tree, seeds=(0,)))["full − wrong_focus: PSNR gain [dB]"]
    assert (row["seeds"]["value"], row["seeds"]["note"]) == ("1", ONE_TRAINING)


def test_networks_that_do_the_same_are_not_told_apart(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, variants=("full", "l1_l1"), frames=4, pictured=1)
    for name in ("depth.csv", "all_in_focus.csv"):
        text = (tree.folder("nyu", "full") / name).read_text()
        (tree.folder("nyu", "l1_l1") / name).write_text(text)
    found = cells(select(tree))
    compared = [row for name, row in found.items() if name.startswith("full − l1_l1")]
    assert len(compared) == 5
    for row in compared:
        assert float(row["difference"]["value"]) == 0
        assert row["verdict"]["value"] == "not significant"


def test_one_image_gives_a_difference_and_says_why_no_interval(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, variants=("full", "l1_l1"), frames=1, pictured=1)
    row = cells(select(tree))["full − l1_l1: RMSE [m]"]
    assert row["difference"]["value"]
    for column in ("low", "high", "verdict"):
        assert (row[column]["value"], row[column]["note"]) == ("", NO_INTERVAL)


def test_copies_of_one_photograph_count_as_one_image(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, variants=("full", "l1_l1"), frames=6, pictured=1)
    for variant in ("full", "l1_l1"):
        for name in ("depth.csv", "all_in_focus.csv"):
            path = tree.folder("nyu", variant) / name
            rows = pd.read_csv(path, dtype={"frame": str})
            photographs = {f: f"p{i // 2}" for i, f in enumerate(sorted(set(rows["frame"])))}
            rows.assign(source_frame=rows["frame"].map(photographs)).to_csv(path, index=False)
    table = build_differences(select(tree))
    row = cells(select(tree))["full − l1_l1: RMSE [m]"]
    assert row["images"]["value"] == "3"
    assert any("renderings of one frame" in sentence for sentence in table.intro)
    plain = write_tree(tmp_path / "plain", variants=("full", "l1_l1"), frames=6, pictured=1)
    other = cells(select(plain))["full − l1_l1: RMSE [m]"]
    assert float(row["difference"]["value"]) == pytest.approx(float(other["difference"]["value"]))
