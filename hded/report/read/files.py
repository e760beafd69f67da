"""Readers for the JSON and CSV files of earlier stages; an invalid file raises HDEDError."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hded.common.errors import HDEDError
from hded.records import REPAIR

TEXT = ["frame", "source_frame", "protocol", "method", "role", "camera", "name", "sigma_rule"]


class JsonObject:
    """A JSON object from a file, or a part of one; a missing key raises HDEDError."""

    def __init__(self, path: Path, content: Any = None) -> None:
        self._path = path
        self._content = _load(path) if content is None else content
        if not isinstance(self._content, dict):
            raise HDEDError(f"{path}: expected a JSON object; {REPAIR}")

    def __getitem__(self, key: str) -> Any:
        if key not in self._content:
            raise HDEDError(
                f"{self._path}: {key!r} is missing; another version of this program wrote it"
            )
        return self._content[key]

    def get(self, key: str, default: Any) -> Any:
        """Return the value of an optional key, or `default`."""
        return self._content.get(key, default)


def read_csv(path: Path, columns: Sequence[str], *, may_be_empty: bool = False) -> pd.DataFrame:
    """Return a table; raises HDEDError where it lacks one of `columns`, or has no rows.

    The columns of TEXT stay text: "0001" keeps its zeros, and "NA" is a valid name. All other
    columns are numbers, with NaN for an empty field.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        for name in table.columns.difference(TEXT):
            table[name] = pd.to_numeric(table[name])
    except FileNotFoundError:
        raise HDEDError(f"{path}: is missing; {REPAIR}") from None
    except (OSError, ValueError) as error:
        raise HDEDError(f"{path}: cannot be read ({error}); {REPAIR}") from error
    if missing := [name for name in columns if name not in table]:
        raise HDEDError(
            f"{path}: no column {missing[0]!r}; another version of this program wrote it, {REPAIR}"
        )
    if table.empty and not may_be_empty:
        raise HDEDError(f"{path}: has no rows; {REPAIR}")
    return table


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HDEDError(f"{path}: is missing; {REPAIR}") from None
    except (OSError, ValueError) as error:
        raise HDEDError(f"{path}: cannot be read ({error}); {REPAIR}") from error
