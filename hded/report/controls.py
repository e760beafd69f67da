"""Does the network use blur? Networks on images without any, or with another's."""

from collections.abc import Mapping, Sequence
from statistics import mean

from hded.report.describe import dataset_title
from hded.report.grid import Cell, Column, Part, Row, Table, missing, number
from hded.report.runs import DEPTH, RESTORATION, Run, Selection
from hded.report.tables import MAIN_VARIANT

COLUMNS = (  # of the headline depth protocol and of native restoration
    (DEPTH, "network", "rmse", "RMSE [m]", 3),
    (DEPTH, "network", "abs_rel", "AbsRel", 3),
    (DEPTH, "network", "delta1", "δ1", 3),
    (RESTORATION, "network", "psnr", "PSNR [dB]", 2),
    (RESTORATION, "input", "psnr", "input PSNR [dB]", 2),
    (RESTORATION, "gain", "psnr", "gain [dB]", 2),
)
NO_FIGURE = "not measured: the network has no head for it"
INTRO = (
    "A network that reads depth off blur must do worse without blur to read (trained and tested on "
    "all-in-focus images, it has only what a scene looks like) and much worse with blur that means "
    "other depths (tested on pictures focused elsewhere than in training). One that does equally "
    "well everywhere does not use blur.",
)


def build_controls(selection: Selection, descriptions: Mapping[str, str]) -> Table | None:
    """Build the table of controls beside the full network; None where no control was run."""
    parts = []
    for dataset in selection.datasets:
        runs = selection.of(dataset)
        variants = [v for v in selection.variants if selection.of(dataset, v)[0].control]
        if not variants:
            continue
        if MAIN_VARIANT in selection.variants:
            variants = [MAIN_VARIANT, *variants]
        rows = tuple(_row(v, selection.of(dataset, v), descriptions) for v in variants)
        columns = tuple(Column(f"{kind}_{m}_{k}", title) for kind, m, k, title, _ in COLUMNS)
        parts.append(Part(dataset_title(runs[0]), columns, rows, heading="Network"))
    return (
        Table("D", "controls", "Does the network use blur?", tuple(parts), INTRO) if parts else None
    )


def _row(variant: str, runs: Sequence[Run], descriptions: Mapping[str, str]) -> Row:
    cells = []
    for kind, method, metric, _, digits in COLUMNS:
        name = next(p.name for p in runs[0].protocols_of(kind))
        values = [v for r in runs if (v := r.value(kind, name, method, metric)) is not None]
        if values:
            cells.append(Cell(number(mean(values), digits), repr(mean(values)), seeds=len(values)))
        else:
            cells.append(missing(NO_FIGURE))
    detail = "; ".join(t for t in (descriptions.get(variant, ""), runs[0].control) if t)
    return Row("plain", variant, tuple(cells), detail)
