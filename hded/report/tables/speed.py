"""The benchmark's figures as a table: speed as a ratio to a named baseline of the same run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hded.report.read.files import JsonObject
from hded.report.tables.model import Cell, Column, Part, Row, Table, missing, number

FIGURES = {  # heading, decimals
    "seconds": ("seconds per frame or sample", 4),
    "frames_per_s": ("frames or samples per second", 2),
    "ratio": ("speed-up", 2),
    "data_share": ("time waiting for data", 4),
    "peak_share": ("of peak bf16 arithmetic", 3),
    "max_error": ("largest error", -1),  # in powers of ten
    "peak_mb": ("peak memory [MB]", 0),
}
# how `pipeline.benchmark` names what it measures of a variant for Table IV
SYSTEMS, TRAINING, ONE_IMAGE = "Systems of Table IV", ": training", ": one image"
NOT_MEASURED = "not measured for this row"


@dataclass(frozen=True, slots=True)
class SystemSpeed:
    """The speed of a variant in training, and the time that one image takes."""

    samples_per_s: float
    seconds_per_image: float


@dataclass(frozen=True, slots=True)
class Speeds:
    """The speeds of variants, and one sentence on how they were measured."""

    variants: Mapping[str, SystemSpeed]
    how: str


NO_SPEEDS = Speeds({}, "")


def read_speeds(path: Path | None) -> Speeds:
    """Return the speeds that `make benchmark` measured for Table IV.

    Raises HDEDError as `build_speed` does.
    """
    if path is None or not path.exists():
        return NO_SPEEDS
    seconds: dict[str, float] = {}
    how = ""
    for section in JsonObject(path)["sections"]:
        section = JsonObject(path, section)
        if section["title"] == SYSTEMS:
            rows = [JsonObject(path, row) for row in section["rows"]]
            seconds = {row["name"]: row["seconds"] for row in rows}
            how = " ".join(statement["text"] for statement in section["statements"])
    names = [name.removesuffix(TRAINING) for name in seconds if name.endswith(TRAINING)]
    speeds = {
        name: SystemSpeed(1 / seconds[name + TRAINING], seconds[name + ONE_IMAGE]) for name in names
    }
    return Speeds(speeds, how)


def build_speed(path: Path | None) -> Table | None:
    """Return the table of the file that `make benchmark` wrote; None where there is none.

    Raises HDEDError for a file that is damaged or was not written by this program.
    """
    if path is None or not path.exists():
        return None
    record = JsonObject(path)
    machine = JsonObject(path, record["machine"])
    parts = []
    for section in record["sections"]:
        section = JsonObject(path, section)
        rows = [JsonObject(path, row) for row in section["rows"]]
        keys = [key for key in FIGURES if any(row.get(key, None) is not None for row in rows)]
        parts.append(
            Part(
                section["title"],
                tuple(Column(key, FIGURES[key][0]) for key in keys),
                tuple(
                    Row(
                        "plain",
                        row["name"],
                        tuple(_cell(key, row.get(key, None)) for key in keys),
                        detail="the baseline" if row["name"] == section["baseline"] else "",
                    )
                    for row in rows
                ),
                statements=tuple((s["title"], s["text"]) for s in section["statements"]),
            )
        )
    versions = ", ".join(f"{k} {v}" for k, v in sorted(machine["versions"].items()))
    intro = (
        f"Measured by `make benchmark` on {machine['hardware']}, commit {machine['commit']}, "
        f"{versions}. Medians. Absolute times vary between runs; compare the ratios.",
    )
    return Table("C", "benchmark", "Speed and memory", tuple(parts), intro)


def _cell(key: str, value: Any) -> Cell:
    if value is None:
        return missing(NOT_MEASURED)
    digits = FIGURES[key][1]
    return Cell(f"{value:.0e}" if digits < 0 else number(value, digits), value=repr(float(value)))
