"""Measuring a network on a dataset's test frames: per-image rows first, aggregates from them.

Frames are read, predicted and measured one at a time, so memory does not grow with their number.
Beside the network stand two predictors that look at nothing: the training set's median depth, and
the defocused input itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hded.progress import progress
from hded.protocols import (
    MIN_DEPTH_M,
    PAPER_SIZE,
    DepthProtocol,
    aggregate_restoration,
    depth_protocols,
    measure_restoration,
    restoration_statement,
)
from hded.resample import resize_bilinear
from hded.retake import Pictures
from hded.store import Store

Predict = Callable[[NDArray[np.uint8]], dict[str, NDArray]]
DEPTH_BINS = 20
COC_BIN_PX = 1.0


@dataclass(slots=True)
class ErrorCurve:
    """Depth error in bins of another quantity: sums over pixels, so that frames just add up."""

    edges: NDArray[np.float64]
    sums: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = np.zeros((4, len(self.edges) - 1))

    def add(self, quantity: NDArray, pred: NDArray, gt: NDArray, valid: NDArray) -> None:
        """Add one frame's valid pixels; all arguments (H, W)."""
        x, error = quantity[valid], (pred[valid] - gt[valid]).astype(np.float64)
        for i, weight in enumerate((None, error**2, np.abs(error) / gt[valid], error)):
            self.sums[i] += np.histogram(x, self.edges, weights=weight)[0]

    def table(self) -> pd.DataFrame:
        """Columns bin_low, bin_high, pixels, rmse [m], abs_rel, bias [m]; empty bins left out."""
        pixels, square, relative, bias = self.sums[:, used := self.sums[0] > 0]
        return pd.DataFrame(
            {
                "bin_low": self.edges[:-1][used],
                "bin_high": self.edges[1:][used],
                "pixels": pixels.astype(np.int64),
                "rmse": np.sqrt(square / pixels),
                "abs_rel": relative / pixels,
                "bias": bias / pixels,
            }
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Per-image rows, aggregates, curves, and the protocols they were taken under."""

    depth: pd.DataFrame
    restoration: pd.DataFrame
    metrics: dict[str, Any]
    protocols: list[dict[str, Any]]
    by_depth: ErrorCurve
    by_coc: ErrorCurve
    median_depth_m: float


def median_depth_m(scenes: Store) -> float:
    """Median of the training frames' known depth, to 1 mm (a running histogram, not a sort)."""
    counts = np.zeros(1, np.int64)
    for index in scenes.indices("train"):
        depth = scenes.read("depth", index)
        # beyond a kilometre a number is damaged, and only its being large matters here
        millimetres = np.rint(np.clip(depth[depth > 0], 0, 1000) * 1000).astype(np.int64)
        frame = np.bincount(millimetres, minlength=len(counts))
        frame[: len(counts)] += counts
        counts = frame
    return float(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) / 1000


def evaluate(
    predict: Predict,
    scenes: Store,
    defocused: Pictures,
    *,
    heads: tuple[str, ...],
    size_px: int | None,
) -> Evaluation:
    """Measure `predict` on the test frames under every protocol of the dataset.

    A frame with several defocused copies, one a focus distance, counts once for each of them.

    size_px: side of the squashed frames of a `resize` network, None for a native one.
    """
    attributes = scenes.attributes
    native: tuple[int, int] = tuple(attributes["size"])
    network_size = (size_px, size_px) if size_px else None
    every = depth_protocols(attributes["format"], attributes["max_depth_m"])
    if network_size:
        side = f"{size_px}x{size_px}"
        every += tuple(
            replace(p, name=f"{p.name}_{size_px}", title=f"{p.title} at {side}", size=network_size)
            for p in every
            if not p.raw and p.crop is None
        )
    has_raw = "raw_valid" in scenes.arrays
    protocols = [p for p in every if has_raw or not p.raw]
    kinds = {p.per_image for p in protocols}
    sizes = [network_size] if network_size else list(dict.fromkeys([native, PAPER_SIZE]))
    median_m = median_depth_m(scenes)
    top = attributes["max_depth_m"]
    max_coc = defocused.attributes["camera"]["max_coc_px"]
    by_depth = ErrorCurve(np.linspace(0, top, DEPTH_BINS + 1))
    by_coc = ErrorCurve(np.arange(-np.ceil(max_coc), np.ceil(max_coc) + 1, COC_BIN_PX))
    depth_rows: list[dict[str, Any]] = []
    image_rows: list[dict[str, Any]] = []
    table = defocused.frames
    several = table["camera_index"].nunique() > 1
    for copy in progress(defocused.indices("test"), desc="evaluate", unit="frame"):
        name, index = table["frame"].iloc[copy], table["scene_index"].iloc[copy]
        blurred, gt = defocused.read("defocused", copy), scenes.read("depth", index)
        outputs = predict(blurred)
        raw = scenes.read("raw_valid", index) if has_raw else None
        guesses = {"median": np.full(gt.shape, median_m, np.float32)}
        if "depth" in outputs:
            guesses["network"] = outputs["depth"]
            valid = (gt > MIN_DEPTH_M) & (gt <= top)
            pred = np.clip(resize_bilinear(outputs["depth"], gt.shape), MIN_DEPTH_M, top)
            by_depth.add(gt, pred, gt, valid)
            by_coc.add(defocused.read("coc", copy).astype(np.float32), pred, gt, valid)
        copy_key = {"frame": name}
        if several:
            copy_key["focus_distance_m"] = table["focus_distance_m"].iloc[copy]
        for method, guess in guesses.items():
            key = {**copy_key, "method": method}
            rows = {kind: kind.measure(guess, gt, raw) for kind in kinds}
            depth_rows += [{**key, "protocol": p.name, **rows[p.per_image]} for p in protocols]
        if "all_in_focus" in heads:
            sharp = scenes.read("rgb", index)
            images = {"network": outputs["all_in_focus"], "input": blurred}
            for size in sizes:
                for method, scores in measure_restoration(images, sharp, size).items():
                    key = {**copy_key, "method": method, "protocol": _size_name(size, native)}
                    image_rows.append({**key, **scores})
    depth, restoration = pd.DataFrame(depth_rows), pd.DataFrame(image_rows)
    metrics = _aggregate(depth, restoration, protocols)
    if several:
        images = dict(list(restoration.groupby("focus_distance_m"))) if len(restoration) else {}
        metrics["focus"] = {
            f"{focus:.10g}": _aggregate(rows, images.get(focus, restoration), protocols)
            for focus, rows in depth.groupby("focus_distance_m")
        }
    return Evaluation(
        depth=depth,
        restoration=restoration,
        metrics=metrics,
        protocols=[_depth_block(p, native, has_raw) for p in every]
        + [_image_block(size, native) for size in sizes],
        by_depth=by_depth,
        by_coc=by_coc,
        median_depth_m=median_m,
    )


def _aggregate(
    depth: pd.DataFrame, restoration: pd.DataFrame, protocols: list[DepthProtocol]
) -> dict[str, Any]:
    return {
        "depth": _aggregate_depth(depth, protocols),
        "restoration": _aggregate_restoration(restoration),
    }


def _aggregate_depth(rows: pd.DataFrame, protocols: list[DepthProtocol]) -> dict[str, Any]:
    return {
        protocol.name: {
            str(method): protocol.aggregate(group)
            for method, group in rows[rows["protocol"] == protocol.name].groupby("method")
        }
        for protocol in protocols
    }


def _aggregate_restoration(rows: pd.DataFrame) -> dict[str, Any]:
    if rows.empty:
        return {}
    result: dict[str, Any] = {}
    for protocol, group in rows.groupby("protocol", sort=False):
        scores = {str(m): aggregate_restoration(part) for m, part in group.groupby("method")}
        gain = {name: scores["network"][name] - scores["input"][name] for name in scores["input"]}
        result[str(protocol)] = {**scores, "gain": gain}
    return result


def _size_name(size: tuple[int, int], native: tuple[int, int]) -> str:
    return "native" if size == native else str(size[0])


def _depth_block(protocol: DepthProtocol, native: tuple[int, int], has_raw: bool) -> dict[str, Any]:
    available = has_raw or not protocol.raw
    return {
        "name": protocol.name,
        "kind": "depth",
        "title": protocol.title,
        "statement": protocol.statement(native),
        "available": available,
        "why_not": None if available else "the raw file carries no rawDepths",
    }


def _image_block(size: tuple[int, int], native: tuple[int, int]) -> dict[str, Any]:
    name = _size_name(size, native)
    return {
        "name": name,
        "kind": "restoration",
        "title": f"Restoration at {'native size' if name == 'native' else f'{size[0]}x{size[1]}'}",
        "statement": restoration_statement(size, native),
        "available": True,
        "why_not": None,
    }
