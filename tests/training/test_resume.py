"""A run is never lost: real processes, really killed, that go on where they stood."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from support.fit import TRAIN, Project
from support.servers import free_port, serving

from hded.common.errors import HDEDError
from hded.network.files import NAME, read_network
from hded.training.checkpoint import KEPT_KEYS, Checkpoints

# MLflow's own, of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def assert_same(one: Project, other: Project) -> None:
    (weights, history), (expected, expected_history) = one.result(), other.result()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    pd.testing.assert_frame_equal(history, expected_history, check_exact=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    code, errors = project.run()
    assert code == 0, errors
    return project


@pytest.mark.parametrize("saves", [(2,), pytest.param((1, 3), marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_ends_bit_identical(undisturbed, tmp_path, saves):
    project = Project(tmp_path)
    for count in saves:
        process = project.start_and_wait_for_saves(count)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "data/trained").exists()
    code, errors = project.run()
    assert code == 0, errors
    assert_same(project, undisturbed)
    (run,) = project.mlflow_runs()
    assert run.info.status == "FINISHED"
    # what the checkpoint held is gone: the finished one has no optimiser
    assert not project.files("latest.pt") and len(project.files("finished.pt")) == 1


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_a_killed_run_that_goes_on(undisturbed, tmp_path):
    # checkpoints come late, so that the one found is the interruption's own
    project = Project(tmp_path, checkpoint_minutes=1000, epochs=400)
    process = project.start()
    while not logged_epochs(project) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    (run,) = project.mlflow_runs()
    assert run.info.status == "KILLED"
    (file,) = project.files("latest.pt")
    state = torch.load(file, weights_only=True)
    assert state["run_id"] == run.info.run_id
    assert 1 < state["epoch"] < 400
    # taken up again with the same parameters, it goes on from there in the same run
    process = project.start()
    epochs = logged_epochs(project)
    while logged_epochs(project) == epochs and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    (run,) = project.mlflow_runs()
    assert run.info.status == "KILLED"
    assert torch.load(file, weights_only=True)["epoch"] > state["epoch"]


def logged_epochs(project: Project) -> int:
    """Ask the database alone: MLflow's client would change one that is being made."""
    try:
        with closing(sqlite3.connect(f"file:{project.root / 'mlflow.db'}?mode=ro", uri=True)) as db:
            query = "SELECT COUNT(*) FROM metrics WHERE key = 'train/total'"
            return db.execute(query).fetchone()[0]
    except sqlite3.OperationalError:
        return 0


