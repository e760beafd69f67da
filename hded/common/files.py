"""One owner for each rule about files: hidden names, encodings, safe names, atomic writing."""

import codecs
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from hded.common.errors import HDEDError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden: `.DS_Store`, or the `._` companions that macOS writes."""
    return name.startswith(".")


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, or of a UTF-16 one with a byte order mark, without the mark.

    Raises HDEDError for other bytes, OSError where the file cannot be read.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith(_UTF16) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise HDEDError(f"{path}: is not UTF-8 text ({error}); save it as such") from error


def composed(name: str) -> str:
    """Return a name whose accented letters are single characters (Unicode NFC).

    macOS stores them as a letter and an accent: names that look alike are otherwise different.
    """
    return unicodedata.normalize("NFC", name)


def safe_name(name: str) -> str:
    """Return a name for a folder, a URL path and an MLflow artifact that stands for `name` alone.

    Names of letters, digits, `_`, `-`, `.` and spaces stay as they are. Other characters become
    `_`, followed by a digest, so that different names stay different.
    """
    safe = re.sub(r"[^A-Za-z0-9_\-. ]", "_", name)
    if safe == name:
        return name
    return f"{safe}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def draft_path(path: Path) -> Path:
    """Return where the draft of a file is written; a killed process may leave it there."""
    return path.with_name(f".{path.stem}.part{path.suffix}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a draft that replaces `path` at the end; after an error it is removed.

    A reader never finds half a file, and where `path` is a link, as into DVC's cache, the link is
    replaced and not what it points to.
    """
    draft = draft_path(path)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def write_csv(path: Path, table: pd.DataFrame, **options: Any) -> None:
    """Write a table as CSV atomically, without its index unless `options` say so."""
    with replacing(path) as draft:
        table.to_csv(draft, **{"index": False, **options})


def read_json(path: Path) -> dict[str, Any]:
    """Return a small JSON object, or an empty one if it is missing or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, content: Mapping[str, Any], *, allow_nan: bool = False) -> None:
    """Write a mapping as JSON atomically, with sorted keys, so that equal results are equal bytes.

    Raises ValueError for NaN and infinity, which JSON does not have (see `finite`), unless
    `allow_nan` writes them as Python reads them.
    """
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=allow_nan)
    write_text(path, text + "\n")


def finite(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings without the numbers that are NaN or infinite."""
    kept: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            kept[name] = finite(value)
        elif not isinstance(value, float) or math.isfinite(value):
            kept[name] = value
    return kept
