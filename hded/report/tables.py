"""Tables II, III and IV: the paper's rows as printed, ours, and the trivial baselines.

- Ours are mean and sample standard deviation over seeds, from metrics.json.
- Every dataset has the paper's layout under its headline protocol, then a part for each further
  protocol. Protocols, camera and data are printed with the numbers.
- No cell is blank: what is missing says why.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hded.metrics import HIGHER_IS_BETTER
from hded.report.describe import (
    DATASET_TITLES,
    describe_camera,
    describe_data,
    describe_networks,
    sample_warning,
)
from hded.report.grid import Cell, Column, Part, Row, Table, mark_best, measured, missing
from hded.report.published import Published, abs_rel_bound, published
from hded.report.runs import DEPTH, NEEDED_HEAD, RESTORATION, Protocol, Run, Selection

MAIN_VARIANT = "full"
LOSS_VARIANTS = ("l1_l1", "l1_charbonnier", "grad_charbonnier", "charbonnier_ssim", MAIN_VARIANT)
HEAD_VARIANTS = ("depth_only", "deblur_only", MAIN_VARIANT)
BOUND = "bound"
BOUND_TEXT = "AbsRel ≥ .2(δ₂−δ₁) + .36(δ₃−δ₂) + .488(1−δ₃)"
NOT_TRANSCRIBED = "not transcribed: the paper's value is not in published.csv"
# printed values are rounded: a breach must be larger than what rounding can do
PRINTED_TOLERANCE = 1e-3
MEASURES = {  # label, decimals
    "rmse": ("RMSE [m]", 3),
    "abs_rel": ("AbsRel", 3),
    BOUND: ("AbsRel bound", 3),
    "log10": ("log10", 3),
    "delta1": ("δ₁", 3),
    "delta2": ("δ₂", 3),
    "delta3": ("δ₃", 3),
    "psnr": ("PSNR [dB]", 2),
    "psnr_gain": ("gain [dB]", 2),
    "ssim": ("SSIM", 3),
    "ssim_gain": ("gain", 3),
}
FULL_DEPTH = ("rmse", "abs_rel", BOUND, "log10", "delta1", "delta2", "delta3")
MAKE3D_DEPTH = ("rmse", "abs_rel", "log10")
IMAGE = ("psnr", "psnr_gain", "ssim", "ssim_gain")
HEADLINES = {  # depth protocols of the paper's layout
    "nyu": {"headline": "NYU headline"},
    "make3d": {"c1": "Make3D C1", "c2": "Make3D C2"},
}
INTRO = (
    "Published rows are the paper's, as printed; its focus distance is unstated, so they were "
    "measured through optics that nobody can repeat exactly.",
    "Ours: mean ± sample standard deviation over seeds, the best variant in bold. Gain is over the "
    "defocused input's own score, which is the last row.",
    f"AbsRel bound: on the same pixels, {BOUND_TEXT}.",
)


@dataclass(frozen=True, slots=True)
class Spec:
    """One column: a metric under a protocol."""

    kind: str
    protocol: str
    group: str
    metric: str
    printed: str = ""  # its name in published.csv

    @property
    def higher(self) -> bool | None:
        """Whether more is better; None for the bound, which is no achievement."""
        if self.metric == BOUND:
            return None
        return self.metric in HIGHER_IS_BETTER or self.metric.endswith("_gain")

    @property
    def column(self) -> Column:
        """The column of the printed table."""
        arrow = "" if self.higher is None else (" ↑" if self.higher else " ↓")
        label = MEASURES[self.metric][0] + arrow
        return Column(f"{self.protocol}.{self.metric}", label, self.group)

    def value(self, run: Run, method: str) -> float | None:
        """Look up one run's figure."""
        if self.metric == BOUND:
            deltas = [run.value(DEPTH, self.protocol, method, f"delta{k}") for k in (1, 2, 3)]
            known = [delta for delta in deltas if delta is not None]
            return abs_rel_bound(*known) if len(known) == 3 else None
        metric = self.metric.removesuffix("_gain")
        if metric == self.metric:
            return run.value(self.kind, self.protocol, method, metric)
        if method == "input":
            known = run.value(self.kind, self.protocol, "input", metric)
            return None if known is None else 0.0
        return run.value(self.kind, self.protocol, "gain", metric)

    def cell(self, values: Sequence[float]) -> Cell:
        """Give the cell for one value a seed."""
        signed = self.metric.endswith("_gain")
        return measured(values, MEASURES[self.metric][1], signed=signed)


