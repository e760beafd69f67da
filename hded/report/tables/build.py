"""Tables II, III and IV: the paper's rows as printed, ours, and the trivial baselines.

- Ours are mean and sample standard deviation over seeds, from metrics.json.
- Each dataset has a part in the paper's layout under the headline protocol, then one for each
  further protocol. Protocols, camera and data are printed with the numbers.
- No cell is blank: a missing value has a note with the reason.
"""

from collections.abc import Iterable, Mapping, Sequence

from hded.common.errors import HDEDError
from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.config.schema import OFFICIAL
from hded.report.read.runs import Run, Selection, by_training, comparable
from hded.report.tables.captions import (
    describe_camera,
    describe_data,
    describe_networks,
    describe_protocols,
    sample_warning,
)
from hded.report.tables.columns import (
    BOUND,
    BOUND_TEXT,
    IMAGE,
    MetricColumn,
    depth_metrics,
    main_columns,
)
from hded.report.tables.facts import Fact, facts
from hded.report.tables.model import Cell, Part, Row, Table, mark_best, missing
from hded.report.tables.published import (
    PublishedCell,
    PublishedRow,
    abs_rel_bound,
    published,
)
from hded.report.tables.speed import NO_SPEEDS, Speeds

MAIN_VARIANT = "full"
LOSS_VARIANTS = ("l1_l1", "l1_charbonnier", "grad_charbonnier", "charbonnier_ssim", MAIN_VARIANT)
HEAD_VARIANTS = ("depth_only", "deblur_only", MAIN_VARIANT)
MAIN_ROW = "2HDED:NET"
# our variants -> the paper's rows below which they are shown
PAIRS = {
    "II": {
        "l1_charbonnier": "L1 + lambda Charbonnier",
        "l1_l1": "L1 + lambda L1",
        "grad_charbonnier": "(L1 + mu gradient) + lambda Charbonnier",
        "charbonnier_ssim": "L1 + lambda (Charbonnier + psi (1 - SSIM))",
        MAIN_VARIANT: "(L1 + mu gradient) + lambda (Charbonnier + psi (1 - SSIM))",
    },
    "III": {
        MAIN_VARIANT: "With both heads",
        "deblur_only": "Without depth head",
        "depth_only": "Without deblurring head",
    },
}
NOT_PRINTED = "the paper prints no value here"
NO_BOUND = "no bound follows: the row prints no δ, or differences of δ"
IMPOSSIBLE = "the row's AbsRel is below the bound that follows from its own δ on the same pixels"
# printed values are rounded, so a smaller violation may be due to rounding
PRINTED_TOLERANCE = 1e-3
INTRO = (
    "Published rows are the paper's, as printed. The paper does not state its focus distance, so "
    "they were measured with optics that are not fully known.",
    "Ours: mean ± sample standard deviation over seeds, the best variant in bold. Gain is over the "
    "defocused input's own score, which is the last row.",
    f"AbsRel bound: on the same pixels, {BOUND_TEXT}.",
)
MORE_INTRO = {
    "II": ("Each of the paper's rows is followed by our variant with the same losses.",),
    "IV": (
        "Each of the paper's rows is followed by our networks of the same system: trained on the "
        "same images, blurred by the cameras that are named below, for as many samples as the "
        "table says, and measured alike. Where a backbone or a text could not be had, a system is "
        "described as after its authors. A restoration by the true depth is a control: no "
        "method has that depth. Operations (GFLOP, two for a multiplication and an addition) are "
        "those of the network's convolutions on one image; a deconvolution comes on top.",
    ),
}


def build_tables(
    selection: Selection,
    descriptions: Mapping[str, str],
    paper_rows: Mapping[str, str] | None = None,
    speeds: Speeds = NO_SPEEDS,
) -> tuple[Table, ...]:
    """Return Tables II, III and IV.

    descriptions: one line for every variant of params.yaml; paper_rows: the row of Table IV beside
    which a variant is shown, for those that have one; speeds: for Table IV.
    """
    _check_rows(paper_rows or {})
    paper_rows = paper_rows or {MAIN_VARIANT: MAIN_ROW}
    named = {*LOSS_VARIANTS, *HEAD_VARIANTS}
    # a variant may be a control on one dataset alone
    controls = {run.variant for run in selection.runs if run.control}
    controls -= {run.variant for run in selection.runs if not run.control}
    others = [v for v in selection.variants if v not in named | controls]
    systems = tuple(dict.fromkeys((*paper_rows, MAIN_VARIANT, *others)))
    plan = (
        ("II", "Loss combinations", LOSS_VARIANTS, ("nyu",)),
        ("III", "One head or two", HEAD_VARIANTS, ("nyu",)),
        ("IV", "State of the art", systems, ("nyu", "make3d")),
    )
    pairs = {**PAIRS, "IV": paper_rows}
    tables = []
    for position, (number, title, variants, always) in enumerate(plan, start=2):
        parts: list[Part] = []
        for key in dict.fromkeys((*always, *_official(selection))):
            own = selection.of(key) if key in _official(selection) else []
            parts += _parts(number, key, own, selection, variants, descriptions, pairs, speeds)
        for name in (d for d in selection.datasets if d not in _official(selection)):
            own = selection.of(name)
            run = {r.variant for r in own}
            parts += _parts(
                number, "", own, selection, [v for v in variants if v in run], descriptions, pairs,
                speeds,
            )  # fmt: skip
        intro = (*INTRO, *MORE_INTRO.get(number, ()))
        tables.append(Table(number, f"table{position}", title, tuple(parts), intro))
    return tuple(tables)


