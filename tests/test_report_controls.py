"""The tables that say what blur and lambda do: numbers from the runs' own records."""

import csv
import json
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from report_fixtures import VARIANTS, Tree, write_tree

from hded.errors import HDEDError
from hded.report.balance import build_balance
from hded.report.controls import build_controls
from hded.report.grid import Table
from hded.report.rendering import to_csv
from hded.report.runs import Selection, read_selection
from hded.report.tables import build_tables

CONTROL = "tested on pictures focused at 4 m"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A full network, one with a single head, and a control with another camera."""
    tree = write_tree(
        tmp_path, variants=("full", "depth_only", "wrong_focus"), seeds=(0, 1), frames=3, pictured=1
    )
    for seed in (0, 1):
        change(tree.folder("nyu", "wrong_focus", seed) / "evaluation.json", control=CONTROL)
        file = tree.folder("nyu", "wrong_focus", seed) / "evaluation.json"
        camera = json.loads(file.read_text())["camera"]
        change(file, camera={**camera, "focus_distance_m": 4.0})
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
        gain = sum(m["restoration"]["native"]["gain"]["psnr"] for m in metrics) / 2
        assert float(cells["depth_network_rmse"]) == pytest.approx(rmse)
        assert float(cells["restoration_gain_psnr"]) == pytest.approx(gain)
    details = {row.label: row.detail for row in table.parts[0].rows}
    assert CONTROL in details["wrong_focus"] and CONTROL not in details["full"]
    for other in build_tables(selection, VARIANTS):
        assert "wrong_focus" not in to_csv(other)


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
    assert set(rows) == {f"{v}, seed {s}" for v in ("full", "wrong_focus") for s in (0, 1)}
    history = pd.read_csv(tree.trained / "nyu/full/0/history.csv")
    model = json.loads((tree.trained / "nyu/full/0/run.json").read_text())["model"]
    cells = rows["full, seed 0"]
    ratios = [d / n for d, n in zip(history["grad/deblur"], history["grad/depth"], strict=True)]
    assert float(cells["first"]) == pytest.approx(ratios[0])
    mean = sum(ratios) / len(ratios)
    assert float(cells["mean"]) == pytest.approx(mean)
    # unweighted, then at 0.01 on a depth loss in metres
    expected = mean / 0.05 * 0.01 / model["depth_scale_m"]
    assert float(cells["paper"]) == pytest.approx(expected)
    assert float(cells["weight_deblur"]) == 0.05


def test_histories_without_gradients_make_no_table(tree: Tree) -> None:
    for file in tree.trained.rglob("history.csv"):
        history = pd.read_csv(file)
        grads = [name for name in history if name.startswith(("grad/", "weight/"))]
        history.drop(columns=grads).to_csv(file, index=False)
    assert build_balance(select(tree)) is None
