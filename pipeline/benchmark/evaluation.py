"""The cost of measuring, beside the network's own time, on the test frames at native size."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hded.common.heads import HEADS
from hded.evaluation.evaluate import Predict, SystemInput, evaluate
from hded.inference import Predictor
from hded.network import HDEDNet
from hded.store import Store
from pipeline.lib import provenance

NETWORKS: dict[str, dict[str, Any]] = {
    "the paper's network": {},
    "EfficientNet-Lite0, slim decoders": {"encoder": "efficientnet_lite0", "decoder": "bilinear"},
}
BATCHES = {"cpu": (1, 4), "cuda": (1, 16)}


def measure(scenes: Store, defocused: Store, device: torch.device) -> dict[str, Any]:
    """Return the section of the benchmark on each network alone and evaluated."""
    images = [defocused.read("defocused", i) for i in defocused.indices("test")]

    def evaluated(predict: Callable, batch: int = 1) -> None:
        evaluate(predict, scenes, [defocused], heads=HEADS, size_px=None, batch_size=batch)

    rows = []
    for name, arguments in NETWORKS.items():
        network = HDEDNet(HEADS, depth_scale_m=10.0, **arguments)
        predictor = Predictor(network, "crop", 256, device)
        for batch in BATCHES[device.type]:
            predictor.batch(images[:batch])  # warms up
            alone = _seconds(_predict, predictor, images, batch)
            whole = _seconds(evaluated, _of_network(predictor), batch)
            rows.append({"name": f"{name}, batch {batch}: alone", "seconds": alone})
            rows.append({"name": f"{name}, batch {batch}: evaluated", "seconds": whole})
        network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        predictor.batch(images[:1])
        alone = _seconds(_predict, predictor, images, 1)
        rows.append({"name": f"{name}, batch 1, channels first: prediction", "seconds": alone})
    rows.append({"name": "no network: evaluation", "seconds": _seconds(evaluated, _constant)})
    for row in rows:
        row["seconds"] /= len(images)
        row["frames_per_s"] = 1 / row["seconds"]
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    height, width = images[0].shape[:2]
    text = (
        f"{len(images)} test frames of {height}x{width}, both heads, every protocol. `prediction`: "
        "the network, with conversion of its input and output; `evaluation`: reading, the network, "
        "and every metric, computed in parallel threads; `channels first`: without the channels-"
        f"last memory format that `Predictor` sets. On {provenance.hardware(device)}"
    )
    return {
        "title": f"Evaluation on {'a GPU' if device.type == 'cuda' else 'the CPU'}",
        "baseline": rows[0]["name"],
        "statements": [{"title": "Evaluation", "text": text}],
        "rows": rows,
    }


def _predict(predictor: Predictor, images: Sequence[NDArray[np.uint8]], batch: int) -> None:
    for start in range(0, len(images), batch):
        predictor.batch(images[start : start + batch])


def _of_network(predictor: Predictor) -> Predict:
    return lambda images: predictor.batch([image.rgb for image in images])


def _constant(images: Sequence[SystemInput]) -> list[dict[str, NDArray]]:
    depth = np.ones(images[0].rgb.shape[:2], np.float32)
    return [{"depth": depth, "all_in_focus": image.rgb} for image in images]


def _seconds(work: Callable[..., None], *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start