def _check_rows(paper_rows: Mapping[str, str]) -> None:
    """Raise HDEDError for a row that Table IV does not have."""
    printed = list(dict.fromkeys(name for key in OFFICIAL for name, _ in _printed("IV", key)))
    for variant, row in paper_rows.items():
        if row not in printed:
            raise HDEDError(
                f"params.yaml: variants.{variant}.paper_row: {row!r} is no row of Table IV; it has "
                f"{printed}"
            )


def _official(selection: Selection) -> list[str]:
    """Return the paper's datasets; a user's own folder of the same name is not one."""
    return [d for d in selection.datasets if selection.of(d)[0].format == d]


def _parts(
    number: str,
    key: str,
    runs: Sequence[Run],
    selection: Selection,
    variants: Sequence[str],
    descriptions: Mapping[str, str],
    pairs: Mapping[str, Mapping[str, str]],
    speeds: Speeds,
) -> list[Part]:
    """Return the part with the paper's layout, then one for each further protocol."""
    # a restoration by the true depth is a control, and the ceiling of what stands beside it
    beside = [run for run in runs if run.by_true_depth and number == "IV"]
    measured_here = {run.variant for run in (*comparable(runs), *beside)}
    controls = {run.variant for run in runs if run.control} - measured_here
    variants = [variant for variant in variants if variant not in controls]
    runs = comparable(runs)
    title = OFFICIAL[key] if key else f"{runs[0].dataset} (own images)"
    protocols = {p.name: p for run in runs for p in run.protocols}
    columns = main_columns(key, runs)
    stated = facts(speeds) if number == "IV" else ()
    ours = {v: [r for r in (*runs, *beside) if r.variant == v] for v in variants}
    ceilings = {run.variant for run in beside}
    rows = [
        *_paired(
            [_published_row(name, row, columns, stated) for name, row in _printed(number, key)],
            {
                v: _our_row(v, ours[v], columns, key, selection, descriptions, stated, speeds)
                for v in variants
            },
            pairs.get(number, {}),
        ),
        *_baselines(runs, columns, key, stated),
    ]
    shown = list(dict.fromkeys(c.protocol for c in columns if c.protocol in protocols))
    part = Part(
        title=title,
        columns=(*(column.column for column in columns), *(fact.column for fact in stated)),
        rows=mark_best(
            rows, [*(column.higher for column in columns), *(None for _ in stated)], ceilings
        ),
        warnings=tuple(sample_warning(runs)),
        statements=(
            *describe_protocols(runs, [protocols[name] for name in shown]),
            *(
                (p.title, f"not measured: {p.why_not}")
                for p in protocols.values()
                if not p.available
            ),
            *describe_camera(runs),
            *describe_data(runs),
            *describe_networks([run for v in variants for run in ours[v]]),
            *([("Speed", speeds.how)] if number == "IV" and speeds.how else []),
        ),
    )
    further = []
    for protocol in (p for p in protocols.values() if p.available and p.name not in shown):
        metrics = depth_metrics(key) if protocol.kind == DEPTH else IMAGE
        columns = [MetricColumn(protocol.kind, protocol.name, "", metric) for metric in metrics]
        rows = [
            *(
                _our_row(v, ours[v], columns, key, selection, descriptions)
                for v in variants
                if ours[v]
            ),
            *_baselines(runs, columns, key),
        ]
        further.append(
            Part(
                title=f"{title}, further protocol: {protocol.title}",
                columns=tuple(column.column for column in columns),
                rows=mark_best(rows, [column.higher for column in columns], ceilings),
                warnings=part.warnings,
                statements=tuple(describe_protocols(runs, [protocol])),
                further=True,
            )
        )
    return [part, *further]


def _printed(number: str, key: str) -> Iterable[tuple[str, PublishedRow]]:
    return published(number, key).items() if key else ()


def _paired(printed: Sequence[Row], ours: Mapping[str, Row], pairs: Mapping[str, str]) -> list[Row]:
    """Return the paper's rows, each followed by our variants of the same system.

    pairs: the label of the paper's row for each variant that has one.
    """
    rows, left = [], dict(ours)
    for row in printed:
        rows.append(row)
        rows += [left.pop(v) for v in list(left) if pairs.get(v) == row.label]
    return [*rows, *left.values()]


