"""Speed of every system of Table IV: training steps on crops, and one whole picture.

Images are noise and weights are new: neither changes the time. The sizes are those of params.yaml
and of the dataset.
"""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hded.common.progress import progress
from hded.config.params import Params
from hded.config.schema import Evaluate, Train
from hded.inference import Predictor
from hded.inference.restoration import Deconvolution
from hded.network import HDEDNet
from hded.network.torch_io import autocast
from hded.optics import Camera
from hded.report.tables.speed import ONE_IMAGE, SYSTEMS, TRAINING
from hded.store import Store
from hded.training.batch import Batch, network_inputs
from hded.training.build import build_loss, network_arguments
from hded.training.optim import build_optimizer
from pipeline.lib import provenance

STEPS, PICTURES = 5, 3
DEPTH_M = 3.0  # of the drawn scene: a typical room


def measure(scenes: Store, params: Params, dataset: str, device: torch.device) -> dict[str, Any]:
    """Return the section on the variants that stand in Table IV, and on those that are run."""
    rows = []
    measured = list(dict.fromkeys((*params.paper_rows, *params.run.variants)))
    for variant in progress(measured, desc="systems", unit="system"):
        network, train, evaluate = params.variant(variant)
        names = params.variants[variant].camera or params.defocus.camera
        names = names[dataset] if isinstance(names, Mapping) else names
        lens_camera = params.camera(names[0])[0]
        shots = 1 if train.network_input == "sharp" else len(names)
        arguments = network_arguments(network, scenes.attributes["max_depth_m"], shots)
        model = HDEDNet(**arguments)
        seconds = _training_step(model, train, lens_camera, device) / train.batch_size
        rows.append({"name": variant + TRAINING, "seconds": seconds})
        size = tuple(scenes.attributes["size"])
        seconds = _picture(model, evaluate, lens_camera, size, device)
        rows.append({"name": variant + ONE_IMAGE, "seconds": seconds})
    for row in rows:
        row["frames_per_s"] = 1 / row["seconds"]
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    _, train, _ = params.variant(params.run.variants[0])
    height, width = scenes.attributes["size"]
    text = (
        f"Training: batches of {train.batch_size} crops of {train.size_px} px in "
        f"{train.precision}, without loading them, per sample. One picture: {height}x{width} of "
        f"{dataset}, in float32, with its deconvolution where there is one. Medians of {STEPS} "
        f"steps and {PICTURES} pictures. On {provenance.hardware(device)}"
    )
    return {
        "title": SYSTEMS,
        "baseline": rows[0]["name"],
        "statements": [{"title": "Systems", "text": text}],
        "rows": rows,
    }


def _training_step(model: HDEDNet, train: Train, camera: Camera, device: torch.device) -> float:
    """Return the seconds of a training step."""
    model.to(device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    loss = build_loss(model, train).to(device)
    optimizer = build_optimizer(model, loss, train)
    batch = _batch(model.shots, train, camera).to(device)
    inputs = network_inputs(model, batch)

    def step() -> None:
        with autocast(device, train.precision):
            outputs = model(*inputs)
        terms = loss({name: output.float() for name, output in outputs.items()}, batch)
        optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        optimizer.step()
        terms["total"].item()  # waits for the device

    return _median_seconds(step, STEPS)


def _picture(
    model: HDEDNet,
    evaluate: Evaluate,
    camera: Camera,
    size: tuple[int, ...],
    device: torch.device,
) -> float:
    """Return the seconds of one picture, restored as the variant's evaluation restores it."""
    predictor = Predictor(model, "crop", 0, device)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3 * model.shots)).astype(np.uint8)
    lens = camera.lens(np.full(size, DEPTH_M), size[1], rng)
    depth_m = rng.uniform(0.7 * DEPTH_M, 1.3 * DEPTH_M, size).astype(np.float32)
    restore = None
    if evaluate.restoration.method != "none":
        restore = Deconvolution(evaluate.restoration, model.denoiser)

    def picture() -> None:
        predictor(image, lens)
        if restore is not None:
            restore(image[..., :3], depth_m, lens)

    return _median_seconds(picture, PICTURES)


def _batch(shots: int, train: Train, camera: Camera) -> Batch:
    side, count = train.size_px, train.batch_size

    def images(channels: int) -> Tensor:
        return 2 * torch.rand(count, channels, side, side) - 1

    depth_m = DEPTH_M * (0.7 + 0.6 * torch.rand(count, 1, side, side))
    lens = camera.lens(np.full((1, 1), DEPTH_M), 640, np.random.default_rng(0))
    lenses = torch.tensor([lens.row()]).expand(count, shots, -1).contiguous()
    rgb = images(3 * shots)
    return Batch(rgb, images(3), rgb[:, :3], depth_m, depth_m > 0, lenses, tuple(range(count)))


def _median_seconds(work: Callable[[], None], runs: int) -> float:
    work()  # warms up
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)