@pytest.mark.slow
def test_a_tracking_server_that_dies_is_one_line_and_the_run_goes_on_with_it(undisturbed, tmp_path):
    port = free_port()
    project = Project(tmp_path / "project")
    project.variables = {
        "MLFLOW_TRACKING_URI": f"http://name:secret@127.0.0.1:{port}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    with tracking_server(tmp_path / "server", port):
        process = project.start_and_wait_for_saves(5)
    _, errors = process.communicate(timeout=100)
    line = errors.strip().splitlines()[-1]
    assert process.returncode == 2 and "Traceback" not in errors, errors
    assert line.startswith(f"error: MLflow at http://127.0.0.1:{port} does not answer")
    assert "secret" not in errors
    assert project.files("latest.pt")
    with tracking_server(tmp_path / "server", port):
        code, errors = project.run()
        assert code == 0, errors
        client = MlflowClient(f"http://127.0.0.1:{port}")
        (run,) = client.search_runs(["1"])
        assert run.info.status == "FINISHED"
        epochs = client.get_metric_history(run.info.run_id, "train/total")
        assert {metric.step for metric in epochs} == set(range(1, TRAIN["epochs"] + 1))
        assert {"model", "run.json"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
    assert_same(project, undisturbed)
    (written,) = (tmp_path / "project").rglob("run.json")
    assert "secret" not in written.read_text()


def tracking_server(folder: Path, port: int) -> AbstractContextManager[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    return serving(command, f"http://127.0.0.1:{port}/health", folder)


@pytest.mark.slow
def test_a_tracking_server_that_is_not_there_is_one_line_in_seconds(tmp_path):
    project = Project(tmp_path)
    project.variables = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    start = time.monotonic()
    code, errors = project.run()
    assert code == 2 and time.monotonic() - start < 60  # MLflow alone tries for four minutes
    (line,) = [text for text in errors.splitlines() if "error" in text]
    assert "does not answer" in line and "unset MLFLOW_TRACKING_URI" in line


@pytest.mark.slow
def test_a_finished_fit_is_not_done_again_unless_something_changed(undisturbed):
    weights, history = undisturbed.result()
    start = time.monotonic()
    code, errors = undisturbed.run()
    assert code == 0, errors
    again, history_again = undisturbed.result()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    pd.testing.assert_frame_equal(history, history_again)
    assert "train:" not in errors and time.monotonic() - start < 60
    first, second = sorted(undisturbed.mlflow_runs(), key=lambda run: run.info.start_time)
    assert second.data.tags["fitted_in_run"] == first.info.run_id
    assert second.data.metrics["train/total"] == first.data.metrics["train/total"]


@pytest.mark.slow
def test_a_second_process_waits_for_the_one_that_is_at_the_same_fit(undisturbed, tmp_path):
    project = Project(tmp_path)
    first = project.start_and_wait_for_saves(2)
    first.send_signal(signal.SIGSTOP)  # it holds the lock, and does not get done
    second = project.start()
    assert second.stderr is not None
    said = second.stderr.readline()
    assert said.startswith("waiting for another process that trains this network")
    os.killpg(first.pid, signal.SIGKILL)  # the lock goes with it
    first.communicate()
    _, errors = second.communicate(timeout=200)
    assert second.returncode == 0, errors
    assert_same(project, undisturbed)
    (run,) = project.mlflow_runs()
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_fit_taken_up_by_another_variant_is_told_in_a_run_of_its_own(undisturbed, tmp_path):
    """`wrong_focus` trains what `full` trains, and may meet its checkpoint."""
    project = Project(tmp_path)
    cut = tmp_path / "data/trained/nyu/depth_only/0/run.json"
    cut.parent.mkdir(parents=True)
    cut.write_text('{"fit": "')  # by a kill: nothing to do with this one
    process = project.start_and_wait_for_saves(10)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, errors = project.run(variant="wrong_focus")
    assert code == 0, errors
    last, first = project.mlflow_runs()
    assert (first.info.run_name, last.info.run_name) == ("nyu-full-seed0", "nyu-wrong_focus-seed0")
    assert last.data.tags["fitted_in_run"] == first.info.run_id
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    epochs = client.get_metric_history(last.info.run_id, "train/total")
    assert [metric.step for metric in epochs] == list(range(1, TRAIN["epochs"] + 1))
    _, weights = read_network(tmp_path / "data/trained/nyu/wrong_focus/0" / NAME)
    expected = undisturbed.result()[0]
    assert all(torch.equal(expected[name], t) for name, t in weights.items())


@pytest.mark.slow
def test_a_fit_of_other_settings_never_resumes_from_a_checkpoint(tmp_path):
    """Which settings, data and code a checkpoint is of, is tested with the key of a fit."""
    project = Project(tmp_path, epochs=2)
    process = project.start_and_wait_for_saves(2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    text = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("mu: 0.001", "mu: 0.002"))
    code, errors = project.run()
    assert code == 0, errors
    assert len(list((tmp_path / "data/checkpoints").iterdir())) == 2
    assert len(project.result()[1]) == 2


@pytest.mark.slow
def test_a_loss_of_nan_is_one_line_and_its_batch_is_there_to_be_looked_at(tmp_path):
    project = Project(tmp_path, optimizer="sgd", lr=1e30, schedule="step")
    code, errors = project.run()
    line = errors.strip().splitlines()[-1]
    assert code == 2 and line.startswith("error: training: ") and "Traceback" not in errors
    assert "epoch 1, step" in line
    (file,) = project.files("bad_batch.pt")
    assert str(file) in line
    batch = torch.load(file, weights_only=True)
    assert batch["defocused"].shape[1:] == (3, 32, 32) and batch["depth_m"].shape[1] == 1
    assert len(batch["indices"]) == len(batch["sharp"])
    (run,) = project.mlflow_runs()
    assert run.info.status == "FAILED"


# ---- checkpoints by themselves ----


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path, "key")
    assert checkpoints.load() is None and checkpoints.result() is None
    checkpoints.save({"step": 1, "weights": torch.arange(3.0), "history": [{"a": 0.1}]})
    checkpoints.save({"step": 2, "weights": torch.arange(4.0), "history": []})
    found = checkpoints.load()
    assert found is not None and found["step"] == 2 and found["weights"].tolist() == [0, 1, 2, 3]
    assert [file.name for file in checkpoints.folder.iterdir()] == ["latest.pt"]
    assert Checkpoints(tmp_path, "other").load() is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's full disk")
def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save({"step": 1})
    (checkpoints.folder / "latest.pt.part").symlink_to("/dev/full")
    with pytest.raises(HDEDError, match="No space left on device") as caught:
        checkpoints.save({"step": 2, "weights": torch.zeros(1 << 20)})
    assert "\n" not in str(caught.value) and "latest.pt" in str(caught.value)
    found = checkpoints.load()
    assert found is not None and found["step"] == 1
    # and with space again, it goes on
    checkpoints.save({"step": 3})
    found = checkpoints.load()
    assert found is not None and found["step"] == 3


def test_the_folders_of_old_keys_are_removed_when_a_fit_is_done(tmp_path):
    for i in range(KEPT_KEYS + 3):
        checkpoints = Checkpoints(tmp_path, f"key{i}")
        checkpoints.save({"step": i})
        if i:  # the oldest is not done: hours that can go on
            checkpoints.finish({"state": {}})
        os.utime(checkpoints.folder, (i, i))
    checkpoints.finish({"state": {}})
    kept = {folder.name for folder in tmp_path.iterdir()}
    assert kept == {"key0", *(f"key{i}" for i in range(2, KEPT_KEYS + 3))}
    assert checkpoints.load() is None and checkpoints.result() == {"state": {}}


def test_the_results_that_are_in_place_keep_their_fits(tmp_path):
    for i in range(KEPT_KEYS + 4):
        checkpoints = Checkpoints(tmp_path, f"key{i}", in_use={"key0", "key1"})
        checkpoints.finish({"state": {}})
        os.utime(checkpoints.folder, (i, i))
    kept = {folder.name for folder in tmp_path.iterdir()}
    assert {"key0", "key1"} <= kept and "key2" not in kept
    assert len(kept) == 2 + KEPT_KEYS + 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_checkpoint_that_memory_is_too_short_for_is_not_called_damaged(tmp_path):
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save({"weights": torch.zeros(100_000_000)})
    code = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from hded.common import cli; from hded.training.checkpoint import Checkpoints\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 10**8,) * 2)\n"
        "cli.run(Checkpoints(Path(sys.argv[1]), 'key').load)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is not enough memory")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"nothing that torch wrote", None])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save({"weights": torch.zeros(1000)})
    file = checkpoints.folder / "latest.pt"
    file.write_bytes(file.read_bytes()[:2000] if content is None else content)
    with pytest.raises(HDEDError, match=r"latest\.pt.*delete it"):
        checkpoints.load()


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save({"step": 1})
    torch.save({"bomb": Bomb()}, checkpoints.folder / "latest.pt")
    with pytest.raises(HDEDError, match="holds no tensors"):
        checkpoints.load()
    assert not (tmp_path / "executed").exists()