def _published_row(
    name: str, row: PublishedRow, columns: Sequence[MetricColumn], facts: Sequence[Fact]
) -> Row:
    # a gain is a difference of two rows, so its δ imply no bound
    bounds = {} if name.startswith("Gain of ") else _printed_bounds(row.cells)
    broken = [
        f"breaks the AbsRel bound: {printed.value} < {bound}"
        for prefix, bound in bounds.items()
        if (printed := row.cells.get(f"{prefix}abs_rel"))
        and float(printed.value) + PRINTED_TOLERANCE < float(bound)
    ]
    shown = []
    for column in columns:
        cell = row.cells.get(column.printed)
        bound = bounds.get(column.printed.removesuffix("abs_rel_bound"))
        if column.metric == BOUND and bound is not None:
            shown.append(Cell(bound, value=bound, notes=(IMPOSSIBLE,) if broken else ()))
        elif cell is not None:
            notes = (cell.note,) if cell.note else ()
            shown.append(Cell(cell.value, value=cell.value, notes=notes))
        else:
            shown.append(missing(NO_BOUND if column.metric == BOUND else NOT_PRINTED))
    shown += [missing(NOT_PRINTED) for _ in facts]
    detail = "; ".join(filter(None, (row.description, *broken)))
    return Row("paper", name, tuple(shown), detail, (row.note,) if row.note else ())


def _printed_bounds(cells: Mapping[str, PublishedCell]) -> dict[str, str]:
    """Return the AbsRel bounds implied by a row's printed deltas, by the prefix of the metrics."""
    bounds = {}
    for prefix in ("", "c1_", "c2_"):
        deltas = [cells.get(f"{prefix}delta{k}") for k in (1, 2, 3)]
        known = [float(cell.value) for cell in deltas if cell is not None]
        if len(known) == 3:
            bounds[prefix] = f"{abs_rel_bound(known):.3f}"
    return bounds


def _our_row(
    variant: str,
    runs: Sequence[Run],
    columns: Sequence[MetricColumn],
    key: str,
    selection: Selection,
    descriptions: Mapping[str, str],
    facts: Sequence[Fact] = (),
    speeds: Speeds = NO_SPEEDS,
) -> Row:
    detail = descriptions.get(variant, "")
    if not runs:
        cell = missing(_not_run(variant, key, selection, detail, speeds))
        return Row("ours", variant, (cell,) * (len(columns) + len(facts)), detail)
    cells = []
    for column in columns:
        values = [value for run in runs if (value := column.value(run, "network")) is not None]
        cells.append(column.cell(values) if values else missing(why_not(column, runs[0])))
    cells += [fact.cell(runs[0]) for fact in facts]
    if (trained_on := runs[0].training.dataset) != runs[0].dataset:
        detail = "; ".join(filter(None, (detail, f"trained on {trained_on}")))
    return Row("ours", variant, tuple(cells), detail)


def _not_run(
    variant: str,
    key: str,
    selection: Selection,
    detail: str,
    speeds: Speeds,
) -> str:
    if variant in selection.variants:
        return _no_dataset(key)
    if not detail:
        return "not run: variant not in run.variants, nor among the variants of params.yaml"
    others = [run.training for run in comparable(selection.of(key))] if key else []
    how = "not trained yet: variant not in run.variants; add it and run `dvc repro`"
    if not others or variant not in speeds.variants:
        return how
    samples = max(training.epochs * training.train_frames for training in others)
    hours = samples / speeds.variants[variant].samples_per_s / 3600
    return f"{how}: about {hours:.1f} h for {samples:,} samples where `make benchmark` ran"


def _no_dataset(key: str) -> str:
    return f"not run: no official {OFFICIAL[key]} in run.datasets"


def why_not(column: MetricColumn, run: Run) -> str:
    """Return the reason why a run has no figure in a column."""
    if reason := run.lacks(column.kind):
        return reason
    for protocol in run.protocols:
        if protocol.name == column.protocol and not protocol.available:
            return f"not measured: {protocol.why_not}"
    size = f"{column.protocol} size"
    return f"not measured: {run.variant} has the geometry {run.geometry}, which has no {size}"


def _baselines(
    runs: Sequence[Run],
    columns: Sequence[MetricColumn],
    key: str,
    facts: Sequence[Fact] = (),
) -> list[Row]:
    # the main variant's images, where the variants have different cameras
    main = [run for run in runs if run.variant == MAIN_VARIANT]
    runs = main + [run for run in runs if run not in main]
    medians = by_training(runs) or {"training-median depth": []}
    baselines = [("median", DEPTH, "a depth, not an image", item) for item in medians.items()]
    baselines.append(("input", ALL_IN_FOCUS, "an image, not a depth", ("defocused input", runs)))
    rows = []
    for method, kind, other, (label, own) in baselines:
        cells = []
        for column in columns:
            values = [v for run in own if (v := column.value(run, method)) is not None]
            if column.kind != kind:
                cells.append(missing(f"{label} is {other}"))
            elif values:
                cells.append(column.cell(values[:1]))
            elif not own:
                cells.append(missing(_no_dataset(key)))
            else:
                able = [run for run in own if kind in run.outputs]
                name = kind.replace("_", "-")
                nobody = f"not measured: no selected variant has an {name} head"
                cells.append(missing(able[0].lacks(kind) if able else nobody))
        cells += [missing(f"{label} is no network") for _ in facts]
        if any(column.kind == kind for column in columns):
            rows.append(Row("baseline", label, tuple(cells)))
    return rows
