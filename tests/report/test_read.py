"""What the report refuses, and what it copes with."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.report_fixtures import VARIANTS, Tree, save_image, write_tree

from hded.common.errors import HDEDError
from hded.report.page.pictures import SIZES, build_gallery
from hded.report.read.runs import read_selection
from hded.report.tables.blur import read_defocused
from hded.report.tables.build import build_tables
from hded.report.tables.rendering import to_markdown
from hded.report.write import write_report


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return write_tree(tmp_path_factory.mktemp("tree"), seeds=(0, 1), frames=3, pictured=3)


@pytest.fixture
def tree(original: Tree, tmp_path: Path) -> Tree:
    copies = {name: tmp_path / name for name in ("evaluated", "trained", "defocus")}
    for name, folder in copies.items():
        shutil.copytree(getattr(original, name), folder)
    return replace(original, **copies)


def read(tree: Tree):
    return read_selection(tree.evaluated, tree.trained, tree.datasets, tree.variants, tree.seeds)


def edit_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def model_of(trained: Path) -> dict:
    return json.loads((trained / "run.json").read_text())["model"]


def edit_csv(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path, dtype={"frame": str})).to_csv(path, index=False)


def spoil(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        rows.loc[rows.index[rows["method"] == "network"][0], column] = math.nan
        return rows

    return change


MISTAKES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "no evaluation": (lambda e, t: shutil.rmtree(e), "nyu/full/1 is selected .* does not exist"),
    "no training": (lambda e, t: shutil.rmtree(t), "nyu/full/1 is selected .* does not exist"),
    "missing file": (lambda e, t: (e / "metrics.json").unlink(), "metrics.json: is missing"),
    "missing rows": (lambda e, t: (e / "all_in_focus.csv").unlink(), "all_in_focus.csv: is"),
    "missing curve": (lambda e, t: (e / "error_by_coc.csv").unlink(), "error_by_coc.csv"),
    "half a file": (lambda e, t: (e / "metrics.json").write_text('{"depth"'), "cannot be read"),
    "a list": (lambda e, t: (t / "run.json").write_text("[]"), "run.json: cannot be read"),
    "an empty csv": (lambda e, t: (e / "depth.csv").write_text(""), "depth.csv: cannot be read"),
    "foreign csv": (lambda e, t: (t / "history.csv").write_text("a,b\n1,2\n"), "no column 'epoch'"),
    "another dataset": (
        lambda e, t: edit_json(e / "evaluation.json", dataset="make3d"),
        "dataset is 'make3d', its folder says 'nyu'",
    ),
    "another seed": (lambda e, t: edit_json(e / "evaluation.json", seed=0), "seed is 0"),
    "another camera": (
        lambda e, t: edit_json(e / "evaluation.json", cameras=[{"name": "paper"}]),
        "measured on different data .camera differs",
    ),
    "another source": (
        lambda e, t: edit_json(e / "evaluation.json", source="official"), "source differs"
    ),
    "another network": (
        lambda e, t: edit_json(t / "run.json", model=model_of(t) | {"heads": ["depth"]}),
        "not of one network",
    ),
    "a missing key": (
        lambda e, t: (t / "run.json").write_text('{"model": {"heads": ["depth"]}}'),
        r"run.json: fit is missing",
    ),
    "an unknown key": (
        lambda e, t: edit_json(e / "evaluation.json", colour="red"),
        r"evaluation.json: colour is not a known key",
    ),
    "a wrong type": (
        lambda e, t: edit_json(t / "run.json", model=model_of(t) | {"width": "wide"}),
        r"run.json: model.width is 'wide': input should be a valid number",
    ),
    "a wrong type of a metric": (
        lambda e, t: edit_json(e / "metrics.json", depth={"headline": {"network": 1}}),
        r"metrics.json: depth.headline.network is 1: ",
    ),
    "a missing protocol": (
        lambda e, t: edit_json(e / "metrics.json", depth={}), "protocol headline .* is missing"
    ),
    "missing frames": (
        lambda e, t: edit_csv(e / "depth.csv", lambda rows: rows.iloc[1:]), "2 frames in 2 rows"
    ),
    "missing images": (
        lambda e, t: edit_csv(e / "all_in_focus.csv", lambda rows: rows.iloc[1:]), "2 frames in 2"
    ),
    "other images": (
        lambda e, t: edit_csv(
            e / "all_in_focus.csv", lambda r: r.assign(frame=r["frame"].replace("0001", "x"))
        ),
        "its frames differ from those of depth.csv",
    ),
    "a NaN depth": (lambda e, t: edit_csv(e / "depth.csv", spoil("rmse")), "frame 0001, network"),
    "a NaN image": (lambda e, t: edit_csv(e / "all_in_focus.csv", spoil("ssim")), "not a number"),
    "no scene": (lambda e, t: shutil.rmtree(next((e / "scenes").iterdir())), "csv names it"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("input.json", None, "input.json: is missing"),
        ("input.json", "{}", "'test_frames' is missing"),
        ("coc.csv", "a,b\n1,2\n", "no column 'coc_px'"),
        ("cameras.csv", None, "cameras.csv: is missing"),
        ("contact_sheet.jpg", None, "contact_sheet.jpg"),
    ],
)
def test_a_damaged_folder_of_the_defocus_stage_is_one_clear_line(
    tree: Tree, name: str, text: str | None, what: str
) -> None:
    path = tree.defocus / "nyu/paper" / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(HDEDError, match=what) as caught:
        read_defocused(tree.defocus / "nyu/paper")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_damaged_or_foreign_tree_is_one_clear_line(tree: Tree, mistake: str) -> None:
    damage, expected = MISTAKES[mistake]
    damage(tree.folder(seed=1), tree.trained / "nyu" / "full" / "1")
    with pytest.raises(HDEDError, match=expected) as caught:
        read(tree)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["datasets", "variants", "seeds"])
def test_an_empty_selection_names_the_key(tree: Tree, tmp_path: Path, key: str) -> None:
    options = {**tree.options(), key: ()}
    with pytest.raises(HDEDError, match=f"run.{key} is empty"):
        write_report(tree.evaluated, tree.trained, tree.defocus, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_damaged_picture_is_named(tree: Tree) -> None:
    path = next(tree.folder().glob("scenes/*/depth_pred.png"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    runs = read(tree).runs[:1]
    with pytest.raises(HDEDError, match=r"depth_pred.png: cannot be read as an image"):
        build_gallery(runs, frozenset({runs[0].name}), 10**9)
    save_image(path, np.zeros((4, 4), np.uint16))
    with pytest.raises(HDEDError, match="its images differ in size"):
        build_gallery(runs, frozenset({runs[0].name}), 10**9)


def test_an_image_without_valid_depth_does_not_count_and_is_counted(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, frames=3, pictured=1)
    path = tree.folder() / "depth.csv"
    metrics = ["rmse", "abs_rel", "log10", "delta1", "delta2", "delta3"]

    def blind(rows: pd.DataFrame) -> pd.DataFrame:
        here = rows["frame"] == "0002"
        rows.loc[here, "valid_px"] = 0
        rows.loc[here, metrics] = math.nan
        return rows

    edit_csv(path, blind)
    markdown = to_markdown(build_tables(read(tree), VARIANTS)[0])
    assert "2 of 3 images have a valid pixel, the others are left out" in markdown


def test_no_image_with_valid_depth_gives_an_explained_dash(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, frames=2, pictured=1)
    path = tree.folder() / "metrics.json"
    content = json.loads(path.read_text())
    content["depth"]["headline"]["network"] = dict.fromkeys(
        content["depth"]["headline"]["network"], math.nan
    )
    path.write_text(json.dumps(content))
    markdown = to_markdown(build_tables(read(tree), VARIANTS)[2])
    assert "undefined: the value is not a number" in markdown


def test_a_frame_may_be_called_na(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, frames=2, pictured=2)
    folder = tree.folder()
    for name in ("depth.csv", "all_in_focus.csv", "examples.csv"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("0001", "NA"))
    (folder / "scenes" / "0001").rename(folder / "scenes" / "NA")
    assert "NA" in read(tree).runs[0].frames


def test_pictures_shrink_and_then_the_last_runs_go_to_keep_the_page_small(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, variants=("full", "l1_l1"), frames=4, size=(150, 200))
    runs = read(tree).runs
    main = frozenset({"nyu/full/0"})
    free = build_gallery(runs, main, 10**9)
    # the other variant shows best, median and worst alone
    assert [len(free.views[run.name]) for run in runs] == [4, 3]
    assert free.left_out == 1
    size = sum(view.characters for views in free.views.values() for view in views)
    half = build_gallery(runs, main, size // 2)
    views = [view for some in half.views.values() for view in some]
    assert sum(view.characters for view in views) <= size // 2
    assert len(views) == 7
    assert max(view.defocused.width for view in views) < 200
    least = build_gallery(runs, main, 1)
    assert list(least.views) == ["nyu/full/0"]
    assert {view.defocused.width for view in least.views["nyu/full/0"]} == {SIZES[-1][0]}
    assert least.left_out == 4
