"""The columns of Tables II to IV: a metric under a protocol, and how it is displayed."""

from collections.abc import Sequence
from dataclasses import dataclass

from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.metrics import HIGHER_IS_BETTER
from hded.report.read.runs import Run
from hded.report.tables.model import Cell, Column, measured
from hded.report.tables.published import abs_rel_bound

BOUND = "bound"
BOUND_TEXT = "AbsRel ≥ .2(δ₂−δ₁) + .36(δ₃−δ₂) + .488(1−δ₃)"
MEASURES = {  # label, decimals
    "rmse": ("RMSE [m]", 3),
    "abs_rel": ("AbsRel", 3),
    BOUND: ("AbsRel bound", 3),
    "log10": ("log10", 3),
    "delta1": ("δ₁", 3),
    "delta2": ("δ₂", 3),
    "delta3": ("δ₃", 3),
    "spearman": ("Spearman ρ", 3),
    "psnr": ("PSNR [dB]", 2),
    "psnr_gain": ("PSNR gain [dB]", 2),
    "ssim": ("SSIM", 3),
    "ssim_gain": ("SSIM gain", 3),
}
FULL_DEPTH = ("rmse", "abs_rel", BOUND, "log10", "delta1", "delta2", "delta3")
OWN_DEPTH = (*FULL_DEPTH, "spearman")  # of datasets that the paper has no figures of
MAKE3D_DEPTH = ("rmse", "abs_rel", "log10")
IMAGE = ("psnr", "psnr_gain", "ssim", "ssim_gain")
HEADLINES = {  # depth protocols of the paper's layout
    "nyu": {"headline": "NYU headline"},
    "make3d": {"c1": "Make3D C1", "c2": "Make3D C2"},
}


@dataclass(frozen=True, slots=True)
class MetricColumn:
    """A metric under a protocol, as a column."""

    kind: str
    protocol: str
    group: str
    metric: str
    printed: str = ""  # its name in published.csv

    @property
    def higher(self) -> bool | None:
        """Return whether more is better; None for the bound, which is not a score."""
        if self.metric == BOUND:
            return None
        return self.metric in HIGHER_IS_BETTER or self.metric.endswith("_gain")

    @property
    def column(self) -> Column:
        """The column's heading in the table."""
        arrow = "" if self.higher is None else (" ↑" if self.higher else " ↓")
        label = MEASURES[self.metric][0] + arrow
        return Column(f"{self.protocol}.{self.metric}", label, self.group)

    def value(self, run: Run, method: str) -> float | None:
        """Return one run's figure."""
        if self.metric == BOUND:
            deltas = [run.value(DEPTH, self.protocol, method, f"delta{k}") for k in (1, 2, 3)]
            known = [delta for delta in deltas if delta is not None]
            return abs_rel_bound(known) if len(known) == 3 else None
        metric = self.metric.removesuffix("_gain")
        if metric == self.metric:
            return run.value(self.kind, self.protocol, method, metric)
        if method == "input":
            known = run.value(self.kind, self.protocol, "input", metric)
            return None if known is None else 0.0
        return run.value(self.kind, self.protocol, "gain", metric)

    def cell(self, values: Sequence[float]) -> Cell:
        """Return the cell for the values of all seeds."""
        signed = self.metric.endswith("_gain")
        return measured(values, MEASURES[self.metric][1], signed=signed)


def depth_metrics(key: str) -> tuple[str, ...]:
    """Return the depth metrics of the tables of one of the paper's datasets, or of any other."""
    return FULL_DEPTH if key in HEADLINES else OWN_DEPTH


def main_columns(key: str, runs: Sequence[Run]) -> list[MetricColumn]:
    """Return the columns of the paper's layout: headline depth, then all_in_focus."""
    if key in HEADLINES:
        depth = HEADLINES[key]
    else:
        depth = {p.name: p.title for p in runs[0].protocols_of(DEPTH)[:1]}
    metrics = MAKE3D_DEPTH if key == "make3d" else depth_metrics(key)
    columns = []
    for name, title in depth.items():
        for metric in metrics:
            printed = "abs_rel_bound" if metric == BOUND else metric
            if key == "make3d":
                printed = f"{name}_{printed}"
            columns.append(MetricColumn(DEPTH, name, title, metric, printed))
    image = [p for run in runs for p in run.protocols_of(ALL_IN_FOCUS)]
    name, title = (image[0].name, image[0].title) if image else ("native", "All-in-focus image")
    return columns + [MetricColumn(ALL_IN_FOCUS, name, title, metric, metric) for metric in IMAGE]
