"""Speed and memory, as ratios to named baselines of the same run: reports/benchmark.json.

    python -m pipeline.benchmark          # or `make benchmark`, after `make repro`

- One frame of data/scenes/nyu through the camera `paper`, focused at 2 m: our blurs against scipy's
  stack of quantised sigmas, a numpy loop over taps, and the float64 reference, which also gives
  each one's largest error. On a GPU, if there is one, batches of it.
- The stages `convert` and `defocus` on NYU's raw files, each in a process of its own in a temporary
  folder: frames a second, and the largest memory of the process.
- Training of the paper's network (`benchmark_training`), and evaluation (`benchmark_evaluation`).
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hded.blur import gaussian_gather, gaussian_gather_reference, layered_blur
from hded.blur.batch import gaussian_gather_batch
from hded.blur.support import radius_px
from hded.errors import HDEDError
from hded.optics import CAMERAS
from hded.progress import progress
from hded.store import Store, open_store
from pipeline import benchmark_evaluation, benchmark_training, machine, stage

DATASET = "nyu"
RUNS = 7
SCIPY_SIGMAS = 73  # 0 to 7.25 px in steps of 0.1, as scripts of the field quantise
GPU_BATCH, GPU_BATCHES = 64, 20
Rows = list[dict[str, Any]]


def main() -> None:
    """Run every measurement and write the file."""
    stage.parser(__doc__).parse_args()
    scenes = open_store(stage.SCENES / DATASET)
    sections = [_blur(scenes)]
    if torch.cuda.is_available():
        sections.append(_gpu_blur(scenes))
    sections.append(_stages(len(scenes)))
    defocused = open_store(stage.DEFOCUSED / DATASET)
    for name in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        sections.append(benchmark_training.measure(scenes, defocused, torch.device(name)))
        sections.append(benchmark_evaluation.measure(scenes, defocused, torch.device(name)))
    stage.write_json(
        stage.BENCHMARK,
        {
            "machine": {
                "hardware": machine.hardware(torch.device("cpu")),
                "commit": machine.commit(),
                "versions": machine.versions("numba", "numpy", "scipy"),
            },
            "sections": sections,
        },
    )
    for section in sections:
        print(section["title"])
        for row in section["rows"]:
            print("  ", ", ".join(f"{k} {v:.4g}" if k != "name" else v for k, v in row.items()))


def _frame(scenes: Store) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Give the first test frame: rgb, signed CoC and sigma [px]."""
    index = int(scenes.indices("test")[0])
    depth = scenes.read("depth", index)
    lens = CAMERAS["paper"].lens(
        depth, scenes.attributes["image_width_px"], np.random.default_rng(0)
    )
    return scenes.read("rgb", index), lens.coc_px(depth), lens.sigma_px(depth)


def _describe(scenes: Store, sigma: NDArray[np.float32]) -> str:
    taps = np.mean((2 * np.ceil(3 * sigma) + 1) ** 2)
    height, width = sigma.shape
    name = scenes.frames["frame"].iloc[scenes.indices("test")[0]]
    return (
        f"frame {name} of {DATASET} (source: {scenes.attributes['source']}), {height}x{width}, "
        f"uint8, camera paper focused at 2 m: mean sigma {sigma.mean():.2f} px, mean "
        f"{taps:.0f} taps a pixel"
    )


def _blur(scenes: Store) -> dict[str, Any]:
    rgb, coc, sigma = _frame(scenes)
    planes = torch.from_numpy(rgb / np.float32(255)).movedim(-1, 0)[None]
    widths = torch.from_numpy(sigma)[None]

    def torch_operations() -> NDArray:
        # asking for a gradient takes the path of torch operations on a CPU
        image = planes.clone().requires_grad_()
        return gaussian_gather_batch(image, widths)[0].detach().movedim(0, -1).numpy()

    baseline = f"scipy, {SCIPY_SIGMAS} quantised sigmas"
    plan: list[tuple[str, int, Callable[[], NDArray]]] = [
        (baseline, 3, lambda: scipy_stack(rgb, sigma)),
        ("numpy, a loop over taps", 1, lambda: numpy_loop(rgb, sigma)),
        ("gaussian_gather", RUNS, lambda: gaussian_gather(rgb, sigma)),
        ("gaussian_gather_batch, torch operations", 1, torch_operations),
        ("layered_blur", 3, lambda: layered_blur(rgb, coc, sigma)),
    ]
    seconds, truth = _time(lambda: gaussian_gather_reference(rgb, sigma), 1)
    rows: Rows = [{"name": "reference, float64, pixel by pixel", "seconds": seconds}]
    for name, runs, work in progress(plan, desc="blur", unit="method"):
        seconds, out = _time(work, runs)
        row = {"name": name, "seconds": seconds}
        if name != "layered_blur":  # another image: nothing to compare
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
                "text": f"one call of a slow method, the median of 3 or {RUNS} after one of the "
                "others; all in, padding and conversion from bytes included; error against the "
                "float64 reference, on the scale [0, 1]",
            },
        ],
        "rows": rows,
    }


