"""Repair of DVC's own files after it was killed while writing them.

    python -m pipeline.lock

`make repro` runs this first. DVC writes dvc.lock in place, and refuses to run with a truncated one.
It does not write while a stage runs, so each stage first makes a backup of dvc.lock. A restored
backup lacks at most one stage, which runs again. DVC also writes .dvc/tmp/rwlock in place (the
files that running processes read and write); a damaged one is deleted.
"""

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hded.common import cli

LOCK = Path("dvc.lock")
KEPT = Path(".dvc/tmp/dvc.lock.kept")
USERS = Path(".dvc/tmp/rwlock")
STAGE = "DVC_STAGE"  # environment variable that DVC sets for a stage


def keep() -> None:
    """Back up dvc.lock of the project's folder, if DVC runs this process as a stage."""
    if STAGE not in os.environ:
        return  # DVC has not read the file, so it may be truncated
    # a failed backup must not stop the stage
    with suppress(OSError):
        if LOCK.is_file() and KEPT.parent.is_dir():
            draft = KEPT.with_suffix(".part")
            shutil.copyfile(LOCK, draft)
            draft.replace(KEPT)


def mend() -> None:
    """Replace a truncated dvc.lock by the backup, or delete it if there is none."""
    if not _is_json(USERS):
        time.sleep(1)  # another DVC process may be writing it
        if not _is_json(USERS):
            USERS.unlink(missing_ok=True)
    if not LOCK.is_file() or _whole(LOCK):
        return
    if KEPT.is_file() and _whole(KEPT):
        draft = LOCK.with_name(f"{LOCK.name}.part")
        shutil.copyfile(KEPT, draft)
        draft.replace(LOCK)
        print("dvc.lock was truncated: restored from the backup of the last stage")
    else:
        LOCK.unlink()
        print("dvc.lock was truncated: deleted, DVC will check every stage again")


def _is_json(path: Path) -> bool:
    """Return whether a file is valid JSON or does not exist."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def _whole(path: Path) -> bool:
    """Return whether a dvc.lock is complete; a truncated one may still be valid YAML."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        text = path.read_text(encoding="utf-8")
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(text))
    except (YAMLError, ValueError, Invalid):
        return False
    return text.endswith("\n")


if __name__ == "__main__":
    cli.run(mend)
