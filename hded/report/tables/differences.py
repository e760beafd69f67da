"""Differences between networks, with confidence intervals."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.evaluation.bootstrap import LEVEL, RESAMPLES, paired_difference
from hded.report.read.runs import Protocol, Run, Selection, comparable, same_fit
from hded.report.tables.build import MAIN_VARIANT
from hded.report.tables.captions import (
    dataset_title,
    describe_camera,
    describe_protocols,
    sample_warning,
)
from hded.report.tables.columns import MEASURES, MetricColumn
from hded.report.tables.model import Cell, Column, Part, Row, Table, missing, number
from hded.report.tables.published import published

MEASURED = {DEPTH: ("rmse", "abs_rel", "delta1"), ALL_IN_FOCUS: ("psnr", "ssim")}
# two networks are compared by their gains over their own inputs
BETWEEN = {DEPTH: ("network", ""), ALL_IN_FOCUS: ("gain", "_gain")}
BASELINES = {DEPTH: ("median", "training-median depth"), ALL_IN_FOCUS: ("input", "defocused input")}
EXTRA_DIGIT = 1  # one digit more than in other tables, because differences are small
COLUMNS = (
    Column("protocol", "protocol", numeric=False),
    Column("first", "mean of the first"),
    Column("second", "mean of the second"),
    Column("difference", "difference"),
    Column("low", f"from ({LEVEL:.0%})"),
    Column("high", f"to ({LEVEL:.0%})"),
    Column("verdict", "conclusion", numeric=False),
    Column("images", "images"),
    Column("seeds", "seeds", numeric=False),
)
INTERVAL = (
    "Mean of the first minus mean of the second over the same test images, with the "
    f"{LEVEL:.0%} percentile interval of a paired bootstrap ({RESAMPLES:,} resamples): images are "
    "resampled for both networks together, trainings (seeds) for each separately. An interval that "
    "contains 0 does not separate the two. Means are over images, also where a protocol pools."
)
CAVEATS = (
    "Images of one room resemble each other, and two or three seeds hardly show their spread: both "
    "make intervals too narrow. Each interval is for its own difference alone: without any true "
    "difference, one of twenty would still exclude 0."
)
PUBLISHED = (
    "The paper gives no interval: its Table III prints {gain} dB as the depth head's gain in "
    "deblurring (its two rows differ by {rows:.3f} dB), which is full − deblur_only, PSNR gain, "
    "here."
)
# compared beside the main variant: one defocused image with one sharp, two images with one, the
# estimated depth with the true one
QUESTIONS = (
    ("depth_only", "sharp_input"),
    ("two_distances", "depth_only"),
    ("two_apertures", "depth_only"),
    ("deblur_only", "deconvolution"),
    ("deconvolution_true_depth", "deconvolution"),
    ("denoiser_true_depth", "denoiser"),
    ("unet_defocused", "unet_sharp"),
)
COPIES = "The renderings of one frame are averaged first, and count as one image."
ONE_SEED = "this pair of networks: one seed each, so the interval does not cover other trainings"
ONE_TRAINING = "this network: one seed, so the interval does not cover other trainings"
SAME_TRAININGS = "the same trainings on both sides, resampled together"
NO_INTERVAL = "no interval: fewer than two images, or a perfect image's infinite PSNR"


def build_differences(selection: Selection) -> Table:
    """Return the table; without the main variant, all pairs of variants are compared."""
    parts = []
    pairs = _pairs(selection.variants)
    for dataset in selection.datasets:
        runs = selection.of(dataset)
        rows = [r for v in selection.variants for r in _against_baselines(selection.of(dataset, v))]
        for pair in pairs:
            both = selection.of(dataset, pair[0]), selection.of(dataset, pair[1])
            rows += compare_networks(*both, pair, _title(pair))
        protocols = [p for kind in MEASURED for run in runs for p in run.protocols_of(kind)[:1]]
        part = Part(
            dataset_title(runs[0]),
            COLUMNS,
            tuple(rows),
            warnings=tuple(sample_warning(runs)),
            statements=(
                *describe_protocols(comparable(runs), dict.fromkeys(protocols)),
                *describe_camera(comparable(runs)),
            ),
            heading="Networks",
        )
        parts.append(part)
    intro = [f"Each network is compared with its trivial baselines{_and_others(pairs)}. {INTERVAL}"]
    if ("full", "deblur_only") in pairs:
        rows = published("III", "nyu")
        both, one, gain = (
            rows[name].cells["psnr"].value
            for name in ("With both heads", "Without depth head", "Gain of the depth head")
        )
        intro.append(PUBLISHED.format(gain=gain, rows=float(both) - float(one)))
    intro += [COPIES] if any("source_frame" in run.rows[DEPTH] for run in selection.runs) else []
    title = "Differences, with confidence intervals"
    return Table("F", "differences", title, tuple(parts), (*intro, CAVEATS))


def _and_others(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    full = all(first == MAIN_VARIANT for first, _ in pairs)
    return f", then {'the full network with each other one' if full else 'every pair of networks'}"


def _pairs(variants: Sequence[str]) -> list[tuple[str, str]]:
    if MAIN_VARIANT not in variants:
        return list(combinations(variants, 2))
    asked = [pair for pair in QUESTIONS if {*pair} <= {*variants}]
    return [*((MAIN_VARIANT, v) for v in variants if v != MAIN_VARIANT), *asked]


def _against_baselines(runs: Sequence[Run]) -> list[Row]:
    rows = []
    for kind, (method, title) in BASELINES.items():
        if kind == ALL_IN_FOCUS and not runs[0].blurred:
            continue  # the input is the sharp image itself
        for protocol in runs[0].protocols_of(kind)[:1]:
            for metric in MEASURED[kind]:
                column = MetricColumn(kind, protocol.name, "", metric)
                names = runs[0].variant, title
                values = _values(runs, column, "network"), _values(runs[:1], column, method)
                rows += _row(_title(names), names, protocol.title, column, *values, trained=1)
    return rows


def shared_protocol(kind: str, first: Run, second: Run) -> Protocol | None:
    """Return the first protocol of the first run that the second run has, too.

    None for all_in_focus where a run was tested on all-in-focus images, which cannot be improved.
    """
    if kind == ALL_IN_FOCUS and not (first.blurred and second.blurred):
        return None
    theirs = {p.name for p in second.protocols_of(kind)}
    return next((p for p in first.protocols_of(kind) if p.name in theirs), None)


def compare_networks(
    first: Sequence[Run], second: Sequence[Run], names: tuple[str, str], title: str = ""
) -> list[Row]:
    """Return a row for each metric that both have a head for; no row for different frames.

    first, second: the runs of one network each; title: the beginning of the rows' names.
    """
    if first[0].frames != second[0].frames:
        return []
    tied = len(first) == len(second) and all(map(same_fit, first, second))
    rows: list[Row] = []
    for kind, (method, suffix) in BETWEEN.items():
        protocol = shared_protocol(kind, first[0], second[0])
        if protocol is None:
            continue
        for metric in MEASURED[kind]:
            column = MetricColumn(kind, protocol.name, "", metric + suffix)
            values = _values(first, column, method), _values(second, column, method)
            rows += _row(title, names, protocol.title, column, *values, tied=tied)
    return rows


def _title(names: tuple[str, str]) -> str:
    return f"{names[0]} − {names[1]}: "


def _values(runs: Sequence[Run], column: MetricColumn, method: str) -> NDArray[np.float64] | None:
    """Return the figures of each frame (seeds, frames), in the frames' order."""
    metric = column.metric.removesuffix("_gain")
    rows = [run.per_frame(column.kind, column.protocol, method, metric) for run in runs]
    known = [row.to_numpy(np.float64) for row in rows if row is not None]
    return np.stack(known) if known else None