def scipy_stack(rgb: NDArray[np.uint8], sigma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur the whole image once for each quantised sigma, and pick: fast to write, not exact."""
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
    """Add up the taps one by one, each for all pixels at once: exact, in plain numpy."""
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


def _gpu_blur(scenes: Store) -> dict[str, Any]:
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
            "name": f"gaussian_gather_batch, {machine.hardware(device)}",
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
            {"title": "Batch", "text": f"{GPU_BATCH} float32 images that are on the device"},
        ],
        "rows": rows,
    }


def _stages(frames: int) -> dict[str, Any]:
    """Run convert and defocus on the raw files in a folder of their own."""
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "data/raw").mkdir(parents=True)
        (root / stage.RAW / DATASET).symlink_to((stage.RAW / DATASET).resolve())
        (root / stage.PARAMS).write_bytes(stage.PARAMS.read_bytes())
        idle_s, idle_mb = run_measured(root, "-c", "import pipeline.defocus, pipeline.convert")
        for name in ("convert", "defocus"):
            seconds, peak_mb = run_measured(root, "-m", f"pipeline.{name}", "--dataset", DATASET)
            rows.append(
                {
                    "name": name,
                    "seconds": seconds / frames,
                    "frames_per_s": frames / seconds,
                    "peak_mb": peak_mb,
                }
            )
        scenes = open_store(root / stage.SCENES / DATASET)
        start = time.perf_counter()
        for index in range(len(scenes)):
            _blur_alone(scenes, index)
        alone = time.perf_counter() - start
    baseline = "reading and blurring alone"
    rows.insert(0, {"name": baseline, "seconds": alone / frames, "frames_per_s": frames / alone})
    for row in rows:
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    text = (
        f"{frames} frames, from start to end of each stage's process, its start "
        f"included ({idle_s:.1f} s and {idle_mb:.0f} MB for the imports alone); the baseline reads "
        "each frame from the store and blurs it, without rounding, scoring, packing and writing"
    )
    return {
        "title": "Stages on NYU's raw files",
        "baseline": baseline,
        "statements": [{"title": "Stages", "text": text}],
        "rows": rows,
    }


def _blur_alone(scenes: Store, index: int) -> None:
    depth = scenes.read("depth", index)
    lens = CAMERAS["paper"].lens(
        depth, scenes.attributes["image_width_px"], np.random.default_rng(0)
    )
    gaussian_gather(scenes.read("rgb", index), lens.sigma_px(depth))


# a process starts with the largest memory of the one that started it: a small one stands between
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run([sys.executable, *sys.argv[1:]]).returncode
peak_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(status, time.perf_counter() - start, peak_kb / 1024)
"""


def run_measured(root: Path, *arguments: str) -> tuple[float, float]:
    """Run Python in `root`; give its seconds and its largest resident memory [MB]."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", LAUNCHER, *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    status, seconds, peak_mb = done.stdout.splitlines()[-1].split()
    if int(status):
        raise HDEDError(f"benchmark: {' '.join(arguments)} failed: {done.stderr.strip()[-300:]}")
    return float(seconds), float(peak_mb)


def _time(work: Callable[[], NDArray], runs: int) -> tuple[float, NDArray]:
    """Give the median seconds of `runs` calls (after one to warm up, if several) and the result."""
    out = work() if runs > 1 else None
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        out = work()
        seconds.append(time.perf_counter() - start)
    assert out is not None
    return statistics.median(seconds), out


if __name__ == "__main__":
    stage.run(main)
