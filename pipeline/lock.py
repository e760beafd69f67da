"""Repair DVC's own files, which a kill may have cut short and DVC then refuses to read.

    python -m pipeline.lock

`make repro` calls it before `dvc repro`. DVC writes dvc.lock in place: a whole one is copied here,
and one that was cut short is replaced by the last copy, so that only stages that ran since are
looked at again. DVC also writes .dvc/tmp/rwlock in place, the list of files that its processes use;
a list that was cut short is of no further use and is removed.
"""

import json
import re
import shutil
import time
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hded.common import cli
from hded.common.errors import HDEDError
from hded.common.files import replacing

LOCK = Path("dvc.lock")
COPY = Path(".dvc/tmp/dvc.lock.copy")
IN_USE = Path(".dvc/tmp/rwlock")
WRITING_TRIES = 10
CONFLICT = re.compile(r"^<<<<<<< ", re.MULTILINE)


def main() -> None:
    """Copy dvc.lock if it is whole; else put the copy in its place, or remove it without one."""
    for _ in range(WRITING_TRIES):
        if _is_json(IN_USE):
            break
        time.sleep(0.5)  # another DVC may be writing it
    else:
        IN_USE.unlink(missing_ok=True)
    if not LOCK.is_file():
        return
    if CONFLICT.search(LOCK.read_text(encoding="utf-8", errors="replace")):
        raise HDEDError(
            f"{LOCK} has the conflict markers of a merge; choose one side, such as `git checkout "
            "--theirs dvc.lock`, and run again: `dvc repro` completes it"
        )
    if _is_whole(LOCK):
        _copy(LOCK, COPY)
    elif COPY.is_file() and _is_whole(COPY):
        _copy(COPY, LOCK)
        print("dvc.lock was cut short by a kill: replaced by the copy of the last `make repro`")
    else:
        LOCK.unlink()
        print("dvc.lock was cut short by a kill: removed, every stage is looked at again")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as draft:
        shutil.copyfile(source, draft)


def _is_json(path: Path) -> bool:
    """Return whether a file holds JSON, or does not exist."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def _is_whole(path: Path) -> bool:
    """Return whether DVC would read a dvc.lock; one cut short may still be valid YAML."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        text = path.read_text(encoding="utf-8")
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(text))
    except (YAMLError, ValueError, Invalid):
        return False
    return text.endswith("\n")


if __name__ == "__main__":
    cli.run(main)
