"""Evaluation of a network on a dataset's test frames: per-image rows, and aggregates from them.

The network predicts one batch while threads compute the errors of the last one. The queue between
them is short, so memory does not grow with the number of frames. The network is compared with two
baselines: the training set's median depth, and the defocused input itself as all-in-focus image.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.common.resize import resize_bilinear
from hded.evaluation.controls import Renderings, lens_of
from hded.evaluation.protocols import (
    MIN_DEPTH_M,
    PAPER_SIZE,
    DepthProtocol,
    aggregate_all_in_focus,
    all_in_focus_statement,
    depth_protocols,
    measure_all_in_focus,
)
from hded.optics import ThinLens
from hded.store import Store

DEPTH_BINS = 20
COC_BIN_PX = 1.0


@dataclass(frozen=True, slots=True)
class SystemInput:
    """The input of a system under test.

    `rgb`: (H, W, 3 S) uint8, the images by S cameras side by side; `lens`: that of the first; None
    where it is not known; `depth_m`: the true depth (H, W), for controls alone.
    """

    rgb: NDArray[np.uint8]
    lens: ThinLens | None
    depth_m: NDArray[np.float32]


# of one image: rows of the tables `depth` and `images`, sums of the error curves
# `by_depth` and `by_coc`, and in `truth` the SHA-256 of its true depth
FrameErrors = dict[str, Any]

# the outputs of each image, as `Predictor.batch` returns them
Predict = Callable[[Sequence[SystemInput]], Sequence[Mapping[str, NDArray]]]


@dataclass(slots=True)
class ErrorCurve:
    """Depth error against another quantity, in bins: sums over the pixels of all frames."""

    edges: NDArray[np.float64]
    sums: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = np.zeros((4, len(self.edges) - 1))

    def sums_of(
        self, quantity: NDArray, pred: NDArray, gt: NDArray, valid: NDArray
    ) -> NDArray[np.float64]:
        """Return the sums over one frame's valid pixels; all arguments (H, W)."""
        x, error = quantity[valid], (pred[valid] - gt[valid]).astype(np.float64)
        bins = len(self.edges) - 1
        index = np.searchsorted(self.edges, x, "right") - 1
        index[x == self.edges[-1]] = bins - 1  # the last bin includes its upper edge
        # pixels outside all bins are counted in an extra bin, which is dropped
        index[(index < 0) | (index >= bins)] = bins
        weights = (None, error**2, np.abs(error) / gt[valid], error)
        counts = [np.bincount(index, w, bins + 1)[:bins] for w in weights]
        return np.stack(counts).astype(np.float64, copy=False)

    def add(self, quantity: NDArray, pred: NDArray, gt: NDArray, valid: NDArray) -> None:
        """Add one frame's valid pixels; all arguments (H, W)."""
        self.sums += self.sums_of(quantity, pred, gt, valid)

    def table(self) -> pd.DataFrame:
        """Return bin_low, bin_high, pixels, rmse [m], abs_rel and bias [m] of non-empty bins."""
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
    """The results of an evaluation: per-image rows, aggregates, error curves and protocols."""

    depth: pd.DataFrame
    all_in_focus: pd.DataFrame
    metrics: dict[str, Any]
    protocols: list[dict[str, Any]]
    by_depth: ErrorCurve
    by_coc: ErrorCurve
    median_depth_m: float
    truth: str  # SHA-256 prefix of the digests of the test frames' ground-truth depth


@dataclass(frozen=True, slots=True)
class _Frame:
    """A test rendering and its ground truth, all at native size."""

    key: dict[str, Any]
    image: SystemInput
    defocused: NDArray[np.uint8]
    coc_px: NDArray[np.float32]
    depth_m: NDArray[np.float32]
    raw_valid: NDArray[np.bool_] | None
    sharp: NDArray[np.uint8] | None
    first: bool  # of the renderings of its frame, whose true depth is counted once


