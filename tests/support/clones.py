"""A clone of this project with a tiny sample: real git, real DVC, real MLflow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML
from support.imports import ROOT

# every setting that the tests rely on, whatever a user made of the file
TINY = {
    "run": {
        "datasets": ["nyu", "make3d"],
        "cameras": ["paper"],
        "variants": ["full"],
        "seeds": [0],
    },
    "convert.subset": None,
    "cameras.paper.focus_distance_m": 2.0,
    "download.nyu.sample": {"train": 4, "test": 3, "seed": 1},
    "download.make3d.sample": {"train": 3, "test": 3, "seed": 1},
    "network.width": 0.04,
    "train.epochs": 2,
    "train.batch_size": 4,
    "train.checkpoint": "last",
    "train.size_px": 64,
    "evaluate.examples": 3,
    "evaluate.robustness_frames": 1,
}


# every Python process that a command starts notes where it wants to connect
SITECUSTOMIZE = """
import os, socket
def note(address):
    with open(os.environ["CONNECTIONS"], "a") as file:
        file.write(f"{address}\\n")
def noting(function):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            note(address)
        return function(self, address)
    return connect
class Socket(socket.socket):
    connect, connect_ex = noting(socket.socket.connect), noting(socket.socket.connect_ex)
def resolve(host, *args, resolve=socket.getaddrinfo, **kwargs):
    note(host)
    return resolve(host, *args, **kwargs)
socket.socket, socket.getaddrinfo = Socket, resolve
"""


class Clone:
    """A copy of the project's files under git, and the commands run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.connections = root.parent / "connections.txt"
        self.variables: dict[str, str] = {}
        (root.parent / "site").mkdir(parents=True)
        (root.parent / "site/sitecustomize.py").write_text(SITECUSTOMIZE)
        files = self._git("ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
        for name in files:
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        # numba takes what it compiled for a file of the same date; compiling again takes 30 seconds
        being_written = shutil.ignore_patterns("*.tmp.*", "*.pyc.*")
        for folder in ("hded", "pipeline"):
            for cache in (ROOT / folder).rglob("__pycache__"):
                shutil.copytree(cache, root / cache.relative_to(ROOT), ignore=being_written)
        self._git("init", "-q")
        self.change(TINY)
        self.commit("start")

    def _git(self, *args: str, cwd: Path | None = None) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        command = ["git", *identity, *args]
        done = subprocess.run(
            command, cwd=cwd or self.root, capture_output=True, text=True, check=True
        )
        return done.stdout

    def commit(self, message: str) -> None:
        self._git("add", "-A")
        self._git("commit", "-qm", message)

    def change(self, values: dict[str, object]) -> None:
        yaml = YAML()
        path = self.root / "params.yaml"
        content = yaml.load(path)
        for key, value in values.items():
            *parents, last = key.split(".")
            section = content
            for parent in parents:
                section = section[parent]
            section[last] = value
        yaml.dump(content, path)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a user's shell with the environment's programs on its path."""
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HDED_DATA_DIR": str(self.root.parent / "downloads"),
            "PYTHONPATH": str(self.root.parent / "site"),
            "CONNECTIONS": str(self.connections),
        }
        foreign = (
            "MLFLOW_TRACKING_URI", "DVC_ROOT",
            # that it is a test, and that it be silent, nobody tells telemetry but our own code
            "MLFLOW_DISABLE_TELEMETRY", "DVC_NO_ANALYTICS", "DO_NOT_TRACK", "CI",
            "PYTEST_CURRENT_TEST", "PYTEST_VERSION",
        )  # fmt: skip
        kept = {k: v for k, v in os.environ.items() if k not in foreign}
        return kept | own | self.variables

    def run(
        self, *command: str, check: bool = True, cwd: Path | None = None, timeout_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=cwd or self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def would_run(self) -> set[str]:
        """Which stages have changed inputs now; those after them follow once they have run."""
        return stages_run(self.run("dvc", "repro", "--dry").stdout)

    def mlflow_runs(self) -> list[dict]:
        code = (
            "import json, mlflow\n"
            "runs = mlflow.MlflowClient('sqlite:///mlflow.db').search_runs(['1'])\n"
            "print(json.dumps([dict(id=r.info.run_id, name=r.info.run_name, status=r.info.status,"
            " tags=r.data.tags, params=r.data.params, metrics=r.data.metrics) for r in runs]))"
        )
        return json.loads(self.run(sys.executable, "-c", code).stdout.splitlines()[-1])


def stages_run(output: str) -> set[str]:
    """Which stages `dvc repro` says that it runs, without their cell and without `inputs`.

    That one looks at files outside the project, and runs each time.
    """
    lines = [line for line in output.splitlines() if line.startswith("Running stage")]
    return {line.split("'")[1].split("@")[0] for line in lines} - {"inputs"}
