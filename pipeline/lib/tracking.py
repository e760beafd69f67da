"""MLflow tracking: one run per trained network, which later stages continue.

The database is `mlflow.db` in the project's root unless MLFLOW_TRACKING_URI is set. The root is
DVC's, so that experiments in temporary folders log to the same database. Metrics are logged in
batches, because every call takes about 15 ms.
"""

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from hded.common.cli import unwritable
from hded.common.errors import HDEDError, first_line
from hded.common.secrets import hide_secrets
from pipeline.lib.stage import project_root

EXPERIMENT = "hded"
EVALUATION = "evaluation"  # artifact folder: the output of the stage `evaluate`
OF_TRAINING = ("run.json", "history.csv")  # artifacts: outputs of the stage `train`
MAX_PARAM_CHARS = 6000
FIRST_RETRIES = 2  # of the first request, to fail within seconds; MLflow's default takes minutes


class Tracker:
    """A handle to one MLflow run, created by `track`."""

    def __init__(self, client: Any, run_id: str, uri: str) -> None:
        self._client = client
        self.run_id = run_id
        self.uri = uri

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings; nested mappings get dotted names."""
        from mlflow.entities import Param

        flat = {k: hide_secrets(str(v))[:MAX_PARAM_CHARS] for k, v in flatten(values).items()}
        self._client.log_batch(self.run_id, params=[Param(k, v) for k, v in flat.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log the metrics of one step in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, float(v), now, step) for name, v in values.items()]
        self._client.log_batch(self.run_id, metrics=batch)

    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run."""
        self._client.set_tag(self.run_id, key, value)

    def image(self, path: Path, key: str) -> None:
        """Log an image; MLflow's compare view shows images of equal `key` side by side."""
        from PIL import Image

        key = re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", key)  # characters that MLflow accepts
        with Image.open(path) as image:
            self._client.log_image(self.run_id, image, key=key, step=0, synchronous=True)

    def dataset(self, name: str, digest: str, source: str, context: str, **profile: Any) -> None:
        """Log a dataset that the run reads, for MLflow's Dataset column and its filters.

        digest: hash of the contents; source: kind of source, as in params.yaml; context: training,
        validation or testing; profile: further properties, as JSON values.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=name,
            # MLflow keeps only one input per digest, but a run reads several splits
            digest=f"{digest}-{context}",
            source_type=source,
            source=json.dumps({"source": source}),
            profile=json.dumps(profile, sort_keys=True),
        )
        tags = [InputTag("mlflow.data.context", context)]
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(entity, tags)])

    def artifacts(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or the files of a folder, into the artifact folder `folder`."""
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        log(self.run_id, str(path), folder)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An MLflow run with a logged evaluation."""

    run_id: str
    name: str
    params: dict[str, str]
    client: Any

    def fetch(self, folder: Path) -> None:
        """Download the run's `evaluation`, run.json and history.csv into a new `folder`."""
        from mlflow.exceptions import MlflowException

        folder.mkdir(parents=True)
        for name in (EVALUATION, *OF_TRAINING):
            try:
                self.client.download_artifacts(self.run_id, name, str(folder))
            except (MlflowException, OSError) as error:
                raise HDEDError(
                    f"MLflow run {self.run_id} ({self.name}): cannot download its artifact {name} "
                    f"({str(error)[:200]}); evaluate the network again"
                ) from error


def find_evaluated(text: str) -> Evaluated:
    """Return the run with this id, id prefix or name; of several with one name, the latest.

    Raises HDEDError where there is none, and for an ambiguous id prefix.
    """
    database = Path(_uri().removeprefix("sqlite:///"))
    if _uri().startswith("sqlite:///") and not database.exists():
        raise HDEDError(f"MLflow: there is no run yet ({database} is missing); run `dvc repro`")
    client, experiment_id = _open()
    runs, token = [], None
    while token is None or token:
        page = client.search_runs([experiment_id], page_token=token)
        runs += page
        token = page.token or ""
    # MLflow returns the newest runs first
    fitting = [r for r in runs if text and r.info.run_id.startswith(text)]
    if len(fitting) > 1:
        raise HDEDError(
            f"MLflow: {len(fitting)} runs have an id that begins with {text}; give more characters"
        )
    # a run that replaces one whose database was deleted
    fitting = fitting or [r for r in runs if r.data.tags.get("trained_run_id") == text]
    fitting = fitting or [r for r in runs if r.info.run_name == text]
    if not fitting:
        known = sorted({r.info.run_name for r in runs})
        names = f"; there are {', '.join(known[:10])}" if known else "; there is no run yet"
        raise HDEDError(f"MLflow: no run has the id or the name {text!r}{names}")
    for run in fitting:
        if any(f.path == EVALUATION for f in client.list_artifacts(run.info.run_id)):
            return Evaluated(run.info.run_id, run.info.run_name, dict(run.data.params), client)
    raise HDEDError(f"MLflow: run {text} was trained but not evaluated; run `dvc repro`")


