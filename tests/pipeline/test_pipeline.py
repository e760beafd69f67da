"""The whole pipeline in a clone of this project, on a tiny sample: real `dvc`, real MLflow."""

import json
import shutil
import sys
from collections.abc import Iterator

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from support.clones import Clone, stages_run

from hded.network.files import NAME, read_network

# MLflow's own, of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
STAGES = ("download", "convert", "defocus", "renderings", "train", "evaluate", "report")
VARIANTS = ("full", "wrong_focus", "sharp_input")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """The pipeline run on one dataset of two: the other one doubles the time."""
    clone = Clone(tmp_path_factory.mktemp("clone") / "hded")
    clone.change({"run.datasets": ["nyu"]})
    clone.commit("nyu alone")
    clone.run("dvc", "repro")
    yield clone


def test_every_stage_leaves_its_results(clone: Clone) -> None:
    check_results(clone, {"nyu": 7})


def check_results(clone: Clone, datasets: dict[str, int]) -> None:
    """Look for what every stage writes; datasets: their numbers of frames."""
    for dataset, frames in datasets.items():
        assert len(pd.read_csv(clone.root / f"data/frames/{dataset}/frames.csv")) == frames
        assert (clone.root / f"data/defocused/{dataset}/paper/store.json").is_file()
        shown = clone.root / "reports/defocus" / dataset / "paper"
        assert len(pd.read_csv(shown / "coc.csv")) > 100
        assert {"paper", "d3net", "syndof"} <= set(pd.read_csv(shown / "cameras.csv")["name"])
        with Image.open(shown / "contact_sheet.jpg") as sheet:
            assert sheet.width == 1100 and sheet.height > 300
        assert (clone.root / f"data/trained/{dataset}/full/0/weights.safetensors").is_file()
        rows = pd.read_csv(clone.root / f"data/evaluated/{dataset}/full/0/depth.csv")
        assert rows["frame"].nunique() == 3
        assert set(rows["method"]) == {"network", "median"}
    for table in (1, 2, 3, 4):
        for kind in ("md", "csv"):
            assert (clone.root / f"reports/tables/table{table}.{kind}").stat().st_size > 0
    assert "<html" in (clone.root / "reports/index.html").read_text(encoding="utf-8")


def test_no_network_is_asked_for_anything(clone: Clone) -> None:
    assert not clone.connections.exists(), clone.connections.read_text()
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    clone.run(sys.executable, "-c", code, check=False)
    assert "127.0.0.1" in clone.connections.read_text()  # it would have been noted
    clone.connections.unlink()


def test_aggregates_follow_from_the_rows(clone: Clone) -> None:
    folder = clone.root / "data/evaluated/nyu/full/0"
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = pd.read_csv(folder / "depth.csv").query("protocol == 'headline'")
    images = pd.read_csv(folder / "all_in_focus.csv").query("protocol == 'native'")
    for method in ("network", "median"):
        mean = sum(r := rows[rows["method"] == method]["rmse"].tolist()) / len(r)
        assert metrics["depth"]["headline"][method]["rmse"] == pytest.approx(mean, abs=1e-9)
    psnr = {m: images[images["method"] == m]["psnr"].mean() for m in ("network", "input")}
    gain = metrics["all_in_focus"]["native"]["gain"]["psnr"]
    assert gain == pytest.approx(psnr["network"] - psnr["input"], abs=1e-9)


def test_a_second_repro_does_nothing(clone: Clone) -> None:
    assert clone.would_run() == set()
    assert stages_run(clone.run("dvc", "repro").stdout) == set()
    lines = clone.run("dvc", "status").stdout.split()
    assert lines == ["inputs:", "always", "changed"]


