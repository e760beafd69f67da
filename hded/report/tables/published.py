"""The paper's numbers as printed (Nazir et al., IEEE TCI 9:607-619, 2023, Tables I-IV).

`published.csv` has one line per printed cell: table, row, dataset, metric, value, note. Values keep
the printed spelling ("0.90" is not "0.9"). A line without a metric describes its row: `value`
describes the method, `note` is a footnote. Cells that the paper does not print are not in the file.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources

from hded.common.errors import HDEDError

PAPER = (
    "Nazir et al., Depth Estimation and Image Restoration by Deep Learning from Defocused Images, "
    "IEEE Transactions on Computational Imaging 9:607-619, 2023, DOI 10.1109/TCI.2023.3288335"
)
TABLES = ("I", "II", "III", "IV")
HEADER = ["table", "row", "dataset", "metric", "value", "note"]
_DEPTH = ("rmse", "abs_rel", "log10", "delta1", "delta2", "delta3")
_LAYER = frozenset({"size", "channels", "parameters"})
# the prefixes c1_ and c2_ stand for the two criteria of Make3D
MEASURES = frozenset(
    {"psnr", "ssim", *_DEPTH, *(f"c{criterion}_{name}" for criterion in (1, 2) for name in _DEPTH)}
)


@dataclass(frozen=True, slots=True)
class PublishedCell:
    """One printed cell: its value as the paper spells it, and a footnote or ""."""

    value: str
    note: str


@dataclass(slots=True)
class PublishedRow:
    """One printed row: its cells by metric, a description and a footnote ("" where there is none).

    description: the method's input and approach.
    """

    cells: dict[str, PublishedCell] = field(default_factory=dict)
    description: str = ""
    note: str = ""


PublishedRows = dict[str, PublishedRow]  # by the row's name, in the file's order


def published(table: str, dataset: str = "") -> PublishedRows:
    """Return the printed rows of one table ("I" to "IV") for one dataset ("" for Table I)."""
    text = (
        resources.files("hded.report.tables").joinpath("published.csv").read_text(encoding="utf-8")
    )
    return parse_published(text).get((table, dataset), {})


def parse_published(text: str) -> dict[tuple[str, str], PublishedRows]:
    """Return the rows in the text of `published.csv`, by (table, dataset).

    Raises HDEDError, naming the line, for an unknown table or metric, a value that should be a
    number and is not, and a cell that is given twice.
    """
    reader = csv.DictReader(text.splitlines())
    if reader.fieldnames != HEADER:
        raise HDEDError(f"published.csv: its first line must be {','.join(HEADER)}")
    tables: dict[tuple[str, str], PublishedRows] = {}
    for line, record in enumerate(reader, start=2):
        if None in record or None in record.values():
            raise HDEDError(f"published.csv, line {line}: must have {len(HEADER)} columns")
        table, metric, value = record["table"], record["metric"], record["value"]
        if table not in TABLES:
            raise HDEDError(f"published.csv, line {line}: table {table!r} is not one of {TABLES}")
        rows = tables.setdefault((table, record["dataset"]), {})
        row = rows.setdefault(record["row"], PublishedRow())
        if not metric:
            row.description, row.note = value, record["note"]
            continue
        known = _LAYER if table == "I" else MEASURES
        if metric not in known:
            raise HDEDError(
                f"published.csv, line {line}: metric {metric!r} is not one of {sorted(known)}"
            )
        if not value or (table != "I" and not _is_number(value)):
            raise HDEDError(f"published.csv, line {line}: value {value!r} is not a number")
        if metric in row.cells:
            raise HDEDError(f"published.csv, line {line}: {metric} of this row is given twice")
        row.cells[metric] = PublishedCell(value, record["note"])
    return tables


def abs_rel_bound(deltas: Iterable[float]) -> float:
    """Return the smallest AbsRel that delta1, delta2, delta3 (shares, 0 to 1) allow.

    A pixel outside delta_k has |error|/truth >= 1 - 1.25^-k, so on the same pixels
    AbsRel >= .2 (d2 - d1) + .36 (d3 - d2) + .488 (1 - d3).
    """
    delta1, delta2, delta3 = deltas
    first, second, third = (1 - 1.25**-k for k in (1, 2, 3))
    return first * (delta2 - delta1) + second * (delta3 - delta2) + third * (1 - delta3)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
