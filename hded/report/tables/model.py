"""Data model of a table: parts, columns, rows, cells and notes.

`build`, `architecture` and others create tables; `rendering` and the page's template write them as
Markdown, CSV, LaTeX and HTML.
"""

import math
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from string import ascii_lowercase
from typing import Literal

MISSING = "–"
Kind = Literal["paper", "ours", "baseline", "plain"]
KIND_TITLES: dict[Kind, str] = {
    "paper": "Published, as printed",
    "ours": "Ours",
    "baseline": "Trivial baselines",
    "plain": "",
}
KIND_PREFIXES = {"paper": "Paper: ", "ours": "Ours: ", "baseline": "Baseline: ", "plain": ""}


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `key` names it in the CSV, and neighbours of one `group` share a heading."""

    key: str
    label: str
    group: str = ""
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """The displayed text, its full value, and its notes; an empty cell has a note."""

    text: str
    value: str = ""  # for the CSV, full precision; "" where there is none
    std: str = ""
    seeds: int = 0
    best: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A row: a method, layer, camera or depth."""

    kind: Kind
    label: str
    cells: tuple[Cell, ...]
    detail: str = ""
    notes: tuple[str, ...] = ()

    @property
    def named(self) -> str:
        """The label and the row's kind: the paper's, ours, or a baseline."""
        return KIND_PREFIXES[self.kind] + self.label


@dataclass(frozen=True, slots=True)
class Part:
    """Rows under one set of columns, and the protocols by which they were measured."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    statements: tuple[tuple[str, str], ...] = ()  # title, sentence
    further: bool = False  # a protocol that is not in the paper's layout
    heading: str = "Method"  # of the column of row labels

    @property
    def letters(self) -> dict[str, str]:
        """Return the letter of each note, in order of appearance."""
        seen: dict[str, str] = {}
        for row in self.rows:
            for note in (*row.notes, *(n for cell in row.cells for n in cell.notes)):
                seen.setdefault(note, letter(len(seen)))
        return seen

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Return the headings over adjacent columns, with the number of columns each spans."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans

    @property
    def bodies(self) -> list[tuple[str, list[Row]]]:
        """Return groups of adjacent rows of one kind, with the kind's title.

        Where the paper's rows and ours alternate, they form one group without a title, and each
        row's label has a prefix instead.
        """
        paired = any(a.kind == "ours" and b.kind == "paper" for a, b in pairwise(self.rows))
        titles = {**KIND_TITLES, **({"paper": "", "ours": ""} if paired else {})}
        return [
            (title, list(rows)) for title, rows in groupby(self.rows, lambda row: titles[row.kind])
        ]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `number` is the paper's or a letter, `name` that of the file."""

    number: str
    name: str
    title: str
    parts: tuple[Part, ...]
    intro: tuple[str, ...] = field(default=())


def missing(*notes: str) -> Cell:
    """Return an empty cell, a dash, with its reason as a note."""
    return Cell(MISSING, notes=notes)


def measured(values: Sequence[float], digits: int, *, signed: bool = False) -> Cell:
    """Return mean ± sample standard deviation over seeds, or a single value alone.

    Infinity is shown as ∞ (the PSNR of a perfect image); a NaN is a missing value.
    """
    mean = sum(values) / len(values)
    if math.isnan(mean):
        return missing("undefined: the value is not a number (no valid pixel, or ∞ - ∞ dB)")
    text, std = number(mean, digits, signed=signed), ""
    if len(values) > 1 and math.isfinite(mean):
        spread = statistics.stdev(values)
        text, std = f"{text} ± {number(spread, digits)}", repr(spread)
    return Cell(text, value=repr(mean), std=std, seeds=len(values))


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """Return a value with a fixed number of decimals, a typographic minus sign, and ∞."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if not text.strip("+-0."):  # no "-0.00"
        text = text.lstrip("+-")
    return text.replace("-", "−")


def mark_best(
    rows: Iterable[Row], columns: Sequence[bool | None], left_out: Collection[str] = ()
) -> tuple[Row, ...]:
    """Return the rows with our best value in each column marked, ties included.

    columns: True where higher is better, False where lower is, None for a column without a best;
    left_out: labels of rows that do not compete. Nothing is marked in a column with fewer than two
    values of ours.
    """
    rows = list(rows)
    ours = [i for i, row in enumerate(rows) if row.kind == "ours" and row.label not in left_out]
    for c, higher in enumerate(columns):
        if higher is None:
            continue
        # values are compared as displayed, not by digits that are not shown
        shown = {i: _displayed(rows[i].cells[c]) for i in ours if rows[i].cells[c].value}
        if len(shown) < 2:
            continue
        best = (max if higher else min)(shown.values())
        for i in (i for i, value in shown.items() if value == best):
            cells = list(rows[i].cells)
            cells[c] = replace(cells[c], best=True)
            rows[i] = replace(rows[i], cells=tuple(cells))
    return tuple(rows)


def letter(position: int) -> str:
    """Return the n-th of a, b, ... z, aa, ab, ..."""
    first, last = divmod(position, 26)
    return (letter(first - 1) if first else "") + ascii_lowercase[last]


def _displayed(cell: Cell) -> float:
    text = cell.text.split(" ± ")[0].replace("−", "-").replace("∞", "inf")
    return float(text)
