"""The paper's numbers as printed (Nazir et al., IEEE TCI 9:607-619, 2023, Tables I-IV).

`published.csv` holds a row a cell: table, row, dataset, metric, value, note. A value keeps the
paper's own spelling (".241", ".99"). A cell that nobody transcribed is not in the file and is shown
as a dash, never guessed; a row without metric and value says that the paper has such a row. To
complete the tables, add cells to the file.
"""

import csv
from dataclasses import dataclass
from importlib import resources

from hded.common.errors import HDEDError

PAPER = (
    "Nazir et al., Depth Estimation and Image Restoration by Deep Learning from Defocused Images, "
    "IEEE Transactions on Computational Imaging 9:607-619, 2023, DOI 10.1109/TCI.2023.3288335"
)
# what is known of Table III, whose cells nobody transcribed: both heads' PSNR less one head's [dB]
DEPTH_HEAD_HELPS_DB = "2.9"
TABLES = ("I", "II", "III", "IV")
HEADER = ["table", "row", "dataset", "metric", "value", "note"]
_DEPTH = ("rmse", "abs_rel", "abs_rel_bound", "log10", "delta1", "delta2", "delta3")
_LAYER = frozenset({"kernel", "scale", "size", "channels", "parameters"})
# Make3D's two criteria prefix the depth metrics
MEASURES = frozenset(
    {"psnr", "ssim", *_DEPTH, *(f"c{criterion}_{name}" for criterion in (1, 2) for name in _DEPTH)}
)


@dataclass(frozen=True, slots=True)
class Published:
    """One printed cell: the value as the paper spells it, and what there is to say about it."""

    value: str
    note: str


PublishedRows = dict[str, dict[str, Published]]  # row -> metric -> cell, in the file's order


def published(table: str, dataset: str = "") -> PublishedRows:
    """Give the printed cells of one table (I to IV) for one dataset ("" for Table I)."""
    text = (
        resources.files("hded.report.tables").joinpath("published.csv").read_text(encoding="utf-8")
    )
    return parse_published(text).get((table, dataset), {})


def parse_published(text: str) -> dict[tuple[str, str], PublishedRows]:
    """Parse the file's text to rows by (table, dataset).

    Raises HDEDError, naming the line, for an unknown table or metric, a value that is no number
    where a number is due, and a cell given twice.
    """
    reader = csv.DictReader(text.splitlines())
    if reader.fieldnames != HEADER:
        raise HDEDError(f"published.csv: its first line must be {','.join(HEADER)}")
    tables: dict[tuple[str, str], PublishedRows] = {}
    for line, record in enumerate(reader, start=2):
        if None in record or None in record.values():
            raise HDEDError(f"published.csv, line {line}: {len(HEADER)} columns are needed")
        table, metric, value = record["table"], record["metric"], record["value"]
        if table not in TABLES:
            raise HDEDError(f"published.csv, line {line}: table {table!r} is not one of {TABLES}")
        rows = tables.setdefault((table, record["dataset"]), {})
        cells = rows.setdefault(record["row"], {})
        if not metric and not value:
            continue
        known = _LAYER if table == "I" else MEASURES
        if metric not in known:
            raise HDEDError(
                f"published.csv, line {line}: metric {metric!r} is not one of {sorted(known)}"
            )
        if not value or (table != "I" and not _is_number(value)):
            raise HDEDError(f"published.csv, line {line}: value {value!r} is not a number")
        if metric in cells:
            raise HDEDError(f"published.csv, line {line}: {metric} of this row is given twice")
        cells[metric] = Published(value, record["note"])
    return tables


def abs_rel_bound(delta1: float, delta2: float, delta3: float) -> float:
    """Smallest AbsRel that the shares delta1..3 allow on the same pixels.

    A pixel outside delta_k has |error|/truth >= 1 - 1.25^-k, so
    AbsRel >= .2 (d2 - d1) + .36 (d3 - d2) + .488 (1 - d3).
    """
    first, second, third = (1 - 1.25**-k for k in (1, 2, 3))
    return first * (delta2 - delta1) + second * (delta3 - delta2) + third * (1 - delta3)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
