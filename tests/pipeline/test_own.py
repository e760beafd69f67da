"""A user's own folder of pictures in a clone: looked at, never changed, and its experiments."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from support.clones import Clone, stages_run
from support.own import own_clone, write_pair, write_pictures

# MLflow's own, of SQLAlchemy
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
METRICS = "reports/metrics/own-full-0.json"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    root = tmp_path_factory.mktemp("own")
    write_pictures(root / "my_pictures")
    clone = own_clone(root / "hded", "../my_pictures")
    clone.run("dvc", "repro")
    clone.commit("results")
    yield clone


def rmse(clone: Clone) -> float:
    return json.loads((clone.root / METRICS).read_text())["rmse"]


def shown(clone: Clone) -> dict[str, float | None]:
    """The RMSE of each experiment by its name, as `dvc exp show` has them."""
    table = json.loads(clone.run("dvc", "exp", "show", "--json").stdout)
    found: dict[str, float | None] = {}
    for row in table:
        for experiment in row.get("experiments") or ():
            revision = experiment["revs"][0]
            metrics = (revision["data"] or {}).get("metrics", {})
            found[revision["name"]] = metrics.get(METRICS, {}).get("data", {}).get("rmse")
    return found


def test_experiments_hold_their_figures_wherever_they_ran(clone: Clone) -> None:
    before = rmse(clone)
    run = ("dvc", "exp", "run")
    clone.run(*run, "--name", "here", "-S", "train.lr=1e-4")
    here = rmse(clone)
    clone.run(*run, "--temp", "--name", "temp", "-S", "train.lr=2e-4")
    for name, rate in (("one", "5e-4"), ("two", "6e-4")):
        clone.run(*run, "--queue", "--name", name, "-S", f"train.lr={rate}")
    clone.run("dvc", "queue", "start", "--jobs", "2")
    clone.run("dvc", "queue", "logs", "--follow", "one")
    clone.run("dvc", "queue", "logs", "--follow", "two")
    found = shown(clone)
    assert set(found) == {"here", "temp", "one", "two"}
    values = list(found.values())
    assert all(value is not None for value in values) and len(set(values)) == 4
    assert found["here"] == here and before not in values
    # those that ran at the same time lost nothing in the database that they share
    runs = [run for run in clone.mlflow_runs() if "dvc_experiment" in run["tags"]]
    rates = {float(run["params"]["train.lr"]) for run in runs if "rmse" in run["metrics"]}
    assert rates == {1e-4, 2e-4, 5e-4, 6e-4} and {run["status"] for run in runs} == {"FINISHED"}
    clone.run("dvc", "exp", "apply", "one")
    assert rmse(clone) == found["one"]
    difference = json.loads(clone.run("dvc", "metrics", "diff", "--json").stdout)
    changed = difference.get("diff", difference)[METRICS]["rmse"]
    assert changed["old"] == pytest.approx(before)
    assert changed["new"] == pytest.approx(found["one"])
    plots = clone.run("dvc", "plots", "diff", "--out", str(clone.root.parent / "plots"))
    assert "failed" not in (plots.stdout + plots.stderr).lower()
    clone._git("checkout", "-q", "--", ".")
    clone.run("dvc", "checkout")


def test_a_fresh_clone_after_a_pull_runs_no_stage_again(clone: Clone, tmp_path: Path) -> None:
    clone.run("dvc", "remote", "add", "--default", "--local", "store", str(tmp_path / "store"))
    clone.run("dvc", "push")
    other = tmp_path / "hded"
    clone._git("clone", "-q", str(clone.root), str(other))
    shutil.copytree(clone.root.parent / "my_pictures", tmp_path / "my_pictures")
    for command in (
        ("remote", "add", "--default", "--local", "store", str(tmp_path / "store")),
        ("pull",),
    ):
        clone.run("dvc", *command, cwd=other)
    ran = stages_run(clone.run("dvc", "repro", cwd=other).stdout)
    assert ran <= {"download"}  # dates of the copied pictures differ, their contents do not


def splits(clone: Clone) -> dict[str, int]:
    frames = pd.read_csv(clone.root / "data/frames/own/frames.csv", dtype=str)
    return {str(name): int(count) for name, count in frames["split"].value_counts().items()}


def test_added_changed_and_removed_pictures_are_noticed(clone: Clone) -> None:
    pictures = clone.root.parent / "my_pictures"
    target = ("dvc", "repro", "convert@own")
    write_pair(pictures, "0010", 10)
    assert "convert" in stages_run(clone.run(*target).stdout)
    (pictures / "train.txt").write_text("0000\n0001\n0010\n")
    (pictures / "test.txt").write_text("0002\n")
    clone.run(*target)
    assert splits(clone) == {"train": 3, "test": 1}
    for name in ("train.txt", "test.txt", "rgb/0010.png", "depth/0010.png"):
        (pictures / name).unlink()
    clone.run(*target)
    assert splits(clone) == {"train": 5, "test": 1}
    assert stages_run(clone.run(*target).stdout) == set()


def test_a_source_that_moved_is_one_line_that_names_its_setting(clone: Clone) -> None:
    pictures = clone.root.parent / "my_pictures"
    moved = pictures.rename(pictures.with_name("moved"))
    try:
        done = clone.run("dvc", "repro", check=False)
        assert "error: download.own.path: " in done.stderr and "Traceback" not in done.stderr
        assert clone.run("dvc", "status").returncode == 0
    finally:
        moved.rename(pictures)
        clone.run("dvc", "repro")


@pytest.mark.parametrize("place", ["data/raw/own", "data/own"])
def test_pictures_inside_the_project_are_read_in_place_and_stay(clone: Clone, place: str) -> None:
    folder = write_pictures(clone.root / place)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    before = (clone.root / "params.yaml").read_bytes()
    try:
        for unit in (0.001, 0.002):
            clone.change({"download.own.path": place, "download.own.depth_unit_m": unit})
            clone.run("dvc", "repro", "convert@own")
        clone.run("dvc", "repro", "--force", "convert@own")
    finally:
        (clone.root / "params.yaml").write_bytes(before)
    assert {path: path.read_bytes() for path in files} == files
    shutil.rmtree(folder)
    clone.run("dvc", "repro")


def test_depth_in_the_wrong_unit_stops_with_what_was_met(clone: Clone) -> None:
    before = (clone.root / "params.yaml").read_bytes()
    clone.change({"download.own.depth_unit_m": 1.0})
    try:
        done = clone.run("dvc", "repro", "convert@own", check=False)
        assert "no train frame has a pixel of valid depth" in done.stderr
        assert "all depth beyond max_depth_m 10 m" in done.stderr
    finally:
        (clone.root / "params.yaml").write_bytes(before)
        clone.run("dvc", "repro")


def test_names_that_urls_treat_specially_stay_apart(clone: Clone) -> None:
    pictures = clone.root.parent / "odd_names"
    for i, name in enumerate(("a#1", "a?1", "a%1", "a 1", "a%231", "a_1", "ä1")):
        write_pair(pictures, name, i)
    (pictures / "test.txt").write_text("a#1\na?1\na%1\na%231\n", encoding="utf-8-sig")
    (pictures / "train.txt").write_text("a 1\na_1\nä1\n", encoding="utf-16")
    before = (clone.root / "params.yaml").read_bytes()
    clone.change({"download.own.path": str(pictures), "evaluate.examples": 8})
    try:
        clone.run("dvc", "repro")
        examples = pd.read_csv(clone.root / "data/evaluated/own/full/0/examples.csv")
        assert set(examples["frame"]) == {"a#1", "a?1", "a%1", "a%231"}
        folders = list((clone.root / "data/evaluated/own/full/0/scenes").iterdir())
        assert len(folders) == 4 and not any(set("#?%") & set(f.name) for f in folders)
        run = json.loads((clone.root / "data/trained/own/full/0/run.json").read_text())["run_id"]
        images = list((clone.root / "mlartifacts" / run / "artifacts/images").glob("*.png"))
        assert len(images) == 4
    finally:
        (clone.root / "params.yaml").write_bytes(before)
        clone.run("dvc", "repro")


def test_a_project_that_was_copied_logs_into_its_own_folder(clone: Clone, tmp_path: Path) -> None:
    copy = tmp_path / "copied"
    shutil.copytree(clone.root, copy, symlinks=True)
    old = {path for path in (clone.root / "mlartifacts").rglob("*")}
    command = ("dvc", "repro", "--force", "--single-item", "evaluate@own-full-0")
    clone.run(*command, cwd=copy)
    assert {path for path in (clone.root / "mlartifacts").rglob("*")} == old
    code = (
        "import mlflow; runs = mlflow.MlflowClient('sqlite:///mlflow.db').search_runs(['1'])\n"
        "print({run.info.artifact_uri.rsplit('/', 3)[0] for run in runs})"
    )
    printed = clone.run(sys.executable, "-c", code, cwd=copy).stdout.splitlines()[-1]
    assert printed == str({copy.as_uri()})


def test_a_turned_picture_has_its_depth_turned_with_it(clone: Clone) -> None:
    """Orientation 3 of an image whose depth was made from the stored pixels."""
    pictures = clone.root.parent / "turned"
    write_pictures(pictures)
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in (pictures / "rgb").iterdir():
        Image.open(path).save(path, exif=exif)
    before = (clone.root / "params.yaml").read_bytes()
    clone.change({"download.own.path": str(pictures)})
    try:
        done = clone.run("dvc", "repro", "convert@own")
        assert "6 turned with their depth, EXIF orientation 3" in done.stdout
    finally:
        (clone.root / "params.yaml").write_bytes(before)
        clone.run("dvc", "repro")
