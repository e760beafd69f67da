"""Atomic training checkpoints; old ones are pruned.

A folder holds the checkpoints of one key, which stands for everything that the fit depends on: a
checkpoint of other settings, data or code is never resumed. A file is written under a temporary
name, flushed to the disk and renamed. When a fit is done, `finished.pt`, without the optimiser's
state, replaces its checkpoints, and the same fit is not computed a second time.
"""

import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from hded.common.errors import HDEDError, first_line
from hded.network.torch_io import load_tensors

FINISHED = "finished.pt"
LATEST = "latest.pt"
KEPT_KEYS = 8  # the most recent finished fits that are kept, beside those in use


class Checkpoints:
    """The checkpoints of the fit with `key`, in `root / key`.

    in_use: keys of fits whose results are in place; they are never pruned.
    """

    def __init__(self, root: Path, key: str, in_use: Collection[str] = ()) -> None:
        self.folder = root / key
        self._in_use = {key, *in_use}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the fit's lock; wait for another process, which may have outlived its parent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            place = self.folder.name
            print(
                f"waiting for another process that trains this network ({place})", file=sys.stderr
            )
            lock.acquire(poll_interval=0.5)
        try:
            yield
        finally:
            lock.release()

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the latest checkpoint by `state` (tensors, numbers, text, lists and mappings).

        Raises HDEDError where the disk is full or read-only; the old checkpoint is then kept.
        """
        self._write(LATEST, state)

    def finish(self, state: Mapping[str, Any]) -> None:
        """Replace the fit's checkpoint by its result, and prune the oldest finished fits.

        Unfinished fits are kept however old they are: hours of training can be resumed from them.
        """
        self._write(FINISHED, state)
        (self.folder / LATEST).unlink(missing_ok=True)
        others = sorted(
            (f for f in self.folder.parent.iterdir() if _done(f) and f.name not in self._in_use),
            key=lambda f: f.stat().st_mtime,
        )
        for folder in others[: -KEPT_KEYS or None]:
            shutil.rmtree(folder, ignore_errors=True)

    def load(self) -> dict[str, Any] | None:
        """Return the latest state, on the CPU; None where there is none or the fit is finished."""
        return self._read(LATEST)

    def result(self) -> dict[str, Any] | None:
        """Return what `finish` wrote; None while the fit is not done."""
        return self._read(FINISHED)

    def save_batch(self, content: Mapping[str, Any]) -> Path:
        """Write the tensors of a batch that stopped the fit, for inspection; return the file."""
        self._write("bad_batch.pt", content)
        return self.folder / "bad_batch.pt"

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        draft = self.folder / f"{name}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as stream:
                torch.save(dict(content), stream)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(self.folder / name)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError of its writer
            draft.unlink(missing_ok=True)
            raise HDEDError(
                f"checkpoint: cannot write {self.folder / name} ({first_line(error)}); free some "
                "space or make it writable, then run again: it resumes from the last one written"
            ) from error

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        try:
            return load_tensors(path)
        except FileNotFoundError:
            return None
        except HDEDError as error:
            raise HDEDError(f"checkpoint: {error}; delete it to start anew") from error


def _done(folder: Path) -> bool:
    return (folder / FINISHED).is_file() and not (folder / LATEST).is_file()