def _row(
    title: str,
    names: tuple[str, str],
    protocol: str,
    column: MetricColumn,
    first: NDArray[np.float64] | None,
    second: NDArray[np.float64] | None,
    trained: int = 2,
    tied: bool = False,
) -> list[Row]:
    """Return the row of a difference.

    trained: how many of the two are networks; tied: whether both are the same trained networks.
    """
    if first is None or second is None:
        return []
    cells = Cell(protocol, protocol), *_cells(column, names, first, second, trained, tied)
    return [Row("plain", f"{title}{MEASURES[column.metric][0]}", cells)]


def _cells(
    column: MetricColumn,
    names: tuple[str, str],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    trained: int,
    tied: bool,
) -> tuple[Cell, ...]:
    found = paired_difference(first, second, same_networks=tied)
    digits = MEASURES[column.metric][1] + EXTRA_DIGIT

    def figure(value: float, *, signed: bool = False) -> Cell:
        if np.isnan(value):
            return missing(NO_INTERVAL)
        return Cell(number(value, digits, signed=signed), repr(value))

    better = names[0] if (found.sign > 0) == column.higher else names[1]
    verdict = f"{better} is better" if found.sign else "not separated"
    alone = trained == 1 or tied
    notes = (SAME_TRAININGS,) if tied else ()
    if found.seeds == (1, 1):
        notes = (ONE_TRAINING if alone else ONE_SEED,)
    counts = ", ".join(map(str, found.seeds[: 1 if alone else 2]))
    return (
        *(figure(mean) for mean in (found.first, found.second)),
        *(figure(v, signed=True) for v in (found.value, found.low, found.high)),
        missing(NO_INTERVAL) if np.isnan(found.low) else Cell(verdict, verdict),
        Cell(str(found.images), str(found.images)),
        Cell(counts, counts, notes=notes),
    )
