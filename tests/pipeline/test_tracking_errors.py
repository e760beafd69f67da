"""Each failure of MLflow is one line with its own cause and its own cure."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from support.http_server import MisbehavingServer
from support.imports import ROOT
from support.servers import free_port

CODE = "from hded.common import cli; from pipeline.lib.tracking import track\n"
CODE += "def main():\n    with track('t', {}): pass\n"
CODE += "cli.run(main)"
DELETE = (
    "from mlflow import MlflowClient; client = MlflowClient('sqlite:///mlflow.db')\n"
    "client.delete_experiment(client.get_experiment_by_name('hded').experiment_id)"
)


def run(
    folder: Path, code: str = CODE, uri: str | None = None, arguments: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    env |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    env.pop("DVC_ROOT", None)
    env = {k: v for k, v in env.items() if k != "MLFLOW_TRACKING_URI"}
    env |= {} if uri is None else {"MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (found,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    return found


ADDRESSES = {
    "file:///tmp/mlruns": "takes no folders any more",
    "mlruns": "takes no folders any more",
    "127.0.0.1:5000": "takes no folders any more",
    "htp://127.0.0.1:5000": "is not an address that MLflow knows",
    "http:/127.0.0.1:5000": "is not an address that MLflow knows",
    "sqlite://mlflow.db": "is not an address that MLflow knows",
    "postgresql://127.0.0.1/runs": "needs a driver that is not installed",
    "sqlite:////tmp": "cannot be opened or created",
}
# one process for all, since importing MLflow takes seconds
EACH = """
import json, os, sys
from hded.common.errors import HDEDError
from pipeline.lib.tracking import track
found = {}
for uri in json.loads(sys.argv[1]):
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        with track("t", {}):
            pass
    except HDEDError as error:
        found[uri] = str(error)
print(json.dumps(found))
"""


def test_an_address_that_mlflow_does_not_take_is_told_as_such(tmp_path):
    done = run(tmp_path, EACH, arguments=[json.dumps(list(ADDRESSES))])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for uri, words in ADDRESSES.items():
        assert words in found[uri] and "does not answer" not in found[uri]
        assert "\n" not in found[uri]


def test_a_server_that_is_not_there_does_not_answer(tmp_path):
    said = line(run(tmp_path, uri=f"http://127.0.0.1:{free_port()}"))
    assert "does not answer" in said and "start its server" in said


def test_a_file_that_is_no_database_is_not_called_a_server(tmp_path):
    (tmp_path / "runs.db").write_text("no database, but longer than SQLite's header is\n" * 9)
    said = line(run(tmp_path, uri=f"sqlite:///{tmp_path / 'runs.db'}"))
    assert "is damaged, or no database" in said and "server" not in said


def test_a_web_server_of_another_kind_is_told_as_such(tmp_path):
    with MisbehavingServer() as server:
        said = line(run(tmp_path, uri=f"http://127.0.0.1:{server.server_port}"))
    assert "answers, but is no MLflow server" in said


@pytest.mark.slow
def test_a_deleted_experiment_and_another_versions_database_have_cures_of_their_own(tmp_path):
    assert run(tmp_path).returncode == 0
    assert run(tmp_path, DELETE).returncode == 0
    assert "mlflow experiments restore" in line(run(tmp_path))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '27a6a02d2cf1'")
    said = line(run(tmp_path))
    assert "another version of MLflow" in said
    assert said.endswith("run `mlflow db upgrade sqlite:///mlflow.db`")  # whole, not cut off


@pytest.mark.slow
def test_a_moved_projects_runs_have_their_artifacts_where_it_is_now(tmp_path):
    (tmp_path / "old").mkdir()
    assert run(tmp_path / "old").returncode == 0
    new = (tmp_path / "old").rename(tmp_path / "new")
    assert run(new).returncode == 0
    with closing(sqlite3.connect(new / "mlflow.db")) as database:
        places = [row[0] for row in database.execute("SELECT artifact_uri FROM runs")]
        places += [row[0] for row in database.execute(
            "SELECT artifact_location FROM experiments WHERE name = 'hded'"
        )]  # fmt: skip
    assert len(places) == 3
    assert all(place.startswith((new / "mlartifacts").as_uri()) for place in places)
