"""MLflow: one run a trained network, found again by the stages that follow.

The database is `mlflow.db` in the project's root unless MLFLOW_TRACKING_URI says otherwise; it is
found from DVC's own root, so experiments in temporary folders log to the same place. Figures are
buffered and written in one batch, since every call costs about 15 ms.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.stage import project_root

EXPERIMENT = "hded"
MAX_PARAM_CHARS = 6000


class Tracker:
    """One MLflow run. Made by `track`, not directly."""

    def __init__(self, client: Any, run_id: str, uri: str) -> None:
        self._client = client
        self.run_id = run_id
        self.uri = uri

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings, nested mappings by dotted names."""
        from mlflow.entities import Param

        flat = {k: str(v)[:MAX_PARAM_CHARS] for k, v in flatten(values).items()}
        self._client.log_batch(self.run_id, params=[Param(k, v) for k, v in flat.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log figures of one step in one call."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, float(v), now, step) for name, v in values.items()]
        self._client.log_batch(self.run_id, metrics=batch)

    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run."""
        self._client.set_tag(self.run_id, key, value)

    def artifacts(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or the files of a folder, under `folder`."""
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        log(self.run_id, str(path), folder)


@contextmanager
def track(name: str, tags: Mapping[str, str], run_id: str | None = None) -> Iterator[Tracker]:
    """Open a run named `name`, or the one with `run_id`, and close it with its true status.

    Where `run_id` is not in the database (a fresh clone, a deleted file) a new run takes its place,
    tagged with the id of the one that was trained.
    """
    # read by mlflow at import
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    root = project_root()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    # two processes must not create one new database
    with FileLock(root / "mlflow.db.lock"):
        if uri.startswith("sqlite:///"):
            _create(Path(uri.removeprefix("sqlite:///")))
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            local = uri.startswith("sqlite:")
            place = (root / "mlartifacts").as_uri() if local else None
            experiment_id = client.create_experiment(EXPERIMENT, artifact_location=place)
        else:
            experiment_id = experiment.experiment_id
    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException:
        run, tags = None, {**tags, "trained_run_id": str(run_id)}
    if run is None:
        run = client.create_run(experiment_id, run_name=name, tags=dict(tags))
    run_id = run.info.run_id
    client.update_run(run_id, status="RUNNING")  # one that was taken up again
    for key, value in tags.items():
        client.set_tag(run_id, key, value)
    status = "FAILED"
    try:
        yield Tracker(client, run_id, uri)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run_id, status)


def _create(database: Path) -> None:
    """Create a database beside its name: one that a crash left half made could not be opened."""
    from mlflow import MlflowClient

    if not database.exists():
        draft = database.with_name(f"{database.name}.part")
        draft.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{draft}")
        draft.replace(database)


def portable(uri: str) -> str:
    """Give a local database by its name alone: results must not hold paths of one machine."""
    return f"sqlite:///{Path(uri).name}" if uri.startswith("sqlite:") else uri


def flatten(values: Mapping[str, Any], prefix: str = "", *, separator: str = ".") -> dict[str, Any]:
    """Nested mappings to one mapping, names joined by `separator`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}{separator}", separator=separator)
        else:
            flat[f"{prefix}{key}"] = value
    return flat
