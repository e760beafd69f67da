"""The tables that say what blur and lambda do: numbers from the runs' own records."""

import csv
import json
import math
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from support.report_fixtures import VARIANTS, Tree, write_tree

from hded.common.errors import HDEDError
from hded.report.publish import write_results
from hded.report.read.runs import Selection, read_selection
from hded.report.tables.build import build_tables
from hded.report.tables.controls import build_controls
from hded.report.tables.differences import build_differences
from hded.report.tables.loss_weighting import build_balance
from hded.report.tables.model import Table
from hded.report.tables.rendering import to_csv, to_markdown
from hded.report.write import write_report

CONTROL = "tested on images focused at 4 m"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A full network, one with a single head, and a control with another camera."""
    tree = write_tree(
        tmp_path, variants=("full", "depth_only", "wrong_focus"), seeds=(0, 1), frames=3, pictured=1
    )
    for seed in (0, 1):
        change(tree.folder("nyu", "wrong_focus", seed) / "evaluation.json", control=CONTROL)
        file = tree.folder("nyu", "wrong_focus", seed) / "evaluation.json"
        camera = json.loads(file.read_text())["cameras"][0]
        change(file, cameras=[{**camera, "focus_distance_m": 4.0}])
    return tree


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def select(tree: Tree) -> Selection:
    return read_selection(tree.evaluated, tree.trained, tree.datasets, tree.variants, tree.seeds)


def rows_of(table: Table) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for cell in csv.DictReader(StringIO(to_csv(table))):
        rows.setdefault(cell["row"], {})[cell["column"]] = cell["value"]
    return rows


def test_a_control_stands_beside_the_full_network_and_nowhere_else(tree: Tree) -> None:
    selection = select(tree)
    table = build_controls(selection, VARIANTS)
    assert table is not None
    rows = rows_of(table)
    assert set(rows) == {"full", "wrong_focus"}
    for variant, cells in rows.items():
        metrics = [
            json.loads((tree.folder("nyu", variant, seed) / "metrics.json").read_text())
            for seed in (0, 1)
        ]
        rmse = sum(m["depth"]["headline"]["network"]["rmse"] for m in metrics) / 2
        gain = sum(m["all_in_focus"]["native"]["gain"]["psnr"] for m in metrics) / 2
        assert float(cells["headline.rmse"]) == pytest.approx(rmse)
        assert float(cells["native.psnr_gain"]) == pytest.approx(gain)
    details = {row.label: row.detail for row in table.parts[0].rows}
    assert CONTROL in details["wrong_focus"] and CONTROL not in details["full"]
    for other in build_tables(selection, VARIANTS):
        assert "wrong_focus" not in to_csv(other)


def make_sharp(folder: Path) -> None:
    """Turn a run into one that was tested on all-in-focus images: input and truth are equal."""
    camera = {"name": "all in focus", "max_coc_px": 1.0}
    change(folder / "evaluation.json", cameras=[camera], control="tested on all-in-focus images")
    images = pd.read_csv(folder / "all_in_focus.csv", dtype={"frame": str})
    images.loc[images["method"] == "input", ["psnr", "ssim"]] = math.inf, 1.0
    images.to_csv(folder / "all_in_focus.csv", index=False)
    metrics = json.loads((folder / "metrics.json").read_text())
    for scores in metrics["all_in_focus"].values():
        scores["input"] = {"psnr": math.inf, "ssim": 1.0}
        scores["gain"] = {k: v - scores["input"][k] for k, v in scores["network"].items()}
    change(folder / "metrics.json", all_in_focus=metrics["all_in_focus"])


@pytest.mark.parametrize(
    "variants",
    [("wrong_focus",), ("wrong_focus", "full"), ("full", "wrong_focus"), ("wrong_focus", "l1_l1")],
)
def test_a_control_on_sharp_images_is_reported_in_any_order(
    tmp_path: Path, variants: tuple[str, ...]
) -> None:
    tree = write_tree(tmp_path, variants=variants, frames=3, pictured=3)
    make_sharp(tree.folder("nyu", "wrong_focus"))
    out = tmp_path / "reports"
    write_report(
        tree.evaluated, tree.trained, tree.defocus, out, datasets=tree.datasets,
        variants=variants, seeds=tree.seeds, all_variants=VARIANTS, params_yaml="",
    )  # fmt: skip
    controls = (out / "tables/controls.md").read_text(encoding="utf-8")
    assert "−∞" in controls and "all-in-focus images" in controls
    selection = select(tree)
    write_results(selection, VARIANTS, tmp_path / "results")
    assert (tmp_path / "results/plots.png").is_file()
    page = (tmp_path / "results/README.md").read_text(encoding="utf-8")
    differences = to_csv(build_differences(selection))
    assert "wrong_focus − training-median depth" in differences
    assert "wrong_focus − defocused input" not in differences
    assert "l1_l1 − wrong_focus: PSNR" not in differences
    if len(variants) == 1:
        assert "Camera: none: the images are all in focus" in page
        return
    # the dataset's own camera and baselines stand in the tables, the control's nowhere
    plain = next(v for v in variants if v != "wrong_focus")
    metrics = json.loads((tree.folder("nyu", plain) / "metrics.json").read_text())
    table4 = build_tables(selection, VARIANTS)[2]
    psnr = metrics["all_in_focus"]["native"]["input"]["psnr"]
    part = table4.parts[0]
    (given,) = (row for row in part.rows if row.label == "defocused input")
    (shown,) = (
        cell
        for column, cell in zip(part.columns, given.cells, strict=True)
        if column.key == "native.psnr"
    )
    assert float(shown.value) == pytest.approx(psnr)
    assert "focal length 70 mm" in page and "focal length 70 mm" in to_markdown(table4)


def test_without_a_control_there_is_no_table_and_another_camera_is_refused(tree: Tree) -> None:
    for seed in (0, 1):
        change(tree.folder("nyu", "wrong_focus", seed) / "evaluation.json", control="")
    with pytest.raises(HDEDError, match="camera differs"):
        select(tree)
    plain = read_selection(tree.evaluated, tree.trained, ("nyu",), ("full",), (0,))
    assert build_controls(plain, VARIANTS) is None


def test_lambda_is_told_by_the_gradients_at_the_encoder(tree: Tree) -> None:
    table = build_balance(select(tree))
    assert table is not None
    rows = rows_of(table)
    # the other control has no training of its own
    assert set(rows) == {f"full, seed {s}" for s in (0, 1)}
    history = pd.read_csv(tree.trained / "nyu/full/0/history.csv")
    model = json.loads((tree.trained / "nyu/full/0/run.json").read_text())["model"]
    cells = rows["full, seed 0"]
    ratios = [
        d / n for d, n in zip(history["grad/all_in_focus"], history["grad/depth"], strict=True)
    ]
    assert float(cells["first"]) == pytest.approx(ratios[0])
    mean = sum(ratios) / len(ratios)
    assert float(cells["mean"]) == pytest.approx(mean)
    # unweighted, then at 0.01 on a depth loss in metres
    expected = mean / 0.05 * 0.01 / model["depth_scale_m"]
    assert float(cells["paper"]) == pytest.approx(expected)
    assert float(cells["weight_all_in_focus"]) == 0.05


def test_the_papers_lambda_is_told_of_a_head_in_metres_alone(tree: Tree) -> None:
    path = tree.trained / "nyu/full/0/run.json"
    model = json.loads(path.read_text())["model"]
    change(path, model={**model, "readout": "log"})
    table = build_balance(select(tree))
    assert table is not None
    rows = {row.label: row.cells for part in table.parts for row in part.rows}
    assert not rows["full, seed 0"][-1].value and rows["full, seed 0"][-2].value
    assert "predict metres" in rows["full, seed 0"][-1].notes[0]
    assert rows["full, seed 1"][-1].value


def test_histories_without_gradients_make_no_table(tree: Tree) -> None:
    for file in tree.trained.rglob("history.csv"):
        history = pd.read_csv(file)
        grads = [name for name in history.columns if name.startswith(("grad/", "weight/"))]
        history.drop(columns=grads).to_csv(file, index=False)
    assert build_balance(select(tree)) is None
