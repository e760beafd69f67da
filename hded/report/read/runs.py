"""Readers for the outputs of the stages `train` and `evaluate`, with checks.

Each network has one folder, <dataset>/<variant>/<seed>, in the tree of trained networks and one in
the tree of evaluated networks. A file that is missing, damaged or of another network raises
HDEDError with one line that names it: a report on a part of the selection, or on networks that were
evaluated on different data, would be misleading.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from hded.common.errors import HDEDError
from hded.common.files import safe_name
from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.metrics import DEPTH_METRICS, IMAGE_METRICS
from hded.optics import NOT_DEFOCUSED
from hded.records import (
    BY_TRUE_DEPTH,
    REPAIR,
    EvaluationRecord,
    Metrics,
    Protocol,
    Scores,
    TrainingRecord,
    read_record,
)
from hded.report.read.files import read_csv


@dataclass(frozen=True, slots=True)
class Scene:
    """An example: a test rendering with images; scores that its network lacks are None."""

    frame: str
    role: str  # best | median | worst | fixed
    rmse_m: float | None
    psnr: float | None
    input_psnr: float | None
    folder: Path


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One evaluated network: the fields of evaluation.json, its scores, and its training."""

    dataset: str
    variant: str
    seed: int
    format: str  # nyu | make3d | folder
    source: str  # sample | official | folder | local
    heads: tuple[str, ...]
    geometry: str  # crop | resize
    size: tuple[int, int]  # of the test images (H, W)
    cameras: tuple[Mapping[str, Any], ...]  # of the images that it reads together
    truths: tuple[str, ...]  # kinds of truth that its test frames have
    reads: str  # defocused | sharp
    restoration: str  # by deconvolution; "" where the network restores
    hflip: bool  # whether its outputs are averaged with those of the mirrored image
    median_depth_m: float
    frames: tuple[str, ...]  # names of the test renderings, sorted
    truth: str  # hash of their depth, because equal names may denote different frames
    skipped: tuple[str, ...]
    control: str  # how its test frames differ from the dataset's; "" where they do not
    protocols: tuple[Protocol, ...]
    metrics: Mapping[str, Scores]  # by kind
    focus: Mapping[str, Mapping[Any, Scores]]  # by focus distance [m], if several; then by kind
    robustness_frames: int
    robustness: Mapping[str, Mapping[Any, Scores]]  # by degradation, then by kind
    measured: Mapping[str, int]  # depth protocol -> number of images with a valid pixel
    scenes: tuple[Scene, ...]
    by_depth: pd.DataFrame | None
    by_coc: pd.DataFrame | None
    training: TrainingRecord
    history: pd.DataFrame  # one row for each epoch of the training
    rows: Mapping[str, pd.DataFrame]  # by kind: one row for each image, protocol and method

    @property
    def name(self) -> str:
        """Return dataset, variant and seed, separated by slashes."""
        return f"{self.dataset}/{self.variant}/{self.seed}"

    @property
    def camera(self) -> Mapping[str, Any]:
        """Return the first camera: that of the images which are restored."""
        return self.cameras[0]

    @property
    def blurred(self) -> bool:
        """Return False where the network was tested on all-in-focus images, else True."""
        return self.camera["name"] != NOT_DEFOCUSED

    @property
    def by_true_depth(self) -> bool:
        """Return whether it restores by the true depth, which no system has: a control."""
        return self.restoration.endswith(BY_TRUE_DEPTH)

    @property
    def outputs(self) -> frozenset[str]:
        """Return the kinds of output that the system has, whether they were measured or not."""
        return frozenset(
            (*self.training.model.heads, *([ALL_IN_FOCUS] if self.restoration else []))
        )

    def lacks(self, kind: str) -> str:
        """Return why there is no score of this kind; "" where there is one."""
        if kind in self.heads:
            return ""
        name = kind.replace("_", "-")
        if kind in self.outputs:
            what = "depth" if kind == DEPTH else "all-in-focus image"
            return f"no true {what}: the test images of {self.dataset} have none"
        does = "estimates no depth" if kind == DEPTH else "restores no image"
        return f"no {name} head: {self.variant} {does}"

    def protocols_of(self, kind: str) -> list[Protocol]:
        """Return the protocols of one kind that were measured, in the evaluation's order."""
        return [p for p in self.protocols if p.kind == kind and p.available]

    def value(self, kind: str, protocol: str, method: str, metric: str) -> float | None:
        """Return one aggregate; None where it was not measured."""
        return self.metrics.get(kind, {}).get(protocol, {}).get(method, {}).get(metric)

    def per_image(self, kind: str, protocol: str, method: str, metric: str) -> pd.Series | None:
        """Return one metric of every image, by frame; None where it was not measured.

        The method `gain` is the network's score minus the input's. NaN where an image has no valid
        pixel.
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

    def per_frame(self, kind: str, protocol: str, method: str, metric: str) -> pd.Series | None:
        """Return `per_image` averaged over the renderings of each frame, which are correlated."""
        images = self.per_image(kind, protocol, method, metric)
        rows = self.rows[DEPTH]
        if images is None or "source_frame" not in rows:
            return images
        of = rows.drop_duplicates("frame").set_index("frame")["source_frame"]
        return images.groupby(of).mean()


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The selected runs: datasets x variants x seeds, in the order of params.yaml."""

    datasets: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]

    def of(self, dataset: str, variant: str | None = None) -> list[Run]:
        """Return a dataset's runs, or those of one variant, in the order of the seeds."""
        return [r for r in self.runs if r.dataset == dataset and variant in (None, r.variant)]


