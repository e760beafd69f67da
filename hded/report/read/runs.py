"""What `train` and `evaluate` wrote, read into frozen records and checked.

One folder a network, <dataset>/<variant>/<seed>, under the trained and under the evaluated tree. A
missing or foreign file raises HDEDError with one line that names it: a report over half a
selection, or over networks measured on different data, would look like a result and be none.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from hded.common.errors import HDEDError
from hded.metrics import DEPTH_METRICS, IMAGE_METRICS
from hded.optics import NOT_DEFOCUSED
from hded.report.read.files import REPAIR, JsonObject, read_csv

DEPTH, ALL_IN_FOCUS = "depth", "all_in_focus"
NEEDED_HEAD = {DEPTH: "depth", ALL_IN_FOCUS: "all_in_focus"}


@dataclass(frozen=True, slots=True)
class Protocol:
    """How figures were taken; `kind` is depth or all_in_focus."""

    name: str
    kind: str
    title: str
    statement: str
    available: bool
    why_not: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """run.json and history.csv: which MLflow run fitted the network, from what, how fast."""

    run_id: str
    run_name: str
    experiment: str
    tracking_uri: str
    width: float  # of every channel count; the paper's is 1.0
    encoder: str
    decoder: str
    weights: str  # of the encoder at the start
    depth_scale_m: float
    balance: str  # of the tasks: how, and lambda where that is used
    parameters: int
    params_digest: str
    versions: Mapping[str, str]
    hardware: str
    commit: str
    wall_s: float
    epochs: int
    best_epoch: int
    train_frames: int
    val_frames: int
    history: pd.DataFrame  # a row an epoch


@dataclass(frozen=True, slots=True)
class Scene:
    """One pictured test scene; a figure that its network cannot give is None."""

    frame: str
    role: str  # best | median | worst | fixed
    rmse_m: float | None
    psnr: float | None
    input_psnr: float | None
    folder: Path


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One evaluated network."""

    dataset: str
    variant: str
    seed: int
    format: str  # nyu | make3d | folder
    source: str  # sample | official | folder | local
    heads: tuple[str, ...]
    geometry: str  # crop | resize
    camera: Mapping[str, Any]
    median_depth_m: float
    frames: tuple[str, ...]  # the test frames, sorted
    truth: str  # digest of their depth: equal names may stand for other scenes
    skipped: tuple[str, ...]
    control: str  # how its test pictures differ from the dataset's; "" where they do not
    protocols: tuple[Protocol, ...]
    metrics: Mapping[str, Any]  # kind -> protocol -> method -> metric -> value
    focus: Mapping[str, Any]  # focus distance [m] -> metrics, where the frames have several
    measured: Mapping[str, int]  # depth protocol -> images with a valid pixel
    scenes: tuple[Scene, ...]
    by_depth: pd.DataFrame | None
    by_coc: pd.DataFrame | None
    training: Training
    rows: Mapping[str, pd.DataFrame]  # kind -> a row an image, protocol and method

    @property
    def name(self) -> str:
        """Dataset, variant and seed."""
        return f"{self.dataset}/{self.variant}/{self.seed}"

    @property
    def blurred(self) -> bool:
        """Whether its test pictures were defocused; a control's may be all in focus."""
        return self.camera["name"] != NOT_DEFOCUSED

    def protocols_of(self, kind: str) -> list[Protocol]:
        """Give the protocols of one kind that were taken, in the evaluation's order."""
        return [p for p in self.protocols if p.kind == kind and p.available]

    def value(self, kind: str, protocol: str, method: str, metric: str) -> float | None:
        """Look up one aggregate; None where it was not taken."""
        return self.metrics.get(kind, {}).get(protocol, {}).get(method, {}).get(metric)

    def per_image(self, kind: str, protocol: str, method: str, metric: str) -> pd.Series | None:
        """Look up one figure of every image, by frame; None where it was not taken.

        `gain` is the network's less the input's. NaN where an image has no valid pixel.
        """
        if kind not in self.rows:
            return None
        rows = self.rows[kind]
        table = rows[rows["protocol"] == protocol].pivot(
            index="frame", columns="method", values=metric
        )
        if method == "gain" and {"network", "input"} <= set(table):
            table = table.assign(gain=table["network"] - table["input"])
        return table[method].sort_index() if method in table else None

    def per_photograph(
        self, kind: str, protocol: str, method: str, metric: str
    ) -> pd.Series | None:
        """As `per_image`, the defocused copies of one photograph averaged: they stand together."""
        images = self.per_image(kind, protocol, method, metric)
        rows = self.rows[DEPTH]
        if images is None or "source_frame" not in rows:
            return images
        of = rows.drop_duplicates("frame").set_index("frame")["source_frame"]
        return images.groupby(of).mean()


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Every run of dataset x variant x seed, in params.yaml's order."""

    datasets: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]

    def of(self, dataset: str, variant: str | None = None) -> list[Run]:
        """Give a dataset's runs, or those of one of its variants, seeds in order."""
        return [r for r in self.runs if r.dataset == dataset and variant in (None, r.variant)]


