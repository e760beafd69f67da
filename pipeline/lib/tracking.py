"""MLflow: one run for each trained network, to which later stages add.

The database is `mlflow.db` in the project's root unless MLFLOW_TRACKING_URI names another. The root
is DVC's, so that experiments in temporary folders log to the same database. Figures are written in
batches, since every call takes about 15 ms.
"""

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from hded.common.cli import unwritable
from hded.common.errors import HDEDError, first_line, hide_secrets
from pipeline.lib.stage import project_root

EXPERIMENT = "hded"
EVALUATION = "evaluation"  # artifact folder: the output of the stage `evaluate`
OF_TRAINING = ("run.json", "history.csv")  # artifacts: outputs of the stage `train`
TRAINED, DIGEST = "trained_run_id", "evaluation_digest"  # tags of runs
SQLITE = "sqlite:///"  # before the path of a database
MAX_PARAM_CHARS = 6000
FIRST_RETRIES = 2  # of the first request, seconds; later requests have MLflow's own, minutes
NO_DATABASE = (
    "cannot be opened or created: it is a folder, or lies in one that does not exist or cannot be "
    "written to; correct MLFLOW_TRACKING_URI, or unset it"
)


class Tracker:
    """One MLflow run, opened by `track`."""

    def __init__(self, client: Any, run_id: str, uri: str) -> None:
        self._client = client
        self.run_id = run_id
        self.uri = uri

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings; those of nested mappings have dotted names."""
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH

        flat = {k: hide_secrets(str(v))[:MAX_PARAM_CHARS] for k, v in flatten(values).items()}
        params = [Param(name, value) for name, value in flat.items()]
        for start in range(0, len(params), MAX_PARAMS_TAGS_PER_BATCH):
            batch = params[start : start + MAX_PARAMS_TAGS_PER_BATCH]
            self._client.log_batch(self.run_id, params=batch)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log the figures of one step, in one call."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, float(v), now, step) for name, v in values.items()]
        self._client.log_batch(self.run_id, metrics=batch)

    def steps(self, name: str) -> set[int]:
        """Return the steps at which a figure of this name was logged."""
        return {m.step for m in self._client.get_metric_history(self.run_id, name)}

    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run."""
        self._client.set_tag(self.run_id, key, value)

    def image(self, path: Path, key: str) -> None:
        """Log an image; MLflow's compare view shows images of equal `key` side by side."""
        from PIL import Image

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
class Training:
    """The run of a training, and what it was logged with, should it be in no database any more."""

    run_id: str
    name: str
    tags: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An MLflow run that has an evaluation."""

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
                    f"MLflow run {self.run_id} ({self.name}): its artifact {name} cannot be read "
                    f"({str(error)[:200]}); evaluate it again"
                ) from error


def find_evaluated(text: str, digest: str = "") -> Evaluated:
    """Return the run with this id, beginning of an id, or name; of several, the latest of the name.

    digest: of the evaluation that is meant, where the network `text` has several. Raises HDEDError
    where there is none, or where several ids begin so.
    """
    database = Path(_uri().removeprefix(SQLITE))
    if _uri().startswith(SQLITE) and not database.exists():
        raise HDEDError(f"MLflow: there is no run yet ({database} is missing); run `dvc repro`")
    client, experiment_id = _open()
    with _mlflow_errors():
        runs, token = [], None
        while token is None or token:
            page = client.search_runs([experiment_id], page_token=token)
            runs += page
            token = page.token or ""
        for run in _fitting(runs, text, digest):
            if any(f.path == EVALUATION for f in client.list_artifacts(run.info.run_id)):
                return Evaluated(run.info.run_id, run.info.run_name, dict(run.data.params), client)
    raise HDEDError(f"MLflow: run {text} was trained but not evaluated; run `dvc repro`")


def _fitting(runs: list[Any], text: str, digest: str) -> list[Any]:
    """Return the runs that `text` denotes, the best first; raises HDEDError where there is none."""
    # MLflow returns the newest runs first
    fitting = [r for r in runs if text and r.info.run_id.startswith(text)]
    if len(fitting) > 1:
        raise HDEDError(f"MLflow: {len(fitting)} runs have an id that begins with {text}")
    # evaluations that have a run of their own
    fitting += [r for r in runs if text and r.data.tags.get(TRAINED) == text]
    fitting.sort(key=lambda r: not digest or r.data.tags.get(DIGEST) != digest)
    fitting = fitting or [r for r in runs if r.info.run_name == text]
    if not fitting:
        known = sorted({r.info.run_name for r in runs})
        names = f"; there are {', '.join(known[:10])}" if known else "; there is no run yet"
        raise HDEDError(f"MLflow: no run has the id or the name {text!r}{names}")
    return fitting


def _open() -> tuple[Any, str]:
    """Return a client of the database, which is created if missing, and the experiment's id."""
    # read by mlflow at import
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # its tracebacks repeat errors that are reported in one line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    root = project_root()
    uri = _uri()
    # the lock prevents that two processes create the database at the same time
    with _mlflow_errors(FIRST_RETRIES), FileLock(root / "mlflow.db.lock"):
        if uri.startswith(SQLITE):
            database = Path(uri.removeprefix(SQLITE))
            if database.is_dir():  # MLflow would try for minutes
                raise HDEDError(f"MLflow at {portable(uri)} {NO_DATABASE}")
            _create(database)
        try:
            client = MlflowClient(uri)
        except ImportError as error:  # of the database's driver
            raise HDEDError(f"MLflow at {portable(uri)} {_cause(str(error))}") from error
        experiment = client.get_experiment_by_name(EXPERIMENT)
        place = (root / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        if experiment is not None:
            if _is_own(uri) and experiment.artifact_location != place:
                _relocate(Path(uri.removeprefix(SQLITE)), experiment.artifact_location, place)
            return client, experiment.experiment_id
        return client, client.create_experiment(EXPERIMENT, artifact_location=place)


@contextmanager
def _mlflow_errors(retries: int | None = None) -> Iterator[None]:
    """Report a failure of MLflow in one line, after `retries` (None: MLflow's own number)."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    sets = retries is not None and not MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set()
    if sets:
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(retries)
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        if unwritable(error):
            raise
        raise HDEDError(f"MLflow at {portable(_uri())} {_cause(str(error))}") from error
    finally:
        if sets:
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.unset()


def _cause(text: str) -> str:
    """Return what is wrong, by the text of MLflow's error, and what to do about it."""
    upgrade = f"mlflow db upgrade {portable(_uri())}"
    causes = {
        "out-of-date database schema": (
            "was written by another version of MLflow; install that version, or make a copy of "
            f"the database and run `{upgrade}`"
        ),
        "Can't locate revision": (
            "was written by a newer version of MLflow; install that version, or set "
            "MLFLOW_TRACKING_URI to another database"
        ),
        "must be in the 'active' state": (
            f"has a deleted experiment {EXPERIMENT!r}; restore it with `mlflow experiments "
            "restore --experiment-id ID`, or remove it for good with `mlflow gc`"
        ),
        "filesystem tracking backend": (
            "is a folder or no address, and MLflow takes no folders any more; set "
            "MLFLOW_TRACKING_URI to sqlite:////path/to/mlflow.db or http://host:port, or unset it"
        ),
        "unable to open database file": NO_DATABASE,
        "file is not a database": (
            "is damaged, or no database; restore it from a copy, or move it away: the next run "
            "creates a new one"
        ),
        "database is locked": ("is locked by another process; let that one end, and run again"),
        "error code 404": (
            "answers, but is no MLflow server; correct MLFLOW_TRACKING_URI, or unset it"
        ),
        "No module named": (
            f"needs a driver that is not installed ({first_line(text)}); install it, or set "
            "another MLFLOW_TRACKING_URI"
        ),
    }
    for words, cause in causes.items():
        if words in text:
            return cause
    for words in ("Invalid url", "unsupported URI", "Invalid SQLite URL", "Could not parse"):
        if words in text:
            return (
                "is not an address that MLflow knows; set MLFLOW_TRACKING_URI to "
                "sqlite:////path/to/mlflow.db or http://host:port, or unset it"
            )
    return (
        f"does not answer ({first_line(text)}); start its server, or unset MLFLOW_TRACKING_URI, "
        "and run again"
    )


def _uri() -> str:
    """Return MLflow's address; a database's relative path belongs to the project.

    In the temporary folder of an experiment it would be lost with that folder.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    path = uri.removeprefix(SQLITE)
    return uri if path == uri or path.startswith(":") else f"{SQLITE}{project_root() / path}"


@contextmanager
def track(name: str, tags: Mapping[str, str], run_id: str | None = None) -> Iterator[Tracker]:
    """Open a new run called `name`, or continue the one with `run_id`; close it with its status."""
    client, experiment_id = _open()
    with _mlflow_errors():
        run = _find(client, run_id) or client.create_run(experiment_id, run_name=name)
        with _running(client, run, tags) as tracker:
            yield tracker


@contextmanager
def track_evaluation(
    trained: Training, digest: str, tags: Mapping[str, str], settings: Mapping[str, Any]
) -> Iterator[Tracker]:
    """Open the run of an evaluation of a trained network; close it with its status.

    digest: of the evaluation's settings and data. An evaluation is logged to the run of its
    training, unless that holds one with another digest, or is not in the database (a fresh clone, a
    deleted file). It then has a run of its own, with the training's parameters, and the training's
    id as the tag `trained_run_id`. The same evaluation is never logged to two runs.
    """
    client, experiment_id = _open()
    with _mlflow_errors():
        run = training = _find(client, trained.run_id)
        if training is None or training.data.tags.get(DIGEST, digest) != digest:
            run = _evaluation_of(client, experiment_id, trained.run_id, digest)
        if run is None:
            run = client.create_run(experiment_id, run_name=trained.name)
            tags = {**trained.tags, **tags, TRAINED: trained.run_id}
            own = training.data.params if training else trained.settings
            settings = {**own, **settings}
        with _running(client, run, {**tags, DIGEST: digest}) as tracker:
            tracker.params(settings)
            yield tracker


def _evaluation_of(client: Any, experiment_id: str, trained: str, digest: str) -> Any:
    """Return the run of its own that an evaluation has; None where there is none."""
    wanted = f"tags.{TRAINED} = '{trained}' AND tags.{DIGEST} = '{digest}'"
    found = client.search_runs([experiment_id], wanted, max_results=1)
    return found[0] if found else None


@contextmanager
def _running(client: Any, run: Any, tags: Mapping[str, str]) -> Iterator[Tracker]:
    """Mark a run as running, with the tags; at the end write how it ended."""
    from mlflow.exceptions import MlflowException

    run_id: str = run.info.run_id
    client.update_run(run_id, status="RUNNING")  # a run that is continued
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
        status = None  # it could not be written
        raise
    finally:
        if status:
            client.set_terminated(run_id, status)


def unfinished(fit: Mapping[str, Any] | None, name: str) -> str | None:
    """Return the id of the run that computed `fit`, if it is called `name` and has not finished."""
    client, _ = _open()
    with _mlflow_errors():
        run = _find(client, fit["run_id"] if fit else None)
    if run is None or run.info.run_name != name or run.info.status == "FINISHED":
        return None
    return run.info.run_id


def _find(client: Any, run_id: str | None) -> Any:
    """Return a run; None where it is not in the database, or is marked as deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return None if run is None or run.info.lifecycle_stage == "deleted" else run


def _create(database: Path) -> None:
    """Create a database under a temporary name: a half-created one could not be opened."""
    from mlflow import MlflowClient

    if not database.exists():
        draft = database.with_name(f"{database.name}.part")
        draft.unlink(missing_ok=True)
        MlflowClient(f"{SQLITE}{draft}")
        draft.replace(database)


def _is_own(uri: str) -> bool:
    """Return whether a database is the project's own, whose artifacts lie in mlartifacts/."""
    return uri == f"{SQLITE}{project_root() / 'mlflow.db'}"


def _relocate(database: Path, old: str, new: str | None) -> None:
    """Update the artifacts' addresses in the database of a project that was moved or copied.

    MLflow stores absolute paths and has no call to change them: new artifacts would be written
    into the project's old folder.
    """
    if new is None or not old.startswith("file:"):
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        values = {"old": old, "new": new, "tail": len(old) + 1}
        connection.execute(
            "UPDATE experiments SET artifact_location = :new WHERE artifact_location = :old",
            values,
        )
        connection.execute(
            "UPDATE runs SET artifact_uri = :new || substr(artifact_uri, :tail) "
            "WHERE substr(artifact_uri, 1, :tail) = :old || '/'",
            values,
        )


def portable(uri: str) -> str:
    """Return the name of a local database, or a server's address without its secrets.

    Results must not contain paths of one machine, while links must lead to the server.
    """
    if uri.startswith("sqlite:"):
        return f"{SQLITE}{Path(uri).name}"
    return hide_secrets(uri).replace("...@", "")


def flatten(values: Mapping[str, Any], prefix: str = "", *, separator: str = ".") -> dict[str, Any]:
    """Return nested mappings as one mapping, their names joined by `separator`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}{separator}", separator=separator)
        else:
            flat[f"{prefix}{key}"] = value
    return flat
