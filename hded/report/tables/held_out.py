"""Table H: the training images that no network was trained on."""

import math
from collections.abc import Mapping, Sequence

from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.report.read.runs import Run, Selection, comparable, same_fit
from hded.report.tables.captions import dataset_title, sample_warning
from hded.report.tables.model import (
    Cell,
    Column,
    Part,
    Row,
    Table,
    mark_best,
    measured,
    missing,
)

INTRO = (
    "Whole training images that were held out (train.val_fraction), at the epoch whose weights "
    "were kept. Settings are to be chosen by these figures, not by those of the test images. RMSE "
    "is over all valid pixels of an image, its mean over images.",
)
NOT_VALIDATED = "no validation at the epoch whose weights were kept"
COLUMNS = (
    (Column("rmse", "RMSE [m] ↓"), False),
    (Column("psnr", "PSNR [dB] ↑"), True),
    (Column("gain", "Gain [dB] ↑"), True),
    (Column("images", "Images held out"), None),
    (Column("samples", "Training samples"), None),
)


def build_held_out(selection: Selection, descriptions: Mapping[str, str]) -> Table | None:
    """Return the table; None where every network was trained on all training images.

    descriptions: one line for every variant.
    """
    parts = []
    for dataset in selection.datasets:
        runs: list[Run] = []
        for run in comparable(selection.of(dataset)):
            if run.training.val_frames and not any(same_fit(run, other) for other in runs):
                runs.append(run)
        if not runs:
            continue
        rows = []
        for variant in dict.fromkeys(run.variant for run in runs):
            own = [run for run in runs if run.variant == variant]
            rows.append(Row("ours", variant, _cells(own), descriptions.get(variant, "")))
        parts.append(
            Part(
                dataset_title(runs[0]),
                tuple(column for column, _ in COLUMNS),
                mark_best(rows, [higher for _, higher in COLUMNS]),
                warnings=tuple(sample_warning(runs)),
                heading="Network",
            )
        )
    if not parts:
        return None
    return Table("H", "held_out", "Held-out training images", tuple(parts), INTRO)


def _cells(runs: Sequence[Run]) -> tuple[Cell, ...]:
    rmse, psnr, inputs = (
        [_kept(run, f"val/{name}") for run in runs] for name in ("rmse", "psnr", "input_psnr")
    )
    gain = [output - before for output, before in zip(psnr, inputs, strict=True)]
    of_heads = ((rmse, 3, DEPTH), (psnr, 2, ALL_IN_FOCUS), (gain, 2, ALL_IN_FOCUS))
    first = runs[0].training
    samples = first.epochs * first.train_frames
    return (
        *(_cell(values, digits, runs[0], kind) for values, digits, kind in of_heads),
        Cell(str(first.val_frames), str(first.val_frames)),
        Cell(f"{samples:,}", str(samples)),
    )


def _cell(values: Sequence[float], digits: int, run: Run, kind: str) -> Cell:
    if any(map(math.isnan, values)):
        return missing(NOT_VALIDATED if kind in run.training.model.heads else run.lacks(kind))
    return measured(values, digits)


def _kept(run: Run, column: str) -> float:
    """Return a figure at the epoch whose weights were kept; NaN where there is none."""
    history, epoch = run.history, run.training.best_epoch
    if column not in history:
        return math.nan
    found = history.loc[history["epoch"] == epoch, column]
    return float(found.iloc[0]) if len(found) else math.nan
