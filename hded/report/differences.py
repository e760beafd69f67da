"""Differences, each with its confidence interval: what is more than chance."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hded.bootstrap import LEVEL, RESAMPLES, paired_difference
from hded.report.columns import MEASURES, Spec
from hded.report.describe import dataset_title
from hded.report.grid import Cell, Column, Part, Row, Table, missing, number
from hded.report.runs import DEPTH, RESTORATION, Run, Selection
from hded.report.tables import MAIN_VARIANT

MEASURED = {DEPTH: ("rmse", "abs_rel", "delta1"), RESTORATION: ("psnr", "ssim")}
# two networks are compared by what each makes of its own input
BETWEEN = {DEPTH: ("network", ""), RESTORATION: ("gain", "_gain")}
BASELINES = {DEPTH: ("median", "training-median depth"), RESTORATION: ("input", "defocused input")}
EXTRA_DIGIT = 1  # beyond the tables': a difference is smaller than what it is of
COLUMNS = (
    Column("first", "mean of the first"),
    Column("second", "of the second"),
    Column("difference", "difference"),
    Column("low", f"from ({LEVEL:.0%})"),
    Column("high", f"to ({LEVEL:.0%})"),
    Column("verdict", "what it says", numeric=False),
    Column("images", "images"),
    Column("seeds", "seeds", numeric=False),
)
INTERVAL = (
    "Mean of the first minus mean of the second over the same test images, with the "
    f"{LEVEL:.0%} percentile interval of a paired bootstrap ({RESAMPLES:,} resamples): images are "
    "drawn anew for both at once, trainings (seeds) for each apart. An interval that holds 0 does "
    "not tell the two apart. Means are over images, whatever a protocol pools."
)
INTRO = (
    f"Each network against its trivial baselines, then the full network against each other. "
    f"{INTERVAL}",
    "The paper gives no interval: by its Table III the depth head helps deblurring by 2.9 dB, the "
    "difference full − deblur_only in PSNR gain here.",
    "Images of one room resemble each other, so intervals are rather too narrow than too wide; so "
    "are they with few seeds, whose spread two or three hardly show.",
)
ONE_SEED = "this pair of networks: one seed each, so nothing is said about other trainings"
NO_INTERVAL = "no interval: fewer than two images, or a perfect image's infinite PSNR"


def build_differences(selection: Selection) -> Table:
    """Build the table; without the main variant, all pairs of variants are compared."""
    parts = []
    for dataset in selection.datasets:
        rows = [r for v in selection.variants for r in _against_baselines(selection.of(dataset, v))]
        for first, second in _pairs(selection.variants):
            runs = selection.of(dataset, first), selection.of(dataset, second)
            rows += compare_networks(*runs, (first, second), _title((first, second)))
        title = dataset_title(selection.of(dataset)[0])
        parts.append(Part(title, COLUMNS, tuple(rows), heading="Networks"))
    return Table("F", "differences", "Differences, and what is chance", tuple(parts), INTRO)


def _pairs(variants: Sequence[str]) -> list[tuple[str, str]]:
    if MAIN_VARIANT in variants:
        return [(MAIN_VARIANT, v) for v in variants if v != MAIN_VARIANT]
    return list(combinations(variants, 2))


def _against_baselines(runs: Sequence[Run]) -> list[Row]:
    rows = []
    for kind, (method, title) in BASELINES.items():
        for protocol in runs[0].protocols_of(kind)[:1]:
            for metric in MEASURED[kind]:
                spec = Spec(kind, protocol.name, "", metric)
                names = runs[0].variant, title
                values = _values(runs, spec, "network"), _values(runs[:1], spec, method)
                rows += _row(_title(names), names, protocol.title, spec, *values)
    return rows


def compare_networks(
    first: Sequence[Run], second: Sequence[Run], names: tuple[str, str], title: str = ""
) -> list[Row]:
    """Give a row for each measure that both have a head for; none on different frames.

    first, second: the runs of one network each, one a seed; title: what rows' names begin with.
    """
    if first[0].frames != second[0].frames:
        return []
    rows: list[Row] = []
    for kind, (method, suffix) in BETWEEN.items():
        theirs = {p.name for p in second[0].protocols_of(kind)}
        for protocol in [p for p in first[0].protocols_of(kind) if p.name in theirs][:1]:
            for metric in MEASURED[kind]:
                spec = Spec(kind, protocol.name, "", metric + suffix)
                values = (_values(runs, spec, method) for runs in (first, second))
                rows += _row(title, names, protocol.title, spec, *values)
    return rows


def _title(names: tuple[str, str]) -> str:
    return f"{names[0]} − {names[1]}: "


def _values(runs: Sequence[Run], spec: Spec, method: str) -> NDArray[np.float64] | None:
    """Per-image figures (seeds, images), images in the frames' order."""
    metric = spec.metric.removesuffix("_gain")
    rows = [run.per_image(spec.kind, spec.protocol, method, metric) for run in runs]
    known = [row.to_numpy(np.float64) for row in rows if row is not None]
    return np.stack(known) if known else None


def _row(
    title: str,
    names: tuple[str, str],
    protocol: str,
    spec: Spec,
    first: NDArray[np.float64] | None,
    second: NDArray[np.float64] | None,
) -> list[Row]:
    if first is None or second is None:
        return []
    return [
        Row(
            "plain",
            f"{title}{MEASURES[spec.metric][0]}",
            _cells(spec, names, first, second),
            protocol,
        )
    ]


def _cells(
    spec: Spec,
    names: tuple[str, str],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
) -> tuple[Cell, ...]:
    found = paired_difference(first, second)
    digits = MEASURES[spec.metric][1] + EXTRA_DIGIT

    def figure(value: float, *, signed: bool = False) -> Cell:
        if np.isnan(value):
            return missing(NO_INTERVAL)
        return Cell(number(value, digits, signed=signed), repr(value))

    better = names[0] if (found.sign > 0) == spec.higher else names[1]
    verdict = f"{better} is better" if found.sign else "not told apart"
    notes = (ONE_SEED,) if found.seeds == (1, 1) else ()
    counts = f"{found.seeds[0]}, {found.seeds[1]}"
    return (
        *(figure(mean) for mean in (found.first, found.second)),
        *(figure(v, signed=True) for v in (found.value, found.low, found.high)),
        missing(NO_INTERVAL) if np.isnan(found.low) else Cell(verdict, verdict),
        Cell(str(found.images), str(found.images)),
        Cell(counts, counts, notes=notes),
    )