def median_depth_m(scenes: Store) -> float:
    """Return the median [m] of the training frames' valid depth, to 1 mm, from a histogram."""
    counts = np.zeros(1, np.int64)
    for index in scenes.indices("train"):
        depth = scenes.read("depth", index)
        # a depth beyond 1 km is damaged data; the clip bounds the histogram's size
        millimetres = np.rint(np.clip(depth[depth > 0], 0, 1000) * 1000).astype(np.int64)
        frame = np.bincount(millimetres, minlength=len(counts))
        frame[: len(counts)] += counts
        counts = frame
    return float(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) / 1000


def evaluate(
    predict: Predict,
    scenes: Store,
    renderings: Sequence[Renderings],
    *,
    heads: tuple[str, ...],
    size_px: int | None,
    batch_size: int = 1,
    median_m: float | None = None,
) -> Evaluation:
    """Evaluate `predict` on the test frames under every protocol of the dataset.

    The arguments are those of `EvaluationSet` and its `measure`; median_m: None computes it from
    the training frames.
    """
    median_m = median_depth_m(scenes) if median_m is None else median_m
    images = EvaluationSet(scenes, renderings, heads=heads, size_px=size_px, median_m=median_m)
    with progress(total=len(images), desc="evaluate", unit="frame") as bar:
        every = range(len(images))
        return images.summarise(images.measure(predict, every, batch_size, lambda _: bar.update()))


