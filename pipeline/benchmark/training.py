"""Training speed: against a plain PyTorch loop, and with frames that are streamed."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from hded.config.schema import Loss, Train
from hded.network import HDEDNet
from hded.network.normalize import to_network_range
from hded.store import Store
from hded.training.batch import Batch
from hded.training.frames import TrainingFrames
from hded.training.loop import fit
from hded.training.losses import HDEDLoss
from hded.training.samplers import StoredSampler
from pipeline.lib import provenance

SIZE_PX = 256
BATCH = 4  # the paper's
STEPS = {"cpu": 4, "cuda": 60}  # timed steps, after a warm-up
WORKERS = 2
ROUNDS = 3  # of resident and streamed frames in turn
GPU_BATCHES = (4, 32)
# dense bfloat16 FLOP/s, by the manufacturer's data sheets
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
# the preset `small`: a step is so short that reading frames could keep it waiting
SMALL_SIZE_PX, SMALL_BATCH, SMALL_STEPS = 192, 8, {"cpu": 8, "cuda": 60}
# the first epoch is a warm-up: compilers, caches, start of the device
SETTINGS = Train(epochs=2, batch_size=BATCH, checkpoint="last", checkpoint_minutes=1e9)


class _Samples(Dataset):
    """Crops as most training scripts make them: a frame is read when its sample is needed."""

    def __init__(self, scenes: Store, defocused: Store, rows: np.ndarray, size_px: int) -> None:
        self.scenes, self.defocused, self.rows, self.size_px = scenes, defocused, rows, size_px

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        row = int(self.rows[i])
        index = int(self.defocused.frames["frame_index"].iloc[row])
        arrays = [
            self.defocused.read("defocused", row),
            self.scenes.read("rgb", index),
            self.scenes.read("depth", index)[..., None],
        ]
        height, width = arrays[0].shape[:2]
        size = self.size_px
        top = int(torch.randint(height - size + 1, ()))
        left = int(torch.randint(width - size + 1, ()))
        step = -1 if torch.rand(()) < 0.5 else 1
        cut = [a[top : top + size, left : left + size][:, ::step] for a in arrays]
        depth = torch.from_numpy(np.ascontiguousarray(cut[2])).movedim(-1, 0)
        return to_network_range(cut[0]).contiguous(), to_network_range(cut[1]).contiguous(), depth


def measure(scenes: Store, defocused: Store, device: torch.device) -> dict[str, Any]:
    """Return the section of the benchmark on the plain loop and ours at each precision."""
    steps = STEPS[device.type]
    baseline = "plain loop, eager float32, DataLoader"
    rows = [{"name": baseline, **_rates(_plain(scenes, defocused, device, steps), BATCH)}]
    ways: list[tuple[str, Train]] = [
        ("ours, float32", SETTINGS),
        ("ours, bf16", SETTINGS.model_copy(update={"precision": "bf16"})),
        (
            "ours, bf16, streamed",
            SETTINGS.model_copy(update={"precision": "bf16", "memory": "stream"}),
        ),
    ]
    if device.type == "cuda":
        for batch in GPU_BATCHES:
            changes = {"batch_size": batch, "precision": "bf16", "compile": True}
            settings = SETTINGS.model_copy(update=changes)
            ways.append((f"ours, bf16, compiled, batch {batch}", settings))
    for name, settings in ways:
        times = _ours(scenes, defocused, device, steps, settings, HDEDNet(), SIZE_PX)
        rows.append({"name": name, **_rates(times, settings.batch_size)})
    forward, training = flops_a_sample()
    peak = next((p for n, p in PEAK_FLOPS.items() if n in provenance.hardware(device)), None)
    for row in rows:
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
        if peak is not None:
            row["peak_share"] = training / row["seconds"] / peak
    text = (
        f"the paper's network (41,414,400 parameters) on crops of {SIZE_PX}x{SIZE_PX} px, batch "
        f"size {BATCH} unless stated, Adam, both heads and every loss: "
        f"{training / 1e9:.0f} GFLOP per sample, {forward / 1e9:.0f} of them forward; median of "
        f"{steps} steps after a warm-up. The baseline's {WORKERS} workers read each frame from the "
        f"store; our frames are in memory, or read from it by threads where `streamed`. On "
        f"{provenance.hardware(device)}"
    )
    return {
        "title": f"Training on {'a GPU' if device.type == 'cuda' else 'the CPU'}",
        "baseline": baseline,
        "statements": [{"title": "Training", "text": text}],
        "rows": rows,
    }


def _rates(times: tuple[list[float], float], batch: int) -> dict[str, float]:
    steps, waiting = times
    seconds = statistics.median(steps) / batch
    return {"seconds": seconds, "frames_per_s": 1 / seconds, "data_share": waiting}


def _plain(
    scenes: Store, defocused: Store, device: torch.device, steps: int
) -> tuple[list[float], float]:
    torch.manual_seed(0)
    network, loss = HDEDNet().to(device).train(), HDEDLoss(Loss()).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
    rows = np.resize(defocused.indices("train"), (steps + 2) * BATCH)
    loader = DataLoader(
        _Samples(scenes, defocused, rows, SIZE_PX), BATCH, shuffle=True, num_workers=WORKERS,
        pin_memory=device.type == "cuda", multiprocessing_context="spawn",
    )  # fmt: skip
    times, waited = [], []
    batches: Iterator[list[Tensor]] = iter(loader)
    for _ in range(steps + 2):
        start = time.perf_counter()
        blurred, sharp, depth_m = (t.to(device) for t in next(batches))
        ready = time.perf_counter()
        batch = Batch(blurred, sharp, blurred, depth_m, depth_m > 0, None, ())
        terms = loss(network(blurred), batch)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        terms["total"].item()  # such loops usually print it; synchronises with the device
        times.append(time.perf_counter() - start)
        waited.append(ready - start)
    return times[2:], sum(waited[2:]) / sum(times[2:])


def measure_streaming(scenes: Store, defocused: Store, device: torch.device) -> dict[str, Any]:
    """Return the section on frames in memory and frames read as they are needed, in turn."""
    steps = SMALL_STEPS[device.type]
    changes = {"batch_size": SMALL_BATCH, "precision": "bf16"}
    seconds: dict[str, list[float]] = {"resident": [], "stream": []}
    for _ in range(ROUNDS):
        for memory, found in seconds.items():
            settings = SETTINGS.model_copy(update={**changes, "memory": memory})
            network = HDEDNet(encoder="efficientnet_lite0", decoder="bilinear")
            times, _ = _ours(scenes, defocused, device, steps, settings, network, SMALL_SIZE_PX)
            found += [each / SMALL_BATCH for each in times]
    rows: list[dict[str, Any]] = []
    for memory, found in seconds.items():
        middle = statistics.median(found)
        rows.append({"name": f"memory: {memory}", "seconds": middle, "frames_per_s": 1 / middle})
    for row in rows:
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    height, width = scenes.attributes["size"]
    text = (
        f"the small network (EfficientNet-Lite0, both heads) in bf16, batches of {SMALL_BATCH} "
        f"crops of {SMALL_SIZE_PX} px; median of {ROUNDS} rounds of {steps} steps, resident and "
        f"streamed in turn, on {len(scenes)} frames of {height}x{width}. On "
        f"{provenance.hardware(device)}"
    )
    return {
        "title": f"Streaming to {'a GPU' if device.type == 'cuda' else 'the CPU'}",
        "baseline": rows[0]["name"],
        "statements": [{"title": "Streaming", "text": text}],
        "rows": rows,
    }


def _ours(
    scenes: Store,
    defocused: Store,
    device: torch.device,
    steps: int,
    settings: Train,
    network: HDEDNet,
    size_px: int,
) -> tuple[list[float], float]:
    torch.manual_seed(0)
    indices = np.resize(scenes.indices("train"), (steps + 1) * settings.batch_size)
    streams = settings.memory == "stream"
    frames = TrainingFrames(scenes, [defocused], indices, "crop", size_px, streams=streams)
    frames.move_to(device)
    torch.compiler.reset()  # else the sizes of the last way decide what is compiled
    ends: list[float] = []
    asked: Callable[[], bool] = lambda: ends.append(time.perf_counter()) or False  # noqa: E731
    samples = StoredSampler(frames)
    result = fit(network, HDEDLoss(Loss()), samples, None, settings, device, should_stop=asked)
    return np.diff(ends[-(steps + 1) :]).tolist(), result.history[1]["data_share"]


def flops_a_sample() -> tuple[int, int]:
    """Return the paper's network's operations on a crop: forward, and forward and backward."""
    with torch.device("meta"):
        network, image = HDEDNet().eval(), torch.zeros(1, 3, SIZE_PX, SIZE_PX)
    counts = []
    for trains in (False, True):
        with FlopCounterMode(display=False) as counter:
            outputs = network(image)
            if trains:
                torch.stack([output.sum() for output in outputs.values()]).sum().backward()
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]
