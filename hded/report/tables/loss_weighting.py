"""Table E: the gradients of the loss terms at the encoder."""

import math
from collections.abc import Sequence

import pandas as pd

from hded.common.heads import HEADS
from hded.report.read.runs import Run, Selection, same_fit
from hded.report.tables.captions import dataset_title
from hded.report.tables.model import Cell, Column, Part, Row, Table, missing, number

PAPER_LAMBDA = 0.01
COLUMNS = (
    ("weight_depth", "weight of depth"),
    ("weight_all_in_focus", "weight of deblurring"),
    ("first", "first epoch with a gradient: deblurring / depth"),
    ("mean", "mean over epochs: deblurring / depth"),
    ("paper", f"the same at λ = {PAPER_LAMBDA}, depth in metres"),
)
NEVER_ZERO = "the depth loss had no gradient there"
NO_METRES = "the depth head does not predict metres, so that the paper's λ does not apply"
INTRO = (
    "Norms of the losses' gradients at the encoder's output (all five maps), on the first batch of "
    "each epoch, as the losses enter the total. A ratio of 1 means that both tasks move the "
    "encoder equally, 0.01 that deblurring moves it a hundredth as much as depth. Adam compensates "
    "for this in a decoder, which has one loss, but not in the encoder, which has both. Where both "
    "heads start at zero (network.init: identity) the very first batch does not move the encoder: "
    "the first gradient is then the second epoch's.",
    f"The last column scales the same gradients to the paper's weights, λ = {PAPER_LAMBDA} with "
    "depth in metres: the effect that this λ would have had on this network.",
)


def build_balance(selection: Selection) -> Table | None:
    """Return the table; None where no network with two heads has measured gradients."""
    parts = []
    for dataset in selection.datasets:
        runs: list[Run] = []
        for run in selection.of(dataset):
            if _measured(run.history) and not any(same_fit(run, r) for r in runs):
                runs.append(run)
        if runs:
            columns = tuple(Column(key, title) for key, title in COLUMNS)
            rows = tuple(_row(run) for run in runs)
            parts.append(Part(dataset_title(runs[0]), columns, rows, heading="Network"))
    return (
        Table("E", "balance", "Gradients of the two losses at the encoder", tuple(parts), INTRO)
        if parts
        else None
    )


def _measured(history: pd.DataFrame) -> bool:
    return all(f"{kind}/{task}" in history for kind in ("grad", "weight") for task in HEADS)


def _row(run: Run) -> Row:
    history = run.history
    last = history.iloc[-1]
    ratio = history["grad/all_in_focus"] / history["grad/depth"]
    ratio = ratio[history["grad/depth"] > 0]
    unweighted = ratio * history["weight/depth"] / history["weight/all_in_focus"]
    model = run.training.model
    paper = (PAPER_LAMBDA / model.depth_scale_m * unweighted).dropna().tolist()
    cells = (
        _cell([last["weight/depth"]]),
        _cell([last["weight/all_in_focus"]]),
        _cell(ratio.head(1).tolist()),
        _cell(ratio.tolist()),
        _cell(paper) if model.readout == "metres" else missing(NO_METRES),
    )
    return Row("plain", f"{run.variant}, seed {run.seed}", cells, run.training.weighting)


def _cell(values: Sequence[float]) -> Cell:
    if not len(values):
        return missing(NEVER_ZERO)
    value = float(sum(values) / len(values))
    # two significant digits, however small the value: 0.0002, not 0.000
    digits = 3 if value == 0 or value >= 0.01 else 1 - math.floor(math.log10(value))
    return Cell(number(value, digits), value=repr(value))