def build_tables(selection: Selection, descriptions: Mapping[str, str]) -> tuple[Table, ...]:
    """Build Tables II, III and IV; descriptions: every variant of params.yaml and its one line."""
    named = {*LOSS_VARIANTS, *HEAD_VARIANTS}
    others = [v for v in selection.variants if v not in named]
    plan = (
        ("II", "Loss combinations", LOSS_VARIANTS, ("nyu",)),
        ("III", "One head or two", HEAD_VARIANTS, ("nyu",)),
        ("IV", "State of the art", (MAIN_VARIANT, *others), ("nyu", "make3d")),
    )
    tables = []
    for position, (number, title, variants, always) in enumerate(plan, start=2):
        parts: list[Part] = []
        for key in dict.fromkeys((*always, *_official(selection))):
            own = selection.of(key) if key in _official(selection) else []
            parts += _parts(number, key, own, selection, variants, descriptions)
        for name in (d for d in selection.datasets if d not in _official(selection)):
            parts += _parts(number, "", selection.of(name), selection, variants, descriptions)
        tables.append(Table(number, f"table{position}", title, tuple(parts), INTRO))
    return tuple(tables)


def _official(selection: Selection) -> list[str]:
    """Datasets of the paper; one's own pictures under the same name are not."""
    return [d for d in selection.datasets if selection.of(d)[0].format == d]


def _parts(
    number: str,
    key: str,
    runs: Sequence[Run],
    selection: Selection,
    variants: Sequence[str],
    descriptions: Mapping[str, str],
) -> list[Part]:
    """Give the part in the paper's layout, then one for each further protocol."""
    title = DATASET_TITLES[key] if key else f"{runs[0].dataset} (own pictures)"
    protocols = {p.name: p for run in runs for p in run.protocols}
    specs = _main_specs(key, runs)
    ours = {v: [r for r in runs if r.variant == v] for v in variants}
    rows = [
        *(_published_row(name, cells, specs) for name, cells in _printed(number, key)),
        *(_our_row(v, ours[v], specs, key, selection, descriptions) for v in variants),
        *_baselines(runs, specs, key),
    ]
    shown = list(dict.fromkeys(spec.protocol for spec in specs if spec.protocol in protocols))
    part = Part(
        title=title,
        columns=tuple(spec.column for spec in specs),
        rows=mark_best(rows, [spec.higher for spec in specs]),
        warnings=tuple(sample_warning(runs)),
        statements=(
            *_statements(runs, [protocols[name] for name in shown]),
            *(
                (p.title, f"not measured: {p.why_not}")
                for p in protocols.values()
                if not p.available
            ),
            *describe_camera(runs),
            *describe_data(runs),
            *describe_networks([run for v in variants for run in ours[v]]),
        ),
    )
    further = []
    for protocol in (p for p in protocols.values() if p.available and p.name not in shown):
        metrics = FULL_DEPTH if protocol.kind == DEPTH else IMAGE
        some = [Spec(protocol.kind, protocol.name, "", metric) for metric in metrics]
        rows = [
            *(
                _our_row(v, ours[v], some, key, selection, descriptions)
                for v in variants
                if ours[v]
            ),
            *_baselines(runs, some, key),
        ]
        further.append(
            Part(
                title=f"{title}, further protocol: {protocol.title}",
                columns=tuple(spec.column for spec in some),
                rows=mark_best(rows, [spec.higher for spec in some]),
                warnings=part.warnings,
                statements=tuple(_statements(runs, [protocol])),
                further=True,
            )
        )
    return [part, *further]


def _main_specs(key: str, runs: Sequence[Run]) -> list[Spec]:
    """Columns of the paper's layout: headline depth, then restoration."""
    if key in HEADLINES:
        depth = HEADLINES[key]
    else:
        depth = {p.name: p.title for p in runs[0].protocols_of(DEPTH)[:1]}
    metrics = MAKE3D_DEPTH if key == "make3d" else FULL_DEPTH
    prefix = {name: f"{name}_" if key == "make3d" else "" for name in depth}
    specs = [
        Spec(DEPTH, name, title, metric, prefix[name] + ("abs_rel_bound" if metric == BOUND else metric))
        for name, title in depth.items()
        for metric in metrics
    ]  # fmt: skip
    image = [p for run in runs for p in run.protocols_of(RESTORATION)]
    name, title = (image[0].name, image[0].title) if image else ("native", "Restoration")
    return specs + [Spec(RESTORATION, name, title, metric, metric) for metric in IMAGE]


def _printed(number: str, key: str) -> Iterable[tuple[str, dict[str, Published]]]:
    return published(number, key).items() if key else ()


