"""Speed and error of the per-pixel Gaussian blur, against a stack of quantised sigmas."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hded.blur import gaussian_gather, gaussian_gather_reference, layered_blur
from hded.blur.batch import gaussian_gather_batch
from hded.blur.support import radius_px
from hded.common.progress import progress
from hded.config.params import load_params
from hded.store import Store
from pipeline.lib import provenance, stage

RUNS = 7
SCIPY_SIGMAS = 73  # 0 to 7.25 px in steps of 0.1, a common quantisation in the literature
GPU_BATCH, GPU_BATCHES = 64, 20
Rows = list[dict[str, Any]]


def _frame(scenes: Store) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Return the first test frame: rgb, signed CoC and sigma [px]."""
    index = int(scenes.indices("test")[0])
    depth = scenes.read("depth", index)
    camera = load_params(stage.PARAMS).camera("paper")[0]
    lens = camera.lens(depth, scenes.attributes["image_width_px"], np.random.default_rng(0))
    return scenes.read("rgb", index), lens.coc_px(depth), lens.sigma_px(depth)


def _describe(scenes: Store, sigma: NDArray[np.float32]) -> str:
    taps = np.mean((2 * np.ceil(3 * sigma) + 1) ** 2)
    height, width = sigma.shape
    name = scenes.frames["frame"].iloc[scenes.indices("test")[0]]
    return (
        f"frame {name} of {scenes.attributes['dataset']} (source: {scenes.attributes['source']}), "
        f"{height}x{width}, uint8, camera paper focused at 2 m: mean sigma {sigma.mean():.2f} px, "
        f"mean {taps:.0f} taps per pixel"
    )


def measure_blur(scenes: Store) -> dict[str, Any]:
    """Return the benchmark's section on blurring one frame on the CPU."""
    rgb, coc, sigma = _frame(scenes)
    planes = torch.from_numpy(rgb / np.float32(255)).movedim(-1, 0)[None]
    widths = torch.from_numpy(sigma)[None]

    def torch_operations() -> NDArray:
        # requiring a gradient selects the implementation in torch operations on a CPU
        image = planes.clone().requires_grad_()
        return gaussian_gather_batch(image, widths)[0].detach().movedim(0, -1).numpy()

    baseline = f"scipy, {SCIPY_SIGMAS} quantised sigmas"
    plan: list[tuple[str, int, Callable[[], NDArray]]] = [
        (baseline, 3, lambda: scipy_stack(rgb, sigma)),
        ("numpy, loop over taps", 1, lambda: numpy_loop(rgb, sigma)),
        ("gaussian_gather", RUNS, lambda: gaussian_gather(rgb, sigma)),
        ("gaussian_gather_batch, torch operations", 1, torch_operations),
        ("layered_blur", 3, lambda: layered_blur(rgb, coc, sigma)),
    ]
    seconds, truth = _time(lambda: gaussian_gather_reference(rgb, sigma), 1)
    rows: Rows = [{"name": "reference, float64, pixel by pixel", "seconds": seconds}]
    for name, runs, work in progress(plan, desc="blur", unit="method"):
        seconds, out = _time(work, runs)
        row = {"name": name, "seconds": seconds}
        if name != "layered_blur":  # renders another image, so an error would be meaningless
            row["max_error"] = float(np.abs(out - truth).max())
        rows.append(row)
    against = next(row["seconds"] for row in rows if row["name"] == baseline)
    for row in rows:
        row["ratio"] = against / row["seconds"]
    return {
        "title": "Per-pixel Gaussian blur of one frame",
        "baseline": baseline,
        "statements": [
            {"title": "Frame", "text": _describe(scenes, sigma)},
            {
                "title": "Timing",
                "text": f"one call of a slow method; for the others the median of 3 or {RUNS} "
                "calls after a warm-up. Padding and conversion from uint8 are included. Largest "
                "error against the float64 reference, for values in [0, 1]",
            },
        ],
        "rows": rows,
    }


def scipy_stack(rgb: NDArray[np.uint8], sigma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur the whole image once for each quantised sigma and select per pixel; not exact."""
    image = rgb.astype(np.float32) / np.float32(255)
    levels = np.linspace(0, max(7.25, float(sigma.max())), SCIPY_SIGMAS)
    nearest = np.abs(sigma[..., None] - levels).argmin(-1)
    out = np.empty_like(image)
    for i, level in enumerate(levels):
        chosen = nearest == i
        if level < 0.1:
            out[chosen] = image[chosen]
            continue
        radius = math.ceil(3 * level)
        blurred = gaussian_filter(image, level, mode="reflect", radius=radius, axes=(0, 1))
        out[chosen] = blurred[chosen]
    return out


def numpy_loop(rgb: NDArray[np.uint8], sigma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add the filter's taps one by one, each for all pixels at once: exact, in plain numpy."""
    image = rgb.astype(np.float32) / np.float32(255)
    height, width = sigma.shape
    reach = np.where(sigma < 0.1, 0, np.ceil(3 * sigma.astype(np.float64)))
    radius = radius_px(float(sigma.max()))
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    k = 0.5 / np.maximum(sigma, np.float32(0.1)) ** 2
    out, total = np.zeros_like(image), np.zeros((height, width), np.float32)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            inside = reach >= max(abs(dy), abs(dx))
            weight = np.where(inside, np.exp(-k * (dy * dy + dx * dx)), np.float32(0))
            top, left = radius + dy, radius + dx
            out += weight[..., None] * padded[top : top + height, left : left + width]
            total += weight
    return out / total[..., None]


def measure_gpu_blur(scenes: Store) -> dict[str, Any]:
    """Return the benchmark's section on blurring batches on a GPU."""
    rgb, _, sigma = _frame(scenes)
    device = torch.device("cuda")
    image = torch.from_numpy(rgb / np.float32(255)).movedim(-1, 0).contiguous()
    images = image[None].repeat(GPU_BATCH, 1, 1, 1).to(device)
    widths = torch.from_numpy(sigma)[None].repeat(GPU_BATCH, 1, 1).to(device)
    largest = float(sigma.max())

    def batches() -> NDArray:
        for _ in range(GPU_BATCHES):
            out = gaussian_gather_batch(images, widths, max_sigma_px=largest)
        return out[0].movedim(0, -1).cpu().numpy()  # waits for the device

    single, _ = _time(lambda: gaussian_gather(rgb, sigma), RUNS)
    seconds, out = _time(batches, 5)
    each = seconds / (GPU_BATCH * GPU_BATCHES)
    error = float(np.abs(out - gaussian_gather_reference(rgb, sigma)).max())
    baseline = "gaussian_gather, CPU"
    rows: Rows = [
        {"name": baseline, "seconds": single, "frames_per_s": 1 / single, "ratio": 1.0},
        {
            "name": f"gaussian_gather_batch, {provenance.hardware(device)}",
            "seconds": each,
            "frames_per_s": 1 / each,
            "ratio": single / each,
            "max_error": error,
        },
    ]
    return {
        "title": "Per-pixel Gaussian blur of batches on a GPU",
        "baseline": baseline,
        "statements": [
            {"title": "Frame", "text": _describe(scenes, sigma)},
            {"title": "Batch", "text": f"{GPU_BATCH} float32 images that are already on the GPU"},
        ],
        "rows": rows,
    }


def _time(work: Callable[[], NDArray], runs: int) -> tuple[float, NDArray]:
    """Return the median time [s] of `runs` calls, and the result; several follow a warm-up call."""
    out = work() if runs > 1 else None
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        out = work()
        seconds.append(time.perf_counter() - start)
    assert out is not None
    return statistics.median(seconds), out
