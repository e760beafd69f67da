"""DVC's own files made whole after a kill, which it would refuse to go on with.

    python -m pipeline.lock

`make repro` does it first. DVC writes dvc.lock in place. While a stage runs it does not write, so
each stage keeps a copy that is whole; what was noted after it is one stage, which runs again. It
writes .dvc/tmp/rwlock in place too, what each process reads and writes: after a kill that is of no
use any more, and goes.
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
STAGE = "DVC_STAGE"  # set by DVC for what it runs


def keep() -> None:
    """Copy dvc.lock, in the project's folder, where DVC has read it to run this stage."""
    if STAGE not in os.environ:
        return  # nobody has: it may be cut
    # a disk that takes no copy must not end a stage that does not need it
    with suppress(OSError):
        if LOCK.is_file() and KEPT.parent.is_dir():
            draft = KEPT.with_suffix(".part")
            shutil.copyfile(LOCK, draft)
            draft.replace(KEPT)


def mend() -> None:
    """Put the copy in the place of a dvc.lock that was cut short; without one, remove it."""
    if not _is_json(USERS):
        time.sleep(1)  # unless another DVC was just writing it
        if not _is_json(USERS):
            USERS.unlink(missing_ok=True)
    if not LOCK.is_file() or _whole(LOCK):
        return
    if KEPT.is_file() and _whole(KEPT):
        draft = LOCK.with_name(f"{LOCK.name}.part")
        shutil.copyfile(KEPT, draft)
        draft.replace(LOCK)
        print("dvc.lock was cut short by a kill: taken back to the last stage's start")
    else:
        LOCK.unlink()
        print("dvc.lock was cut short by a kill: every stage is looked at anew")


def _is_json(path: Path) -> bool:
    """Return whether a file is whole, or not there."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def _whole(path: Path) -> bool:
    """Return whether DVC would take a dvc.lock; a truncated one may still be valid YAML."""
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