def comparable(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are not controls; all of them where every run is a control."""
    return [run for run in runs if not run.control] or list(runs)


def by_training(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs by the training frames whose median depth is their baseline; keys: row labels.

    These are the dataset's own training frames; where it has none, those that trained the network.
    """
    if len({run.median_depth_m for run in runs}) < 2:
        return {"training-median depth": list(runs)} if runs else {}
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(f"median depth of {run.training.dataset}", []).append(run)
    return found


def same_fit(first: Run, second: Run) -> bool:
    """Return whether two runs evaluated the same training.

    They do where variants differ only in the section `evaluate`. The histories are compared, too:
    those of a repeated training differ, as they include times.
    """
    same_settings = first.training.params_digest == second.training.params_digest
    return same_settings and first.history.equals(second.history)


def read_selection(
    evaluated: Path,
    trained: Path,
    datasets: Sequence[str],
    variants: Sequence[str],
    seeds: Sequence[int],
) -> Selection:
    """Return every selected run, read and checked.

    Raises HDEDError for an empty selection, a run that is not on disk, a file that is missing,
    damaged or of another run, and runs of one dataset that were measured on different data.
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
    record = read_record(EvaluationRecord, path)
    for key, expected in (("dataset", dataset), ("variant", variant), ("seed", seed)):
        if getattr(record, key) != expected:
            raise HDEDError(
                f"{path}: {key} is {getattr(record, key)!r}, its folder says {expected!r}; the "
                f"file belongs to another run, {REPAIR}"
            )
    return read_run(evaluated / cell, trained / cell)


def read_run(folder: Path, trained: Path) -> Run:
    """Return the network that `evaluate` measured into `folder` and `train` wrote to `trained`.

    Raises HDEDError for a file that is missing, damaged or of another network.
    """
    record = read_record(EvaluationRecord, folder / "evaluation.json")
    heads, protocols = record.heads, record.protocols
    rows = _read_images(folder, heads, record.frames)
    some = rows[DEPTH][rows[DEPTH]["valid_px"] > 0]
    measured = {
        p.name: int(some.loc[some["protocol"] == p.name, "frame"].nunique())
        for p in protocols
        if p.kind == DEPTH
    }
    metrics = _read_metrics(folder / "metrics.json", heads, protocols)
    fields: dict[str, Any] = dict(record)
    del fields["digest"]
    fields["frames"] = tuple(sorted(rows[DEPTH]["frame"].unique()))
    return Run(
        **fields,
        metrics={DEPTH: metrics.depth, ALL_IN_FOCUS: metrics.all_in_focus},
        focus=metrics.focus,
        robustness=metrics.robustness,
        measured=measured,
        scenes=_read_scenes(folder),
        by_depth=_read_curve(folder / "error_by_depth.csv", heads),
        by_coc=_read_curve(folder / "error_by_coc.csv", heads),
        training=_read_training(trained / "run.json", heads, record.restoration),
        history=read_csv(trained / "history.csv", ("epoch", "train/total")),
        rows=rows,
    )


def _read_training(path: Path, heads: tuple[str, ...], restoration: str) -> TrainingRecord:
    record = read_record(TrainingRecord, path)
    own = {*record.model.heads, *([ALL_IN_FOCUS] if restoration else [])}
    # an output is not measured where the images lack its truth
    if not set(heads) <= own:
        raise HDEDError(
            f"{path}: heads {list(record.model.heads)}, the evaluation has {list(heads)}; "
            f"they are not of one network, {REPAIR}"
        )
    return record


def _read_metrics(path: Path, heads: tuple[str, ...], protocols: Iterable[Protocol]) -> Metrics:
    metrics = read_record(Metrics, path)
    for protocol in protocols:
        needed = protocol.kind == DEPTH or ALL_IN_FOCUS in heads
        found = protocol.name in getattr(metrics, protocol.kind)
        if protocol.available and needed and not found:
            raise HDEDError(
                f"{path}: protocol {protocol.name} of evaluation.json is missing; {REPAIR}"
            )
    return metrics


def _read_images(folder: Path, heads: tuple[str, ...], count: int) -> dict[str, pd.DataFrame]:
    """Return the checked per-image rows, of each kind that the network has a head for."""
    path = folder / "depth.csv"
    rows = read_csv(path, ("frame", "protocol", "method", "valid_px", *DEPTH_METRICS))
    _check_frames(path, rows, count)
    _check_numbers(path, rows[rows["valid_px"] > 0], DEPTH_METRICS)
    found = {DEPTH: rows}
    if ALL_IN_FOCUS in heads:
        path = folder / "all_in_focus.csv"
        images = read_csv(path, ("frame", "protocol", "method", *IMAGE_METRICS))
        _check_frames(path, images, count)
        # the PSNR of a perfect image is infinite
        _check_numbers(path, images.replace({"psnr": {math.inf: 0.0}}), IMAGE_METRICS)
        if set(images["frame"]) != set(rows["frame"]):
            raise HDEDError(f"{path}: its frames differ from those of depth.csv; {REPAIR}")
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
            f"that is not a number; check whether training diverged, then {REPAIR}"
        )


def _read_scenes(folder: Path) -> tuple[Scene, ...]:
    table = read_csv(folder / "examples.csv", ("frame", "role"))
    scenes = []
    for record in table.to_dict("records"):
        place = folder / "scenes" / safe_name(record["frame"])
        if not place.is_dir():
            raise HDEDError(f"{place}: examples.csv names it but it is missing; {REPAIR}")
        numbers = [_number(record.get(key)) for key in ("rmse", "psnr", "input_psnr")]
        scenes.append(Scene(record["frame"], record["role"], *numbers, folder=place))
    return tuple(scenes)


def _read_curve(path: Path, heads: tuple[str, ...]) -> pd.DataFrame | None:
    if DEPTH not in heads:
        return None
    columns = ("bin_low", "bin_high", "pixels", "rmse", "abs_rel", "bias")
    return read_csv(path, columns, may_be_empty=True)  # empty where no pixel has depth


def _check_same_data(runs: Sequence[Run]) -> None:
    """Raise HDEDError unless all runs were measured on the same frames: tables compare them."""
    plain = [run for run in runs if not run.control]  # a control has renderings of its own
    pairs = [(key, pair) for key in ("format", "source", "truth") for pair in pairwise(runs)]
    for name in dict.fromkeys(run.training.dataset for run in runs):
        same = [run for run in runs if run.training.dataset == name]
        pairs += [("median_depth_m", pair) for pair in pairwise(same)]
    for name in dict.fromkeys(run.camera["name"] for run in plain):
        same = [run for run in plain if run.camera["name"] == name]
        pairs += [(key, pair) for key in ("camera", "frames") for pair in pairwise(same)]
    for key, (first, run) in pairs:
        if getattr(run, key) != getattr(first, key):
            raise HDEDError(
                f"report: {first.name} and {run.name} were measured on different data ({key} "
                f"differs); {REPAIR}"
            )


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
