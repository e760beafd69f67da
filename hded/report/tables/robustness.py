"""The table of robustness: every network on test images with noise and compression."""

from collections.abc import Mapping, Sequence

from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.optics.sensor import DEGRADATIONS
from hded.report.read.runs import Run, Selection, by_training, comparable
from hded.report.tables.captions import dataset_title, describe_camera, sample_warning
from hded.report.tables.model import Cell, Column, Part, Row, Table, measured, missing

INTRO = (
    "Test images with Gaussian noise on their sRGB values, of a standard deviation in counts of "
    "255, or compressed as JPEG at 4:2:0. All networks get the same images; those that read "
    "all-in-focus images get them degraded in the same way. The restored image is compared with "
    "the clean all-in-focus one.",
)
MEASURES = {"rmse": (DEPTH, "RMSE [m] ↓", 3), "psnr": (ALL_IN_FOCUS, "PSNR [dB] ↑", 2)}


def build_robustness(selection: Selection) -> Table | None:
    """Return the table; None where no network was tested on degraded images."""
    parts = []
    for dataset in selection.datasets:
        runs = [run for run in comparable(selection.of(dataset)) if run.robustness]
        if not runs:
            continue
        names = [d.name for d in DEGRADATIONS if any(d.name in run.robustness for run in runs)]
        columns = [
            Column(f"{name}.{metric}", name, title)
            for metric, (_, title, _) in MEASURES.items()
            for name in names
        ]
        rows = []
        for variant in dict.fromkeys(run.variant for run in runs):
            own = [run for run in runs if run.variant == variant]
            rows.append(Row("ours", variant, _cells(own, names, "network")))
        for label, own in by_training(runs).items():
            rows.append(Row("baseline", label, _cells(own[:1], names, "median")))
        with_images = [run for run in runs if ALL_IN_FOCUS in run.heads][:1]
        if with_images:
            label = "the degraded input itself"
            rows.append(Row("baseline", label, _cells(with_images, names, "input")))
        protocols = [p for kind in (DEPTH, ALL_IN_FOCUS) for p in runs[0].protocols_of(kind)[:1]]
        count = ("Images", f"{runs[0].robustness_frames} evenly spaced test images")
        statements = [count, *((p.title, p.statement) for p in protocols)]
        parts.append(
            Part(
                dataset_title(runs[0]),
                tuple(columns),
                tuple(rows),
                warnings=tuple(sample_warning(runs)),
                statements=(*statements, *describe_camera(runs)),
                heading="Network",
            )
        )
    if not parts:
        return None
    return Table("G", "robustness", "Noise and compression", tuple(parts), INTRO)


def _cells(runs: Sequence[Run], names: Sequence[str], method: str) -> tuple[Cell, ...]:
    cells = []
    for metric, (kind, _, digits) in MEASURES.items():
        for name in names:
            values = [_value(run, name, kind, method, metric) for run in runs]
            known = [value for value in values if value is not None]
            why = {"median": "a depth, not an image", "input": "an image, not a depth"}
            reason = why.get(method) or runs[0].lacks(kind)
            cells.append(measured(known, digits) if known else missing(reason))
    return tuple(cells)


def _value(run: Run, name: str, kind: str, method: str, metric: str) -> float | None:
    """Return a figure under the first protocol of its kind."""
    by_kind: Mapping = run.robustness.get(name, {})
    for scores in list(by_kind.get(kind, {}).values())[:1]:
        return scores.get(method, {}).get(metric)
    return None