def test_runs_are_named_tagged_and_hold_the_test_figures(clone: Clone) -> None:
    runs = {run["name"]: run for run in clone.mlflow_runs()}
    assert set(runs) == {
        "nyu-full-seed0", "nyu-defocus-paper",
    }  # fmt: skip
    blurred = runs["nyu-defocus-paper"]
    assert blurred["tags"]["stage"] == "defocus" and blurred["metrics"]["input/psnr"] > 15
    run = runs["nyu-full-seed0"]
    assert run["status"] == "FINISHED"
    wanted = {"dataset", "variant", "seed", "camera", "params_digest", "commit", "source", "stage"}
    assert wanted <= run["tags"].keys()
    assert run["params"]["train.lr"] and run["params"]["cameras.paper.name"] == "paper"
    figures = run["metrics"]
    assert "train/total" in figures
    # the headline has short names, the protocols' long ones stay
    assert figures["rmse"] == figures["test/depth/headline/network/rmse"]
    assert figures["psnr_gain"] == figures["test/all_in_focus/native/gain/psnr"]
    record = json.loads((clone.root / "data/trained/nyu/full/0/run.json").read_text())
    assert figures["train_seconds"] == record["wall_s"]
    assert run["tags"]["device"] == record["hardware"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("dataset.name = 'nyu'", {"nyu-full-seed0", "nyu-defocus-paper"}),
        ("dataset.context = 'testing'", {"nyu-full-seed0"}),
        ("dataset.name = 'nyu' AND dataset.context = 'training'", {"nyu-full-seed0"}),
        ("dataset.name = 'other'", set()),
    ],
)
def test_mlflow_finds_runs_by_their_datasets(clone: Clone, query: str, names: set[str]) -> None:
    client = MlflowClient(f"sqlite:///{clone.root / 'mlflow.db'}")
    runs = client.search_runs(["1"], filter_string=query)
    assert {run.info.run_name for run in runs} == names
    for run in runs:
        assert run.inputs is not None
        for given in run.inputs.dataset_inputs:
            assert given.dataset.digest and given.dataset.source_type == "sample"
            assert "frames" in json.loads(given.dataset.profile or "{}")
            assert str(clone.root) not in given.dataset.source


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("evaluate.examples", 4, {"evaluate", "report"}),
        ("train.loss.lambda", 0.02, {"train", "report"}),
        ("variants.full.train", {"loss": {"psi": 1.0}}, set(STAGES[3:])),
        ("variants.depth_only.description", "other words", {"renderings", "report"}),
        # the others follow when the images have changed
        ("cameras.paper.focus_distance_m", 1.5, {"defocus", "renderings", "report"}),
        ("convert.subset", 2, {"convert", "report"}),
    ],
)
def test_a_changed_setting_touches_only_the_stages_that_read_it(
    clone: Clone, key: str, value: object, stages: set[str]
) -> None:
    before = (clone.root / "params.yaml").read_bytes()
    clone.change({key: value})
    try:
        assert clone.would_run() == stages
    finally:
        (clone.root / "params.yaml").write_bytes(before)


@pytest.mark.slow
def test_a_changed_loss_weight_reruns_train_onward_and_going_back_trains_nothing(
    clone: Clone,
) -> None:
    before = (clone.root / "params.yaml").read_bytes()
    clone.change({"train.loss.lambda": 0.02, "run.datasets": ["nyu"]})
    try:
        ran = stages_run(clone.run("dvc", "repro").stdout)
    finally:
        (clone.root / "params.yaml").write_bytes(before)
    assert ran == {"train", "evaluate", "report"}
    assert "train" not in stages_run(clone.run("dvc", "repro").stdout)


def test_the_inputs_score_is_the_one_that_evaluation_finds(clone: Clone) -> None:
    """Two stages measure the defocused input: a reader may quote either."""
    check_input_scores(clone, "nyu")


def check_input_scores(clone: Clone, dataset: str) -> None:
    shown = json.loads((clone.root / f"reports/defocus/{dataset}/paper/input.json").read_text())
    metrics = json.loads((clone.root / f"data/evaluated/{dataset}/full/0/metrics.json").read_text())
    for metric in ("psnr", "ssim"):
        found = metrics["all_in_focus"]["native"]["input"][metric]
        assert shown[metric] == pytest.approx(found, abs=1e-9)


def test_dvc_shows_the_blur_as_metrics_and_plots(clone: Clone) -> None:
    shown = json.loads(clone.run("dvc", "metrics", "show", "--json").stdout)
    files = next(iter(shown.values()))["data"]
    assert files["reports/defocus/nyu/paper/input.json"]["data"]["psnr"] > 15
    clone.run("dvc", "plots", "show", "--out", str(clone.root.parent / "plots"))
    page = (clone.root.parent / "plots/index.html").read_text(encoding="utf-8")
    assert "Signed circle of confusion, nyu, paper" in page and "contact_sheet" in page
    assert "Training loss, nyu, full, seed 0" in page
    assert "Depth error over depth, nyu, full, seed 0" in page
    curve = pd.read_csv(clone.root / "reports/curves/nyu-full-0.csv")
    history = pd.read_csv(clone.root / "data/trained/nyu/full/0/history.csv")
    pd.testing.assert_frame_equal(curve, history)
    errors = pd.read_csv(clone.root / "reports/errors/nyu-full-0.csv")
    table = pd.read_csv(clone.root / "data/evaluated/nyu/full/0/error_by_depth.csv")
    assert list(errors["rmse_m"]) == list(table["rmse"])


