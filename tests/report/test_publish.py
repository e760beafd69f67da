"""What is kept of a run: numbers and plots that are the run's own, and no picture of the data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.report_fixtures import VARIANTS, Tree, write_tree

from hded.report.publish import plot_results, write_results
from hded.report.read.runs import read_selection


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, Path]:
    root = tmp_path_factory.mktemp("results")
    tree = write_tree(root, variants=("full", "depth_only"), seeds=(0, 1), frames=4, pictured=1)
    selection = read_selection(
        tree.evaluated, tree.trained, tree.datasets, tree.variants, tree.seeds
    )
    write_results(selection, VARIANTS, root / "out")
    return tree, root / "out"


def test_only_numbers_and_plots_are_written(written) -> None:
    files = {path.name for path in written[1].rglob("*")}
    tables = {"summary.csv", "per_image.csv", "history.csv", "errors.csv"}
    assert files == {"README.md", "plots.png"} | tables
    with Image.open(written[1] / "plots.png") as plots:
        assert plots.width > 1000 and len(np.unique(np.asarray(plots.convert("RGB")))) > 100


def test_the_summary_follows_from_the_images(written) -> None:
    images = pd.read_csv(written[1] / "per_image.csv")
    assert len(images) == 2 * 2 * 4
    summary = pd.read_csv(written[1] / "summary.csv").query("method == 'network'")
    for variant in ("full", "depth_only"):
        for seed in (0, 1):
            chosen, mine = (
                t[(t["variant"] == variant) & (t["seed"] == seed)] for t in (summary, images)
            )
            depth = chosen.query("protocol == 'headline' and metric == 'rmse'")["value"].item()
            assert depth == pytest.approx(mine["rmse"].mean(), rel=1e-4)
            image = chosen.query("protocol == 'native' and metric == 'psnr'")["value"]
            if variant == "full":
                assert image.item() == pytest.approx(mine["psnr"].mean(), rel=1e-4)
            else:
                assert image.empty and mine["psnr"].isna().all()


def test_the_page_says_what_was_reached_on_what(written) -> None:
    page = (written[1] / "README.md").read_text()
    tables = ("Table F", "Table E", "Table II", "Table III", "Table IV")
    for text in ("Camera:", "`full`", "`depth_only`", "2 CPU threads", "012345678900", *tables):
        assert text in page, text
    assert page.count("\n# ") == 0 and page.startswith("# NYU-Depth v2, 4 test images")


def test_each_dataset_has_its_own_figures(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, datasets=("nyu", "make3d"), frames=3, pictured=1)
    selection = read_selection(
        tree.evaluated, tree.trained, tree.datasets, tree.variants, tree.seeds
    )
    write_results(selection, VARIANTS, tmp_path / "out")
    page = (tmp_path / "out/README.md").read_text()
    parts = page.split("\n## `")
    assert "NYU-Depth v2, 3 test images" in parts[0] and "Make3D, 3 test images" in parts[0]
    assert "Camera of nyu:" in parts[0] and "Camera of make3d:" in parts[0]
    assert [part.split("`")[0] for part in parts[1:]] == ["nyu/full", "make3d/full"]
    images = pd.read_csv(tmp_path / "out/per_image.csv")
    for part, dataset, protocol in (
        (parts[1], "nyu", "NYU headline"), (parts[2], "make3d", "Make3D C1"),
    ):  # fmt: skip
        mine = images[images["dataset"] == dataset]
        facts = part.split("\n\n")[2]
        assert f"**{mine['psnr'].mean():.2f}**" in facts and "±" not in facts
        assert f"{protocol} | **{mine['rmse'].mean():.3f}**" in facts


def test_equal_runs_give_equal_bytes(written, tmp_path) -> None:
    tree, out = written
    selection = read_selection(
        tree.evaluated, tree.trained, tree.datasets, tree.variants, tree.seeds
    )
    write_results(selection, VARIANTS, tmp_path)
    for path in out.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("variant", "loss"), [("full", "l1"), ("full", "ordinal"), ("depth_only", "log_l1")]
)
def test_every_kind_of_network_has_the_panels_of_what_it_does(
    tmp_path: Path, variant: str, loss: str
) -> None:
    tree = write_tree(tmp_path, variants=(variant,), frames=3, pictured=1)
    history = tree.trained / f"nyu/{variant}/0/history.csv"
    history.write_text(history.read_text().replace("train/l1,", f"train/{loss},"))
    selection = read_selection(tree.evaluated, tree.trained, ("nyu",), (variant,), (0,))
    write_results(selection, VARIANTS, tmp_path / "out")
    tables = [pd.read_csv(tmp_path / f"out/{n}.csv") for n in ("history", "errors", "per_image")]
    drawn = [axes for axes in plot_results(*tables).axes if axes.axison]
    titles = [axes.get_title() for axes in drawn]
    restores = variant == "full"
    assert titles[0].startswith("training loss") and len(titles) == 3 + restores
    assert ("PSNR gain of each image" in titles) == restores
    assert len(drawn[0].lines) == 1 + restores
    assert all(line.get_ydata()[0] == 1 for line in drawn[0].lines)  # pyright: ignore
    assert all(axes.lines for axes in drawn)
