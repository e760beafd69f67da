"""The columns of Table IV on a system: its input, its cost and its speed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from hded.network.cost import count_operations
from hded.report.read.runs import Run
from hded.report.tables.model import Cell, Column, missing, number
from hded.report.tables.speed import Speeds

NUMBERS = {1: "one", 2: "two", 3: "three"}


@dataclass(frozen=True, slots=True)
class Fact:
    """A column that states something of a system; `cell` returns it for a run."""

    column: Column
    cell: Callable[[Run], Cell]


def _reads(run: Run) -> Cell:
    count = run.training.model.shots
    kind = "all-in-focus" if run.reads == "sharp" else "defocused"
    text = f"{NUMBERS.get(count, str(count))} {kind}"
    if run.by_true_depth:
        text += ", true depth"
    return Cell(text, text)


def _parameters(run: Run) -> Cell:
    count = run.training.parameters
    return Cell(f"{count / 1e6:.2f}", str(count))


def _operations(run: Run) -> Cell:
    model = json.dumps(run.training.model.model_dump(mode="json"), sort_keys=True)
    height, width = (int(n) for n in run.size)
    count = _count(model, height, width)
    return Cell(f"{count / 1e9:.1f}", str(count))


@cache
def _count(model: str, height: int, width: int) -> int:
    return count_operations(json.loads(model), (height, width))


def _samples(run: Run) -> Cell:
    count = run.training.epochs * run.training.train_frames
    return Cell(f"{count:,}", str(count))


def _speed(speeds: Speeds, name: str, run: Run) -> Cell:
    if run.variant not in speeds.variants:
        return missing(NO_SPEED)
    value = getattr(speeds.variants[run.variant], name)
    return Cell(number(value, 2), repr(value))


NO_SPEED = "not measured by `make benchmark`"
SPEEDS = {"samples_per_s": "samples/s in training", "seconds_per_image": "s for one image"}
FACTS = (
    Fact(Column("reads", "reads", "System", numeric=False), _reads),
    Fact(Column("parameters", "parameters [M]", "System"), _parameters),
    Fact(Column("operations", "GFLOP", "System"), _operations),
    Fact(Column("samples", "training samples", "System"), _samples),
)


def facts(speeds: Speeds) -> tuple[Fact, ...]:
    """Return the columns."""
    return (
        *FACTS,
        *(
            Fact(Column(name, title, "Speed"), partial(_speed, speeds, name))
            for name, title in SPEEDS.items()
        ),
    )