def _published_row(name: str, cells: Mapping[str, Published], specs: Sequence[Spec]) -> Row:
    notes: tuple[str, ...] = ()
    row_bounds = _printed_bounds(cells)
    for prefix, bound in row_bounds.items():
        printed = cells.get(f"{prefix}abs_rel")
        if printed and float(printed.value) + PRINTED_TOLERANCE < float(bound):
            notes = (
                f"breaks the bound {BOUND_TEXT} = {bound}: its AbsRel of {printed.value} is "
                "impossible on common pixels",
            )
    shown = []
    for spec in specs:
        cell = cells.get(spec.printed)
        if (
            spec.metric == BOUND
            and (prefix := spec.printed.removesuffix("abs_rel_bound")) in row_bounds
        ):
            bound = row_bounds[prefix]
            shown.append(Cell(bound, value=bound, notes=notes))
        elif cell is not None:
            note = (cell.note,) if cell.note else ()
            shown.append(Cell(cell.value, value=cell.value, notes=note))
        else:
            shown.append(missing(NOT_TRANSCRIBED))
    return Row("paper", name, tuple(shown), notes=notes)


def _printed_bounds(cells: Mapping[str, Published]) -> dict[str, str]:
    """Give the stated bound, or the one that the row's printed deltas imply."""
    bounds = {}
    for prefix in ("", "c1_", "c2_"):
        deltas = [cells.get(f"{prefix}delta{k}") for k in (1, 2, 3)]
        known = [float(cell.value) for cell in deltas if cell is not None]
        if stated := cells.get(f"{prefix}abs_rel_bound"):
            bounds[prefix] = stated.value
        elif len(known) == 3:
            bounds[prefix] = f"{abs_rel_bound(*known):.3f}".lstrip("0")
    return bounds


def _our_row(
    variant: str,
    runs: Sequence[Run],
    specs: Sequence[Spec],
    key: str,
    selection: Selection,
    descriptions: Mapping[str, str],
) -> Row:
    detail = descriptions.get(variant, "")
    if not runs:
        return Row(
            "ours", variant, (missing(_not_run(variant, key, selection, detail)),) * len(specs), detail
        )  # fmt: skip
    cells = []
    for spec in specs:
        values = [value for run in runs if (value := spec.value(run, "network")) is not None]
        cells.append(spec.cell(values) if values else missing(_why_not(spec, runs[0])))
    return Row("ours", variant, tuple(cells), detail)


def _not_run(variant: str, key: str, selection: Selection, detail: str) -> str:
    if variant not in selection.variants:
        defined = "" if detail else ", and not among the variants of params.yaml"
        return f"not run: {variant} not in run.variants{defined}"
    return f"not run: {key} not in run.datasets"


def _why_not(spec: Spec, run: Run) -> str:
    if NEEDED_HEAD[spec.kind] not in run.heads:
        does = "estimates no depth" if spec.kind == DEPTH else "restores no image"
        return f"no {NEEDED_HEAD[spec.kind].replace('_', '-')} head: {run.variant} {does}"
    for protocol in run.protocols:
        if protocol.name == spec.protocol and not protocol.available:
            return f"not measured: {protocol.why_not}"
    return f"not measured: the {run.geometry} geometry of {run.variant} has no {spec.protocol} size"


def _baselines(runs: Sequence[Run], specs: Sequence[Spec], key: str) -> list[Row]:
    rows = []
    for method, kind, label, other in (
        ("median", DEPTH, "training-median depth", "a depth, not an image"),
        ("input", RESTORATION, "defocused input", "an image, not a depth"),
    ):
        cells = []
        for spec in specs:
            values = [v for run in runs if (v := spec.value(run, method)) is not None]
            if spec.kind != kind:
                cells.append(missing(f"{label} is {other}"))
            elif values:
                cells.append(spec.cell(values[:1]))
            elif not runs:
                cells.append(missing(f"not run: {key} not in run.datasets"))
            else:
                cells.append(missing("not measured: no selected variant has an all-in-focus head"))
        if any(spec.kind == kind for spec in specs):
            rows.append(Row("baseline", label, tuple(cells)))
    return rows


def _statements(runs: Sequence[Run], protocols: Iterable[Protocol]) -> Iterable[tuple[str, str]]:
    for protocol in protocols:
        counts = [r.measured[protocol.name] for r in runs if protocol.name in r.measured]
        total = len(runs[0].frames)
        partial = bool(counts) and counts[0] < total
        tail = f"; {counts[0]} of {total} images have a valid pixel, the others do not count"
        yield protocol.title, protocol.statement + (tail if partial else "")