def comparable(runs: Sequence[Run]) -> list[Run]:
    """Those measured on the dataset's own pictures, as controls are not; all, if all are."""
    return [run for run in runs if not run.control] or list(runs)


def same_fit(first: Run, second: Run) -> bool:
    """Whether two runs tested one training, as a control that differs in `evaluate` alone does."""
    one, other = first.training, second.training
    # a fit that was done again took other times
    return one.params_digest == other.params_digest and one.history.equals(other.history)


def read_selection(
    evaluated: Path,
    trained: Path,
    datasets: Sequence[str],
    variants: Sequence[str],
    seeds: Sequence[int],
) -> Selection:
    """Read and check every selected run.

    Raises HDEDError for an empty selection, a run that is not on disk, a file that is missing,
    damaged or of another run, and runs of a dataset that were measured on different data.
    """
    for key, values in (("datasets", datasets), ("variants", variants), ("seeds", seeds)):
        if not values:
            raise HDEDError(f"report: run.{key} is empty in params.yaml; name at least one")
    runs = [
        _read_cell(evaluated, trained, dataset, variant, seed)
        for dataset in datasets
        for variant in variants
        for seed in seeds
    ]
    selection = Selection(tuple(datasets), tuple(variants), tuple(seeds), tuple(runs))
    for dataset in datasets:
        _check_same_data(selection.of(dataset))
    return selection


def _read_cell(evaluated: Path, trained: Path, dataset: str, variant: str, seed: int) -> Run:
    cell = Path(dataset) / variant / str(seed)
    for place in (evaluated / cell, trained / cell):
        if not place.is_dir():
            raise HDEDError(
                f"report: {cell.as_posix()} is selected by `run` in params.yaml but {place} does "
                f"not exist; {REPAIR}, or take it out of `run`"
            )
    path = evaluated / cell / "evaluation.json"
    record = JsonObject(path)
    for key, expected in (("dataset", dataset), ("variant", variant), ("seed", seed)):
        if record[key] != expected:
            raise HDEDError(
                f"{path}: {key} is {record[key]!r}, its folder says {expected!r}; the file belongs "
                f"to another run, {REPAIR}"
            )
    return read_run(evaluated / cell, trained / cell)


def read_run(folder: Path, trained: Path) -> Run:
    """Read what `evaluate` left in `folder` and `train` in `trained`.

    Raises HDEDError for a file that is missing, damaged or of another network.
    """
    path = folder / "evaluation.json"
    record = JsonObject(path)
    heads = tuple(record["heads"])
    keys = ("name", "kind", "title", "statement", "available", "why_not")
    protocols = tuple(
        Protocol(*(JsonObject(path, p)[key] for key in keys)) for p in record["protocols"]
    )
    rows = _read_images(folder, heads, record["frames"])
    some = rows[DEPTH][rows[DEPTH]["valid_px"] > 0]
    measured = {
        p.name: int(some.loc[some["protocol"] == p.name, "frame"].nunique())
        for p in protocols
        if p.kind == DEPTH
    }
    metrics, focus = _read_metrics(folder / "metrics.json", heads, protocols)
    return Run(
        dataset=record["dataset"],
        variant=record["variant"],
        seed=record["seed"],
        format=record["format"],
        source=record["source"],
        heads=heads,
        geometry=record["geometry"],
        camera=record["camera"],
        median_depth_m=record["median_depth_m"],
        frames=tuple(sorted(rows[DEPTH]["frame"].unique())),
        truth=record["truth"],
        skipped=tuple(record["skipped"]),
        control=record.get("control", ""),
        protocols=protocols,
        metrics=metrics,
        focus=focus,
        measured=measured,
        scenes=_read_scenes(folder),
        by_depth=_read_curve(folder / "error_by_depth.csv", heads),
        by_coc=_read_curve(folder / "error_by_coc.csv", heads),
        training=_read_training(trained, heads),
        rows=rows,
    )


def _read_training(folder: Path, heads: tuple[str, ...]) -> Training:
    path = folder / "run.json"
    record = JsonObject(path)
    model = JsonObject(path, record["model"])
    if set(model["heads"]) != set(heads):
        raise HDEDError(
            f"{path}: heads {model['heads']}, the evaluation has {list(heads)}; "
            f"they are not of one network, {REPAIR}"
        )
    loss = record["train"]["loss"]
    fixed = loss["balance"] == "fixed"
    of_model = ("width", "encoder", "decoder", "depth_scale_m")
    other = (*of_model, "balance", "commit", "history")
    return Training(
        **{name: record[name] for name in Training.__dataclass_fields__ if name not in other},
        **{name: model[name] for name in of_model},
        balance=f"λ = {loss['lambda']:g}" if fixed else loss["balance"],
        commit=record["commit"] or "none",
        history=read_csv(folder / "history.csv", ("epoch", "train/total")),
    )


