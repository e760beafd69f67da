"""Controls: does the network use blur? Tested on images without blur, or with another blur."""

from collections.abc import Mapping, Sequence

from hded.report.read.runs import Run, Selection, comparable
from hded.report.tables.build import MAIN_VARIANT, why_not
from hded.report.tables.captions import (
    dataset_title,
    describe_camera,
    describe_protocols,
    sample_warning,
)
from hded.report.tables.columns import MetricColumn, main_columns
from hded.report.tables.model import Column, Part, Row, Table, missing

METRICS = ("rmse", "abs_rel", "delta1", "psnr", "psnr_gain")
INTRO = (
    "A network that estimates depth from blur must do worse without blur (trained and tested on "
    "all-in-focus images, where only the scene's appearance is left) and much worse with "
    "misleading blur (tested on images focused elsewhere than in training). A network that does "
    "equally well in all three does not use blur.",
)


def build_controls(selection: Selection, descriptions: Mapping[str, str]) -> Table | None:
    """Return the table of controls beside the full network; None where no control was run."""
    parts = []
    for dataset in selection.datasets:
        firsts = {v: selection.of(dataset, v)[0] for v in selection.variants}
        variants = [
            v
            for v, run in firsts.items()
            if not run.blurred or (run.control and not run.by_true_depth)
        ]
        if variants:
            plain = [v for v in selection.variants if v == MAIN_VARIANT]
            parts.append(_part(selection, dataset, [*plain, *variants], descriptions))
    if not parts:
        return None
    return Table("D", "controls", "Does the network use blur?", tuple(parts), INTRO)


def _part(
    selection: Selection, dataset: str, variants: Sequence[str], descriptions: Mapping[str, str]
) -> Part:
    runs = [run for v in variants for run in selection.of(dataset, v)]
    key = runs[0].format if runs[0].format == dataset else ""
    columns = [column for column in main_columns(key, runs) if column.metric in METRICS]
    plan: list[tuple[MetricColumn, str, Column]] = []  # metric, method, printed column
    for column in columns:
        plan.append((column, "network", column.column))
        if column.metric == "psnr":  # the controls differ in their input
            printed = Column(f"{column.column.key}_input", "input PSNR [dB]", column.group)
            plan.append((column, "input", printed))
    shown = {column.protocol for column in columns}
    protocols = {p.name: p for run in runs for p in run.protocols if p.name in shown}
    own = comparable(runs)
    return Part(
        title=dataset_title(runs[0]),
        columns=tuple(printed for _, _, printed in plan),
        rows=tuple(_row(v, selection.of(dataset, v), plan, descriptions) for v in variants),
        warnings=tuple(sample_warning(runs)),
        statements=(
            *describe_protocols(own, protocols.values()),
            *describe_camera(own),
        ),
        heading="Network",
    )


def _row(
    variant: str,
    runs: Sequence[Run],
    plan: Sequence[tuple[MetricColumn, str, Column]],
    descriptions: Mapping[str, str],
) -> Row:
    cells = []
    for column, method, _ in plan:
        values = [v for run in runs if (v := column.value(run, method)) is not None]
        cells.append(column.cell(values) if values else missing(why_not(column, runs[0])))
    detail = with_control(descriptions.get(variant, ""), runs[0])
    return Row("plain", variant, tuple(cells), detail)


def with_control(description: str, run: Run) -> str:
    """Return a variant's description, with what makes `run` a control unless it says so."""
    if run.control in description:
        return description
    return "; ".join(text for text in (description, run.control) if text)