@pytest.mark.slow
def test_a_list_of_distances_and_a_drawn_lens_reach_what_is_read_of_them(
    clone: Clone,
) -> None:
    before = (clone.root / "params.yaml").read_bytes()
    clone.change(
        {
            "run.datasets": ["nyu"],
            "cameras.paper.focus_distance_m": [1.5, 3.0],
            "train.refocus": "on_the_fly",
        }
    )
    try:
        clone.run("dvc", "repro")
        rows = pd.read_csv(clone.root / "data/evaluated/nyu/full/0/depth.csv")
        assert set(rows["focus_distance_m"]) == {1.5, 3.0} and rows["frame"].nunique() == 6
        table = (clone.root / "reports/tables/focus.md").read_text(encoding="utf-8")
        assert "| 1.5 m |" in table and "| 3 m |" in table
        clone.change(
            {
                "run.cameras": ["syndof"],
                "defocus.camera": "syndof",
                "defocus.renderer": "layered",
                "train.refocus": "stored",
            }
        )
        clone.run("dvc", "repro", "defocus@nyu-syndof")
        frames = pd.read_csv(clone.root / "data/defocused/nyu/syndof/frames.csv")
        assert frames["focus_distance_m"].nunique() > 4
        store = json.loads((clone.root / "data/defocused/nyu/syndof/store.json").read_text())
        assert store["attributes"]["camera"]["renderer"] == "layered"
    finally:
        (clone.root / "params.yaml").write_bytes(before)
        clone.run("dvc", "repro")


@pytest.mark.slow
def test_controls_are_trained_or_tested_without_the_blur_that_the_network_knows(
    clone: Clone,
) -> None:
    before = (clone.root / "params.yaml").read_bytes()
    clone.change({"run.datasets": ["nyu"], "run.variants": ["full", "wrong_focus", "sharp_input"]})
    try:
        clone.run("dvc", "repro")
        trained, evaluated = (clone.root / f"data/{name}/nyu" for name in ("trained", "evaluated"))
        # the same fit under another name is not done twice
        runs = {v: json.loads((trained / v / "0/run.json").read_text()) for v in VARIANTS}
        assert runs["full"]["run_id"] != runs["wrong_focus"]["run_id"]
        assert runs["full"]["wall_s"] == runs["wrong_focus"]["wall_s"] > 0
        states = {v: read_network(trained / v / "0" / NAME)[1] for v in VARIANTS}
        for name, tensor in states["full"].items():
            assert torch.equal(tensor, states["wrong_focus"][name])
        sharp = states["sharp_input"]
        assert any(not torch.equal(t, states["full"][n]) for n, t in sharp.items())
        # what each was tested on, told by the input's own score
        scores = {
            v: json.loads((evaluated / v / "0/metrics.json").read_text())["all_in_focus"]["native"]
            for v in ("full", "wrong_focus")
        }
        assert scores["full"]["input"]["psnr"] != scores["wrong_focus"]["input"]["psnr"] < 40
        record = json.loads((evaluated / "sharp_input/0/evaluation.json").read_text())
        assert record["reads"] == "sharp" and record["heads"] == ["depth"]
        table = (clone.root / "reports/tables/controls.md").read_text(encoding="utf-8")
        assert "tested on images focused at 4 m" in table
        assert r"sharp\_input" in table  # escaped, as Markdown needs
        check_comparison(clone)
    finally:
        (clone.root / "params.yaml").write_bytes(before)
        clone.run("dvc", "repro")


def check_comparison(clone: Clone) -> None:
    """Compare two runs out of MLflow alone, and refuse what cannot be compared."""
    compare = (sys.executable, "-m", "pipeline.compare")
    evaluated = clone.root / "data/evaluated"
    hidden = evaluated.rename(clone.root / "data/hidden")  # it is MLflow that is read
    try:
        done = clone.run(*compare, "nyu/full/0", "nyu-wrong_focus-seed0")
    finally:
        hidden.rename(evaluated)
    (line,) = [text for text in done.stdout.splitlines() if text.startswith("| RMSE")]
    shown = [float(cell.replace("−", "-")) for cell in line.split("|")[3:6]]
    for variant, value in zip(("full", "wrong_focus"), shown, strict=False):
        metrics = json.loads((evaluated / f"nyu/{variant}/0/metrics.json").read_text())
        assert value == pytest.approx(metrics["depth"]["headline"]["network"]["rmse"], abs=1e-4)
    assert shown[2] == pytest.approx(shown[0] - shown[1], abs=1.1e-4)
    page = (clone.root / "reports/comparison.html").read_text(encoding="utf-8")
    assert page.count("<article") == 3  # every scene is a fixed one: three are all there are
    assert "tested on images focused at 4 m" in page
    for runs, message in (
        (("nyu-full-seed0", "nobody"), "no run has the id or the name 'nobody'; there are nyu-"),
        (("nyu-full-seed0",), "arguments are required"),
    ):
        done = clone.run(*compare, *runs, check=False)
        assert done.returncode == 2
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    pictured = {}
    for run in (r for r in clone.mlflow_runs() if r["tags"]["stage"] in ("train", "evaluate")):
        tags = {"dataset", "variant", "seed", "camera", "params_digest", "commit"}
        assert tags <= set(run["tags"])
        images = (clone.root / "mlartifacts" / run["id"] / "artifacts/images").glob("*.png")
        if run["tags"]["stage"] == "evaluate":
            pictured[run["tags"]["variant"]] = {path.name.split("+")[0] for path in images}
    # named by scene, whatever the run, so that MLflow sets them side by side
    assert len(pictured["wrong_focus"]) == 3 and pictured["wrong_focus"] == pictured["sharp_input"]