class EvaluationSet:
    """The test images of a dataset, and every protocol under which a system is measured on them.

    renderings: by each camera whose images the system reads together. A frame with several
    renderings by a camera, one for each focus distance, counts once for each of them.

    heads: the outputs of the system. size_px: side of the input of a network with the geometry
    `resize`, None for any other. median_m: median depth [m] of the training frames, the baseline.
    """

    def __init__(
        self,
        scenes: Store,
        renderings: Sequence[Renderings],
        *,
        heads: tuple[str, ...],
        size_px: int | None,
        median_m: float,
    ) -> None:
        self._scenes, self._renderings = scenes, renderings
        attributes, defocused = scenes.attributes, renderings[0]
        self._native: tuple[int, int] = tuple(attributes["size"])
        network_size = (size_px, size_px) if size_px else None
        every = depth_protocols(
            attributes["format"],
            attributes["max_depth_m"],
            photographs="defocused" in scenes.arrays,
        )
        if network_size:
            side = f"{size_px}x{size_px}"
            every += tuple(
                replace(
                    p, name=f"{p.name}_{size_px}", title=f"{p.title} at {side}", size=network_size
                )
                for p in every
                if not p.raw and p.crop is None
            )
        self._every = every
        self._has_raw = "raw_valid" in scenes.arrays
        self._sizes = (
            [network_size] if network_size else list(dict.fromkeys([self._native, PAPER_SIZE]))
        )
        for other in renderings[1:]:
            if list(other.frames["frame_index"]) != list(defocused.frames["frame_index"]):
                names = (each.attributes["camera"]["name"] for each in (defocused, other))
                raise HDEDError(
                    f"cameras {' and '.join(names)}: their images are read together, but one of "
                    "them has more focus distances; give both one"
                )
        self._table = defocused.frames
        self._several = self._table["camera_index"].nunique() > 1
        self._rows = defocused.indices("test")
        max_coc = defocused.attributes["camera"]["max_coc_px"]
        restores = "all_in_focus" in heads and "all_in_focus" in attributes["truths"]
        self._errors = _FrameEvaluator(
            protocols=[p for p in every if self._has_raw or not p.raw],
            sizes=self._sizes if restores else [],
            native=self._native,
            median_m=median_m,
            by_depth=ErrorCurve(np.linspace(0, attributes["max_depth_m"], DEPTH_BINS + 1)),
            by_coc=ErrorCurve(np.arange(-np.ceil(max_coc), np.ceil(max_coc) + 1, COC_BIN_PX)),
        )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> list[str]:
        """Return the names of the images."""
        return self._table["frame"].iloc[self._rows].tolist()

    def measure(
        self,
        predict: Predict,
        positions: range,
        batch_size: int,
        watch: Callable[[int], object],
    ) -> Iterator[FrameErrors]:
        """Yield the errors of the images at `positions`, in order; they are JSON.

        batch_size: number of images that `predict` gets at once; watch: is called with each
        position before its image is read. Raises HDEDError, naming the frame, for a predicted depth
        that is not finite.
        """

        def frames() -> Iterator[_Frame]:
            for position in positions:
                watch(position)
                yield self._read(int(self._rows[position]))

        return _stream(predict, frames(), self._errors.measure, batch_size)

    def _read(self, row: int) -> _Frame:
        scenes, table, defocused = self._scenes, self._table, self._renderings[0]
        index = table["frame_index"].iloc[row]
        key = {"frame": table["frame"].iloc[row]}
        image = read_system_input(scenes, self._renderings, row)
        if self._several:
            key["source_frame"] = scenes.frames["frame"].iloc[index]
            key["focus_distance_m"] = float(table["focus_distance_m"].iloc[row])
        return _Frame(
            key=key,
            image=image,
            defocused=image.rgb[..., :3],
            coc_px=defocused.read("coc", row).astype(np.float32),
            depth_m=image.depth_m,
            raw_valid=scenes.read("raw_valid", index) if self._has_raw else None,
            sharp=scenes.read("rgb", index) if self._errors.sizes else None,
            first=bool(table["camera_index"].iloc[row] == 0),
        )

    def summarise(self, results: Iterable[FrameErrors]) -> Evaluation:
        """Return the evaluation from the errors of all images, in their order."""
        depth_rows: list[dict[str, Any]] = []
        image_rows: list[dict[str, Any]] = []
        by_depth, by_coc = (
            ErrorCurve(curve.edges) for curve in (self._errors.by_depth, self._errors.by_coc)
        )
        truth = hashlib.sha256()
        for result in results:
            depth_rows += result["depth"]
            image_rows += result["images"]
            truth.update(result["truth"].encode())
            for name, curve in (("by_depth", by_depth), ("by_coc", by_coc)):
                if name in result:
                    curve.sums += np.asarray(result[name])
        depth, all_in_focus = pd.DataFrame(depth_rows), pd.DataFrame(image_rows)
        protocols = self._errors.protocols
        metrics = _aggregate(depth, all_in_focus, protocols)
        if self._several:
            images = {}
            if len(all_in_focus):
                images = dict(list(all_in_focus.groupby("focus_distance_m")))
            metrics["focus"] = {
                f"{focus:.10g}": _aggregate(rows, images.get(focus, all_in_focus), protocols)
                for focus, rows in depth.groupby("focus_distance_m")
            }
        return Evaluation(
            depth=depth,
            all_in_focus=all_in_focus,
            metrics=metrics,
            protocols=[_depth_block(p, self._native, self._has_raw) for p in self._every]
            + [_image_block(size, self._native) for size in self._sizes],
            by_depth=by_depth,
            by_coc=by_coc,
            median_depth_m=self._errors.median_m,
            truth=truth.hexdigest()[:20],
        )


def read_system_input(scenes: Store, renderings: Sequence[Renderings], row: int) -> SystemInput:
    """Return the input of a system for one row of the renderings' tables."""
    first = renderings[0]
    shots = [each.read("defocused", row) for each in renderings]
    return SystemInput(
        rgb=shots[0] if len(shots) == 1 else np.concatenate(shots, -1),
        lens=lens_of(first, row),
        depth_m=scenes.read("depth", int(first.frames["frame_index"].iloc[row])),
    )


