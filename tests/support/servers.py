"""Real server processes, which answer before a test goes on and are killed after it."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def serving(
    command: Sequence[str], url: str, folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a server in `folder` once `url` answers; kill it, and whatever it started, in the end."""
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + 120
        while not _answers(url):
            assert time.monotonic() < end and server.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
