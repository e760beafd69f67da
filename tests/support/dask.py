"""A Dask cluster of real processes on 127.0.0.1."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.servers import free_port


class Cluster:
    """A scheduler on 127.0.0.1 and workers, each a process of its own.

    elsewhere: a folder with modules of its own, where the scheduler is started; None: `folder`.
    dashboard: the port of its page; None: it has none.
    """

    def __init__(
        self,
        folder: Path,
        env: dict[str, str],
        elsewhere: Path | None = None,
        dashboard: int | None = None,
    ) -> None:
        self.folder, self.env = folder, env
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log = (folder.parent / f"dask-{self.address[-5:]}.log").open("wb")
        port = self.address.rsplit(":", 1)[1]
        page = (
            ["--dashboard-address", f"127.0.0.1:{dashboard}"] if dashboard else ["--no-dashboard"]
        )
        self.scheduler = self.start(
            "scheduler", "--host", "127.0.0.1", "--port", port, *page, cwd=elsewhere, path=elsewhere
        )

    def start(self, *command: str, cwd: Path | None = None, path: Path | None = None):
        env = {**self.env, "PYTHONPATH": str(path or self.folder)}
        process = subprocess.Popen(
            ["dask", *command], cwd=cwd or self.folder, env=env,
            stdout=self.log, stderr=self.log, start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def worker(self, *options: str, cwd: Path | None = None, path: Path | None = None):
        return self.start("worker", self.address, "--nthreads", "1", *options, cwd=cwd, path=path)

    def stop(self) -> None:
        for process in self.processes:
            with_children(process, signal.SIGKILL)
        self.log.close()


def with_children(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a process that was started in a session of its own, and to its children."""
    if process.poll() is None:
        os.killpg(process.pid, number)
        process.wait()


@contextmanager
def cluster(
    folder: Path,
    env: dict[str, str],
    workers: int = 0,
    elsewhere: Path | None = None,
    dashboard: int | None = None,
) -> Iterator[Cluster]:
    made = Cluster(folder, env, elsewhere, dashboard)
    try:
        for _ in range(workers):
            made.worker("--no-nanny")
        yield made
    finally:
        made.stop()