@dataclass(frozen=True, slots=True)
class _FrameEvaluator:
    """Computes the errors of single frames, under all protocols and at all sizes."""

    protocols: list[DepthProtocol]
    sizes: list[tuple[int, int]]
    native: tuple[int, int]
    median_m: float
    by_depth: ErrorCurve
    by_coc: ErrorCurve

    def measure(self, frame: _Frame, outputs: Mapping[str, NDArray]) -> FrameErrors:
        gt, max_m = frame.depth_m, self.by_depth.edges[-1]
        predictions = {"median": np.full(gt.shape, self.median_m, np.float32)}
        curves = {}
        if "depth" in outputs:
            predictions["network"] = outputs["depth"]
            valid = (gt > MIN_DEPTH_M) & (gt <= max_m)
            pred = np.clip(resize_bilinear(outputs["depth"], gt.shape), MIN_DEPTH_M, max_m)
            curves["by_depth"] = self.by_depth.sums_of(gt, pred, gt, valid).tolist()
            curves["by_coc"] = self.by_coc.sums_of(frame.coc_px, pred, gt, valid).tolist()
        depth, images = [], []
        # protocols that differ only in pooling have the same per-image errors
        kinds = {p.per_image for p in self.protocols}
        for method, pred in predictions.items():
            key = {**frame.key, "method": method}
            try:
                rows = {kind: kind.measure(pred, gt, frame.raw_valid) for kind in kinds}
            except HDEDError as error:
                raise HDEDError(f"frame {frame.key['frame']}: {error}") from None
            depth += [{**key, "protocol": p.name, **rows[p.per_image]} for p in self.protocols]
        if frame.sharp is not None:
            estimates = {"network": outputs["all_in_focus"], "input": frame.defocused}
            for size in self.sizes:
                for method, scores in measure_all_in_focus(estimates, frame.sharp, size).items():
                    key = {**frame.key, "method": method}
                    images.append({**key, "protocol": _size_name(size, self.native), **scores})
        truth = hashlib.sha256(gt.data).hexdigest() if frame.first else ""
        return {"depth": depth, "images": images, "truth": truth, **curves}


def _stream(
    predict: Predict,
    frames: Iterator[_Frame],
    measure: Callable[[_Frame, Mapping[str, NDArray]], FrameErrors],
    batch_size: int,
) -> Iterator[FrameErrors]:
    """Predict in this thread, measure in others, and yield the results in the frames' order."""
    threads = torch.get_num_threads()
    waiting: deque[Future[FrameErrors]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(frames, batch_size)):
            try:
                outputs = predict([frame.image for frame in batch])
            except HDEDError as error:
                raise HDEDError(f"frame {batch[0].key['frame']}: {error}") from None
            for frame, output in zip(batch, outputs, strict=True):
                waiting.append(pool.submit(measure, frame, output))
            while len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _aggregate(
    depth: pd.DataFrame, all_in_focus: pd.DataFrame, protocols: list[DepthProtocol]
) -> dict[str, Any]:
    return {
        "depth": _aggregate_depth(depth, protocols),
        "all_in_focus": _aggregate_all_in_focus(all_in_focus),
    }


def _aggregate_depth(rows: pd.DataFrame, protocols: list[DepthProtocol]) -> dict[str, Any]:
    return {
        protocol.name: {
            str(method): protocol.aggregate(group)
            for method, group in rows[rows["protocol"] == protocol.name].groupby("method")
        }
        for protocol in protocols
    }


def _aggregate_all_in_focus(rows: pd.DataFrame) -> dict[str, Any]:
    if rows.empty:
        return {}
    result: dict[str, Any] = {}
    for protocol, group in rows.groupby("protocol", sort=False):
        scores = {str(m): aggregate_all_in_focus(part) for m, part in group.groupby("method")}
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
        "why_not": None if available else "the raw file has no rawDepths",
    }


def _image_block(size: tuple[int, int], native: tuple[int, int]) -> dict[str, Any]:
    title = "native size" if size == native else f"{size[0]}x{size[1]}"
    return {
        "name": _size_name(size, native),
        "kind": "all_in_focus",
        "title": f"All-in-focus image at {title}",
        "statement": all_in_focus_statement(size, native),
        "available": True,
        "why_not": None,
    }
