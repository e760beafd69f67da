"""Test images that lack a truth, or whose networks were trained on different data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.report_fixtures import VARIANTS, Tree, write_tree

from hded.records import BY_TRUE_DEPTH
from hded.report.comparison import write_comparison
from hded.report.page.pictures import read_pictures, view_scene
from hded.report.publish import write_results
from hded.report.read.runs import Selection, read_selection
from hded.report.tables.build import build_tables
from hded.report.write import write_report

WHY = "o true all-in-focus image: the test images of own have none"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def select(tree: Tree) -> Selection:
    return read_selection(tree.evaluated, tree.trained, tree.datasets, tree.variants, tree.seeds)


@pytest.fixture
def without_rgb(tmp_path: Path) -> Tree:
    """Two networks' results on photographs without rgb/, as the stage writes them."""
    variants = ("full", "depth_only")
    tree = write_tree(tmp_path, datasets=("own",), variants=variants, frames=3, pictured=3)
    for variant in variants:
        folder = tree.folder("own", variant)
        change(folder / "evaluation.json", heads=["depth"], truths=["depth"])
        change(folder / "metrics.json", all_in_focus={}, robustness={})
        (folder / "all_in_focus.csv").unlink(missing_ok=True)
        for scene in (folder / "scenes").iterdir():
            (scene / "all_in_focus_gt.png").unlink()
    return tree


def test_the_restored_image_is_shown_and_the_missing_truth_is_named(without_rgb: Tree):
    out = without_rgb.evaluated.parent / "out"
    tree = without_rgb
    write_report(tree.evaluated, tree.trained, tree.defocus, out, **tree.options())
    page = (out / "index.html").read_text(encoding="utf-8")
    assert f"N{WHY}." in page
    assert "No all-in-focus head: depth_only restores no image." in page
    assert 'data-pair="defocused-all_in_focus"' in page
    assert 'data-name="sharp"' not in page and "Error of the" not in page
    table = (out / "tables/table4.md").read_text(encoding="utf-8")
    assert f"n{WHY}" in table
    full, depth_only = select(tree).runs
    view = view_scene(full, full.scenes[0], 64, 64, 80)
    assert view.all_in_focus and not view.sharp and not view.defocused_error
    assert view_scene(depth_only, depth_only.scenes[0], 64, 64, 80).pairs == []
    restored = read_pictures(full, full.scenes[0]).all_in_focus
    with Image.open(full.scenes[0].folder / "all_in_focus.png") as written:
        np.testing.assert_array_equal(restored, np.asarray(written))  # pyright: ignore


def test_runs_without_a_true_image_are_compared_by_depth(without_rgb: Tree):
    full, depth_only = select(without_rgb).runs
    out = without_rgb.evaluated.parent / "comparison.html"
    for runs in ((full, depth_only), (depth_only, depth_only)):
        said = write_comparison(runs, ("a", "b"), ({}, {}), out)
        assert "| RMSE" in said and "PSNR" not in said
        assert 'data-name="sharp"' not in out.read_text(encoding="utf-8")


def test_networks_of_other_training_data_have_the_median_of_their_own(tmp_path: Path):
    tree = write_tree(tmp_path, datasets=("own",), variants=("full", "depth_only"), frames=3)
    for variant, trained_on, median in (("full", "nyu", 2.5), ("depth_only", "make3d", 12.0)):
        change(tree.trained / f"own/{variant}/0/run.json", dataset=trained_on)
        change(tree.folder("own", variant) / "evaluation.json", median_depth_m=median)
        metrics = tree.folder("own", variant) / "metrics.json"
        depth = json.loads(metrics.read_text())["depth"]
        depth["headline"]["median"]["rmse"] = median
        change(metrics, depth=depth)
    write_report(tree.evaluated, tree.trained, tree.defocus, tmp_path / "out", **tree.options())
    for name in ("table4", "robustness"):
        table = (tmp_path / f"out/tables/{name}.md").read_text(encoding="utf-8")
        rows = [line for line in table.splitlines() if line.startswith("| Baseline: median")]
        assert len(rows) >= 2, name
    table = (tmp_path / "out/tables/table4.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| Baseline: median")]
    nyu, make3d = rows[:2]
    assert "of nyu" in nyu and "2.500" in nyu and "of make3d" in make3d and "12.000" in make3d


def test_a_dataset_of_two_may_have_no_pixel_with_depth(tmp_path: Path):
    tree = write_tree(tmp_path, datasets=("nyu", "own"), frames=3, pictured=1)
    for name in ("depth", "coc"):
        file = tree.folder("own") / f"error_by_{name}.csv"
        file.write_text(file.read_text().splitlines()[0] + "\n")
    write_results(select(tree), VARIANTS, tmp_path / "out")
    assert "nyu" in (tmp_path / "out/errors.csv").read_text()


def test_a_restoration_by_the_true_depth_is_best_nowhere(tmp_path: Path):
    tree = write_tree(tmp_path, variants=("full", "depth_only", "deblur_only"), frames=3)
    known = tree.folder(variant="deblur_only")
    change(
        known / "evaluation.json",
        restoration=f"total variation, {BY_TRUE_DEPTH}",
        control="restored with the true depth",
    )
    images = json.loads((known / "metrics.json").read_text())["all_in_focus"]
    for methods in images.values():
        methods["network"] |= {"psnr": 90.0, "ssim": 1.0}
    change(known / "metrics.json", all_in_focus=images)
    (*_, table) = build_tables(select(tree), VARIANTS, {"deblur_only": "Zhang et al. (IrCNN)"})
    rows = [row for part in table.parts for row in part.rows if row.label == "deblur_only"]
    assert not any(cell.best for row in rows for cell in row.cells)
    assert (
        sum(cell.text == "90.00" for row in rows for cell in row.cells) == 2
    )  # at native size, and in the part of the further protocol