def _open() -> tuple[Any, str]:
    """Return a client and the experiment's id; the database is created if it is missing."""
    # MLflow reads these variables when it is imported
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # it logs tracebacks of errors that we report in one line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    root = project_root()
    uri = _uri()
    # the lock prevents that two processes create the database at the same time
    with _mlflow_errors(FIRST_RETRIES), FileLock(root / "mlflow.db.lock"):
        if uri.startswith("sqlite:///"):
            _create(Path(uri.removeprefix("sqlite:///")))
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return client, experiment.experiment_id
        place = (root / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        return client, client.create_experiment(EXPERIMENT, artifact_location=place)


@contextmanager
def _mlflow_errors(retries: int | None = None) -> Iterator[None]:
    """Convert MLflow's errors to one-line HDEDErrors.

    retries: how often a request is repeated; None for MLflow's default. Errors of a disk that is
    full or read-only are not converted.
    """
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
    from mlflow.exceptions import MlflowException

    sets = retries is not None and not MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set()
    if sets:
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(retries)
    try:
        yield
    except MlflowException as error:
        if unwritable(error):
            raise
        raise HDEDError(
            f"MLflow at {portable(_uri())} does not answer ({first_line(error)}); start its "
            "server, or unset MLFLOW_TRACKING_URI, and run again"
        ) from error
    finally:
        if sets:
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.unset()


def _uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


@contextmanager
def track(name: str, tags: Mapping[str, str], run_id: str | None = None) -> Iterator[Tracker]:
    """Yield a new run named `name`, or continue the run `run_id`, and set its final status.

    Where `run_id` is not in the database (a fresh clone, a deleted file), a new run is created and
    tagged with that id.
    """
    client, experiment_id = _open()
    from mlflow.exceptions import MlflowException

    with _mlflow_errors():
        run = _find(client, run_id)
        if run is None:
            tags = {**tags, "trained_run_id": run_id} if run_id else tags
            run = client.create_run(experiment_id, run_name=name, tags=dict(tags))
        run_id = run.info.run_id
        client.update_run(run_id, status="RUNNING")  # a continued run has another status
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
        status: str | None = "FAILED"
        try:
            yield Tracker(client, run_id, _uri())
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except MlflowException:
            status = None  # a failing server would not accept a status
            raise
        finally:
            if status:
                client.set_terminated(run_id, status)


def unfinished(fit: Mapping[str, Any] | None, name: str) -> str | None:
    """Return the id of the run that began `fit`, if its name is `name` and it did not finish."""
    client, _ = _open()
    run = _find(client, fit["run_id"] if fit else None)
    if run is None or run.info.run_name != name or run.info.status == "FINISHED":
        return None
    return run.info.run_id


def _find(client: Any, run_id: str | None) -> Any:
    """Return a run; None where it is not in the database or is marked as deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException:
        return None
    return None if run is None or run.info.lifecycle_stage == "deleted" else run


def _create(database: Path) -> None:
    """Create the database atomically: MLflow cannot open one that a crash left incomplete."""
    from mlflow import MlflowClient

    if not database.exists():
        draft = database.with_name(f"{database.name}.part")
        draft.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{draft}")
        draft.replace(database)


def portable(uri: str) -> str:
    """Return a tracking URI without local folders and without secrets.

    Results must not contain paths of one machine, but links must still lead to the server.
    """
    if uri.startswith("sqlite:"):
        return f"sqlite:///{Path(uri).name}"
    return hide_secrets(uri).replace("...@", "")


def flatten(values: Mapping[str, Any], prefix: str = "", *, separator: str = ".") -> dict[str, Any]:
    """Return nested mappings as one mapping, with keys joined by `separator`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}{separator}", separator=separator)
        else:
            flat[f"{prefix}{key}"] = value
    return flat
