"""Several machines fill one matrix: a shared DVC remote, one MLflow server, three clones."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from support.clones import Clone, stages_run
from support.servers import free_port, serving

# MLflow's own, of SQLAlchemy
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
HALVES = ("full", "depth_only")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{tmp_path / 'server/runs.db'}", "--workers", "1",
        "--artifacts-destination", str(tmp_path / "server/artifacts"),
    ]  # fmt: skip
    with serving(command, f"http://127.0.0.1:{port}/health", tmp_path / "server"):
        yield f"http://127.0.0.1:{port}"


def copy_of(clone: Clone, root: Path) -> Clone:
    """Another machine's clone of the same commit."""
    other = Clone.__new__(Clone)
    other.root, other.connections = root, root.parent / "connections.txt"
    root.parent.mkdir(parents=True)
    subprocess.run(["git", "clone", "-q", clone.root, root], check=True)
    other.variables = clone.variables
    return other


def test_two_machines_train_half_the_matrix_each_and_a_third_reports_it(
    tmp_path: Path, server: str
) -> None:
    first = Clone(tmp_path / "first/hded")
    first.variables = {"MLFLOW_TRACKING_URI": server}
    first.change({"run.datasets": ["nyu"], "run.variants": list(HALVES)})
    # a file of weights, which each clone writes at a time of its own
    slim = {"encoder": "efficientnet_lite0", "decoder": "bilinear", "width": 1.0, "weights": "hded"}
    first.change({f"network.{name}": value for name, value in slim.items()})
    first.run("dvc", "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    first.commit("two variants, a shared remote")
    second, third = (copy_of(first, tmp_path / name / "hded") for name in ("second", "third"))

    for clone, variant in zip((first, second), HALVES, strict=True):
        clone.run("dvc", "repro", f"evaluate@nyu-{variant}-0")
        clone.run("dvc", "push", "--run-cache")

    done = third.run("dvc", "repro", "--pull")
    assert stages_run(done.stdout) == {"report"}  # the rest was brought from the remote
    assert not list((third.root / "data").glob("checkpoints/*/*.pt"))
    finished = {
        run.info.run_name: run.info.status
        for run in MlflowClient(server).search_runs(["1"])
        if run.data.tags["stage"] == "evaluate"
    }
    assert finished == {f"nyu-{variant}-seed0": "FINISHED" for variant in HALVES}
    table = pd.read_csv(third.root / "reports/tables/table3.csv")
    ours = table[(table["kind"] == "ours") & table["value"].notna()]
    assert {name.split()[0] for name in ours["row"]} == set(HALVES)