def _read_metrics(
    path: Path, heads: tuple[str, ...], protocols: Iterable[Protocol]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    metrics = JsonObject(path)
    depth, all_in_focus = metrics[DEPTH], metrics[ALL_IN_FOCUS]
    for protocol in protocols:
        needed = protocol.kind == DEPTH or NEEDED_HEAD[ALL_IN_FOCUS] in heads
        found = protocol.name in (depth if protocol.kind == DEPTH else all_in_focus)
        if protocol.available and needed and not found:
            raise HDEDError(
                f"{path}: protocol {protocol.name} of evaluation.json is missing; {REPAIR}"
            )
    return {DEPTH: depth, ALL_IN_FOCUS: all_in_focus}, metrics.get("focus", {})


def _read_images(folder: Path, heads: tuple[str, ...], count: int) -> dict[str, pd.DataFrame]:
    """Read and check the per-image rows of each kind that the network has a head for."""
    path = folder / "depth.csv"
    rows = read_csv(path, ("frame", "protocol", "method", "valid_px", *DEPTH_METRICS))
    _check_frames(path, rows, count)
    _check_numbers(path, rows[rows["valid_px"] > 0], DEPTH_METRICS)
    found = {DEPTH: rows}
    if NEEDED_HEAD[ALL_IN_FOCUS] in heads:
        path = folder / "all_in_focus.csv"
        images = read_csv(path, ("frame", "protocol", "method", *IMAGE_METRICS))
        _check_frames(path, images, count)
        # an infinite PSNR is a perfect image, not a mistake
        _check_numbers(path, images.replace({"psnr": {math.inf: 0.0}}), IMAGE_METRICS)
        if set(images["frame"]) != set(rows["frame"]):
            raise HDEDError(f"{path}: its frames are not those of depth.csv; {REPAIR}")
        found[ALL_IN_FOCUS] = images
    return found


def _check_frames(path: Path, rows: pd.DataFrame, count: int) -> None:
    for (protocol, method), group in rows.groupby(["protocol", "method"]):
        if len(group) != count or group["frame"].nunique() != count:
            raise HDEDError(
                f"{path}: {group['frame'].nunique()} frames in {len(group)} rows of {method}, "
                f"{protocol}; the evaluation had {count} frames, {REPAIR}"
            )


def _check_numbers(path: Path, rows: pd.DataFrame, metrics: Sequence[str]) -> None:
    numbers = rows[list(metrics)].apply(pd.to_numeric, errors="coerce")
    bad = rows[~numbers.map(math.isfinite).all(axis=1)]
    if len(bad):
        first = bad.iloc[0]
        raise HDEDError(
            f"{path}: frame {first['frame']}, {first['method']}, {first['protocol']} has an error "
            f"that is not a number; look for a diverged network, then {REPAIR}"
        )


def _read_scenes(folder: Path) -> tuple[Scene, ...]:
    table = read_csv(folder / "examples.csv", ("frame", "role"))
    scenes = []
    for record in table.to_dict("records"):
        place = folder / "scenes" / record["frame"]
        if not place.is_dir():
            raise HDEDError(f"{place}: scenes.csv names it but it is missing; {REPAIR}")
        numbers = [_number(record.get(key)) for key in ("rmse", "psnr", "input_psnr")]
        scenes.append(Scene(record["frame"], record["role"], *numbers, folder=place))
    return tuple(scenes)


def _read_curve(path: Path, heads: tuple[str, ...]) -> pd.DataFrame | None:
    if NEEDED_HEAD[DEPTH] not in heads:
        return None
    columns = ("bin_low", "bin_high", "pixels", "rmse", "abs_rel", "bias")
    return read_csv(path, columns, may_be_empty=True)  # no pixel with depth, no bin


def _check_same_data(runs: Sequence[Run]) -> None:
    """Tables put runs side by side: they must have been measured on the same pictures."""
    plain = [run for run in runs if not run.control]  # a control has pictures of its own
    pairs = [(key, pair) for key in ("format", "source", "median_depth_m", "truth")
             for pair in pairwise(runs)]  # fmt: skip
    pairs += [(key, pair) for key in ("camera", "frames") for pair in pairwise(plain)]
    for key, (first, run) in pairs:
        if getattr(run, key) != getattr(first, key):
            raise HDEDError(
                f"report: {first.name} and {run.name} were measured on different data ({key} "
                f"differs); {REPAIR}"
            )


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
