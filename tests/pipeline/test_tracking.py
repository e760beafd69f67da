"""An evaluation is logged to its training's run, or to one of its own where that holds another."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hded.common.errors import HDEDError
from pipeline.lib.tracking import EVALUATION, Training, find_evaluated, track, track_evaluation

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NAME = "nyu-full-seed0"
ABSENT = "0" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project's folder with an MLflow database of its own, whose creation takes seconds."""
    root = tmp_path_factory.mktemp("tracking")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_ROOT", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        os.chdir(root)
        yield root
        os.chdir(before)


@pytest.fixture
def trained(folder: Path) -> Training:
    with track(NAME, {"device": "the training's", "variant": "full"}) as tracker:
        tracker.params({"train": {"lr": 1e-3}})
    tags, settings = {"device": "of its record"}, {"train": {"lr": 2e-3}}
    return Training(tracker.run_id, NAME, tags, settings)


def evaluate(
    record: Training, folder: Path, digest: str, focus: float, rmse: float
) -> tuple[str, Any]:
    """Log an evaluation as the stage does; return its run's id and the run."""
    file = folder / "evaluation.json"
    file.write_text("{}")
    tags = {"evaluation_device": f"that of {digest}"}
    settings = {"evaluate": {"focus_distance_m": focus}}
    with track_evaluation(record, digest, tags, settings) as tracker:
        tracker.metrics({"rmse": rmse})
        tracker.artifacts(file, EVALUATION)
    return tracker.run_id, tracker._client.get_run(tracker.run_id)


def test_each_evaluation_of_a_network_keeps_its_figures(trained: Training, folder: Path):
    first, run = evaluate(trained, folder, "aaa", 2.0, 0.5)
    assert first == trained.run_id
    assert run.data.tags["device"] == "the training's"
    assert run.data.tags["evaluation_device"] == "that of aaa"
    assert run.data.params == {"train.lr": "0.001", "evaluate.focus_distance_m": "2.0"}

    second, run = evaluate(trained, folder, "bbb", 4.0, 0.9)
    assert second != first and run.info.run_name == NAME
    assert run.data.tags["trained_run_id"] == first
    assert run.data.params == {"train.lr": "0.001", "evaluate.focus_distance_m": "4.0"}

    # again, in the other order: each has its run
    assert evaluate(trained, folder, "bbb", 4.0, 0.9)[0] == second
    again, run = evaluate(trained, folder, "aaa", 2.0, 0.5)
    assert again == first and run.data.metrics["rmse"] == 0.5

    # the network's folder says which of its evaluations it holds
    assert find_evaluated(first, "aaa").run_id == first
    found = find_evaluated(first, "bbb")
    assert found.run_id == second and found.params["evaluate.focus_distance_m"] == "4.0"
    assert find_evaluated(first).run_id in {first, second}
    assert find_evaluated(second[:9]).run_id == second


def test_an_evaluation_whose_training_is_in_no_database_has_the_settings_of_its_record(
    trained: Training, folder: Path
):
    lost = replace(trained, run_id=ABSENT)
    run_id, run = evaluate(lost, folder, "ccc", 2.0, 0.7)
    assert run.data.tags["trained_run_id"] == ABSENT
    assert run.data.tags["device"] == "of its record"
    assert run.data.params == {"train.lr": "0.002", "evaluate.focus_distance_m": "2.0"}
    assert evaluate(lost, folder, "ccc", 2.0, 0.7)[0] == run_id
    assert find_evaluated(ABSENT).run_id == run_id


def test_a_run_without_an_evaluation_cannot_be_compared(trained: Training, folder: Path):
    with pytest.raises(HDEDError, match="was trained but not evaluated"):
        find_evaluated(trained.run_id)


def test_an_error_of_the_stage_itself_is_not_called_mlflows(folder: Path):
    with pytest.raises(ImportError, match="of the stage"), track(NAME, {}):
        raise ImportError("of the stage")


def test_a_run_takes_more_settings_than_one_request(folder: Path):
    settings = {f"camera {i}": {f"setting {k}": k for k in range(12)} for i in range(20)}
    with track(NAME, {}) as tracker:
        tracker.params(settings)
    logged = tracker._client.get_run(tracker.run_id).data.params
    assert len(logged) == 240 and logged["camera 19.setting 11"] == "11"


def test_a_relative_database_is_the_projects_also_in_an_experiment(tmp_path, monkeypatch):
    """DVC runs an experiment in a temporary folder, which it deletes."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "temporary")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/mine.db")
    with track("x", {}):
        pass
    assert (tmp_path / "runs/mine.db").stat().st_size > 0
    assert not list((tmp_path / "temporary").iterdir())
