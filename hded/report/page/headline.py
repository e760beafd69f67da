"""The headline figures at the top of the page, each beside its trivial baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.report.read.runs import Run
from hded.report.tables.columns import HEADLINES, MetricColumn
from hded.report.tables.model import number


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure: its label, value, comparison with a baseline, and protocol."""

    label: str
    value: str
    comparison: str
    protocol: str


def headline(runs: Sequence[Run]) -> list[Fact]:
    """Return the headline figures of a network's runs (one for each seed): image, then depth."""
    first = runs[0]
    facts = []
    for protocol in first.protocols_of(ALL_IN_FOCUS)[:1]:
        for metric, label in (("psnr", "PSNR [dB]"), ("ssim", "SSIM")):
            facts.append(_gain(runs, protocol.name, protocol.title, metric, label))
    shown = [p for p in first.protocols_of(DEPTH) if p.name in HEADLINES.get(first.format, {})]
    for protocol in shown or first.protocols_of(DEPTH)[:1]:
        facts.append(_ratio(runs, protocol.name, protocol.title))
    return facts


def _gain(runs: Sequence[Run], protocol: str, title: str, metric: str, label: str) -> Fact:
    value, gain = (MetricColumn(ALL_IN_FOCUS, protocol, "", m) for m in (metric, f"{metric}_gain"))
    scores = _values(runs, value, "network")
    inputs = _values(runs, value, "input")
    if not scores or not inputs:
        return Fact(label, "–", runs[0].lacks(ALL_IN_FOCUS), title)
    difference = gain.cell(_values(runs, gain, "network")).text
    comparison = f"{difference} against the defocused input's {value.cell(inputs[:1]).text}"
    return Fact(label, value.cell(scores).text, comparison, title)


def _ratio(runs: Sequence[Run], protocol: str, title: str) -> Fact:
    column = MetricColumn(DEPTH, protocol, "", "rmse")
    label = "Depth RMSE [m]"
    errors, baselines = _values(runs, column, "network"), _values(runs, column, "median")
    if not errors:
        return Fact(label, "–", runs[0].lacks(DEPTH), title)
    comparison = ""
    if baselines and baselines[0] > 0:
        ratio = sum(errors) / len(errors) / baselines[0]
        comparison = (
            f"{number(ratio, 2)} times the {column.cell(baselines[:1]).text} m that the training "
            "set's median depth scores"
        )
    return Fact(label, column.cell(errors).text, comparison, title)


def _values(runs: Sequence[Run], column: MetricColumn, method: str) -> list[float]:
    return [value for run in runs if (value := column.value(run, method)) is not None]