def test_a_mistake_in_params_is_one_line_and_exit_status_2(clone: Clone) -> None:
    before = (clone.root / "params.yaml").read_bytes()
    clone.change({"train.lr": -1})
    try:
        command = (sys.executable, "-m", "pipeline.train")
        cell = ("--dataset", "nyu", "--variant", "full", "--seed", "0")
        done = clone.run(*command, *cell, check=False)
    finally:
        (clone.root / "params.yaml").write_bytes(before)
    assert done.returncode == 2
    assert done.stderr.startswith("error: params.yaml: train.lr is -1")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_deleted_database_loses_no_figure(clone: Clone) -> None:
    """A fresh clone has results without MLflow's database: evaluation starts a run in its place."""
    database = clone.root / "mlflow.db"
    kept = database.rename(clone.root / "mlflow.kept")
    try:
        clone.run("dvc", "repro", "--force", "--single-item", "evaluate@nyu-full-0")
        (run,) = clone.mlflow_runs()
        assert run["name"] == "nyu-full-seed0"
        trained = run["tags"]["trained_run_id"]
        assert (
            trained
            == json.loads((clone.root / "data/trained/nyu/full/0/run.json").read_text())["run_id"]
        )
        # found by the network that is here, although its run is gone
        compare = (sys.executable, "-m", "pipeline.compare", "nyu/full/0", "nyu-full-seed0")
        assert "are one run" in clone.run(*compare, check=False).stderr
        assert "test/depth/headline/network/rmse" in run["metrics"]
    finally:
        kept.replace(database)


@pytest.mark.slow
def test_an_experiment_with_another_rate_is_an_mlflow_run_of_its_own(clone: Clone) -> None:
    before = len(clone.mlflow_runs())
    clone.commit("results")
    targets = ["train@nyu-full-0"]
    clone.run("dvc", "exp", "run", "--temp", "-S", "train.lr=5e-4", "--name", "slower", *targets)
    runs = clone.mlflow_runs()
    assert len(runs) == before + 1
    (run,) = [run for run in runs if run["params"].get("train.lr") == "0.0005"]
    assert run["tags"]["dvc_experiment"] == "slower"
    assert run["status"] == "FINISHED"


@pytest.mark.slow
def test_official_files_of_a_users_own_folder_are_looked_at_each_time(clone: Clone) -> None:
    (sample,) = (path for path in (clone.root / "data/sample/nyu").iterdir() if path.is_dir())
    local = clone.root.parent / "official"
    shutil.copytree(sample, local)
    before = (clone.root / "params.yaml").read_bytes()
    clone.change({"download.nyu.source": str(local)})
    try:
        done = clone.run("dvc", "repro", "download@nyu")
        assert "figures are of other data than the benchmark's" in done.stderr
        assert stages_run(clone.run("dvc", "repro", "download@nyu").stdout) == set()
        with (local / "splits.mat").open("ab") as file:
            file.write(b"\0")
        assert stages_run(clone.run("dvc", "repro", "download@nyu").stdout) == {"download"}
        assert sorted(path.name for path in local.iterdir()) == [
            "nyu_depth_v2_labeled.mat", "splits.mat",
        ]  # fmt: skip
    finally:
        (clone.root / "params.yaml").write_bytes(before)
        clone.run("dvc", "repro", "download@nyu")


@pytest.mark.slow
def test_two_datasets_stand_beside_each_other(clone: Clone) -> None:
    """The last test: it adds runs to the database that the others count."""
    before = (clone.root / "params.yaml").read_bytes()
    clone.change({"run.datasets": ["nyu", "make3d"]})
    try:
        ran = stages_run(clone.run("dvc", "repro").stdout)
        assert ran == set(STAGES)
        check_results(clone, {"nyu": 7, "make3d": 6})
        check_input_scores(clone, "make3d")
        query = "dataset.name = 'make3d' AND dataset.context = 'training'"
        client = MlflowClient(f"sqlite:///{clone.root / 'mlflow.db'}")
        (run,) = client.search_runs(["1"], filter_string=query)
        assert run.info.run_name == "make3d-full-seed0"
        compare = (sys.executable, "-m", "pipeline.compare", "nyu/full/0", "make3d-full-seed0")
        assert "the frames differ" in clone.run(*compare, check=False).stderr
    finally:
        (clone.root / "params.yaml").write_bytes(before)
        clone.run("dvc", "repro")
