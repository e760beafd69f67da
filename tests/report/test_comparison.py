"""Two runs side by side: the same scenes, true differences, a page that lives in a browser."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support.browser import chromium, needs_chromium, probed, result
from support.report_fixtures import Tree, write_tree

from hded.common.errors import HDEDError
from hded.report.comparison import write_comparison
from hded.report.read.runs import Run, read_run

NASTY = "<script>alert('x')</script>"
SETTINGS = (
    {"train.lr": "0.001", "train.epochs": "4", "variant": NASTY},
    {"train.lr": "0.002", "train.epochs": "4"},
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    variants = ("full", "l1_l1", "depth_only", "deblur_only")
    return write_tree(tmp_path_factory.mktemp("comparison"), variants=variants, frames=4)


def run_of(tree: Tree, variant: str) -> Run:
    return read_run(tree.folder("nyu", variant), tree.trained / "nyu" / variant / "0")


def compare(tree: Tree, tmp_path: Path, *variants: str) -> tuple[str, str]:
    out = tmp_path / "new" / "page.html"
    first, second = (run_of(tree, v) for v in variants)
    table = write_comparison(
        (first, second), (variants[0], f"{variants[1]} {NASTY}"), SETTINGS, out
    )
    return table, out.read_text(encoding="utf-8")


def test_it_tells_the_difference_of_the_per_image_files(tree: Tree, tmp_path: Path) -> None:
    table, page = compare(tree, tmp_path, "full", "l1_l1")
    means = []
    for variant in ("full", "l1_l1"):
        rows = pd.read_csv(tree.folder("nyu", variant) / "depth.csv")
        rows = rows[(rows["protocol"] == "headline") & (rows["method"] == "network")]
        means.append(rows["rmse"].mean())
    (line,) = [text for text in table.splitlines() if "RMSE" in text]
    assert f"{means[0]:.4f}" in line and f"{means[1]:.4f}" in line
    assert f"{abs(means[0] - means[1]):.4f}" in line
    assert f"{means[0]:.4f}" in page


def test_only_settings_that_differ_are_listed_and_text_is_escaped(
    tree: Tree, tmp_path: Path
) -> None:
    _, page = compare(tree, tmp_path, "full", "l1_l1")
    settings = page[page.index('id="settings"') : page.index('id="scenes"')]
    assert "train.lr" in settings and "0.002" in settings
    assert "train.epochs" not in settings
    assert "not a setting of this run" in settings
    assert NASTY not in page and "&lt;script&gt;alert" in page
    assert len(re.findall("<script", page)) == 1


def test_every_scene_pictured_in_both_is_shown_once(tree: Tree, tmp_path: Path) -> None:
    _, page = compare(tree, tmp_path, "full", "l1_l1")
    shared = {s.frame for s in run_of(tree, "full").scenes}
    shared &= {s.frame for s in run_of(tree, "l1_l1").scenes}
    assert re.findall(r"<h3>(\d{4})</h3>", page) == sorted(shared)
    assert len(shared) >= 3
    assert page.count('data-pair="first-second"') == len(shared)


def test_runs_with_one_head_show_what_they_have(tree: Tree, tmp_path: Path) -> None:
    table, page = compare(tree, tmp_path, "full", "depth_only")
    assert "PSNR" not in table and "RMSE" in table
    assert 'data-pair="first-sharp"' in page
    with pytest.raises(HDEDError, match="no head in common"):
        compare(tree, tmp_path, "deblur_only", "depth_only")


def test_runs_of_other_frames_are_refused(tree: Tree, tmp_path: Path) -> None:
    first, second = run_of(tree, "full"), run_of(tree, "l1_l1")
    second = replace(second, frames=second.frames[1:])
    with pytest.raises(HDEDError, match="4 frames of nyu, b on 3 of nyu"):
        write_comparison((first, second), ("a", "b"), ({}, {}), tmp_path / "page.html")
    third = replace(first, truth="of other scenes")
    with pytest.raises(HDEDError, match="same names but different content"):
        write_comparison((first, third), ("a", "b"), ({}, {}), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_what_each_was_tested_on_is_a_setting(tree: Tree, tmp_path: Path) -> None:
    first, second = run_of(tree, "full"), run_of(tree, "l1_l1")
    second = replace(second, control="tested on images focused at 4 m")
    out = tmp_path / "page.html"
    write_comparison((first, second), ("a", "b"), ({}, {}), out)
    page = out.read_text(encoding="utf-8")
    assert "test images" in page and "No setting of the two runs differs" not in page


def test_equal_runs_give_equal_bytes(tree: Tree, tmp_path: Path) -> None:
    first = compare(tree, tmp_path / "a", "full", "l1_l1")
    assert compare(tree, tmp_path / "b", "full", "l1_l1") == first


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_quietly_and_its_slider_moves(tree: Tree, tmp_path: Path, width: int) -> None:
    _, page = compare(tree, tmp_path, "full", "l1_l1")
    path = probed(page, tmp_path, width, pair="first-sharp")
    dump, console = chromium(tmp_path / "profile", path, 1400, "--dump-dom")
    seen = result(dump)
    assert (console, seen["errors"], seen["requests"], seen["broken"]) == ([], [], [], 0)
    assert seen["overflow"] <= 0
    assert dict(seen["after"])["full"] == "inset(0px 20% 0px 0px)"
    assert [label for label, _ in seen["other"]] == ["full", "sharp"]
