"""Speed and memory of the stages `convert` and `defocus`, each in a separate process."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from hded.blur import gaussian_gather
from hded.common.errors import HDEDError
from hded.config.params import load_params
from hded.optics import Camera
from hded.store import Store, open_store
from pipeline.lib import stage


def measure_stages(dataset: str, frames: int) -> dict[str, Any]:
    """Return the benchmark's section on `convert` and `defocus`, run in a temporary folder."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "data").mkdir()
        (root / stage.SAMPLES).symlink_to(stage.SAMPLES.resolve())
        (root / stage.PARAMS).write_bytes(stage.PARAMS.read_bytes())
        idle_s, idle_mb = run_measured(root, "-c", "import pipeline.defocus, pipeline.convert")
        for name, options in (("convert", []), ("defocus", ["--camera", "paper"])):
            command = ["-m", f"pipeline.{name}", "--dataset", dataset, *options]
            seconds, peak_mb = run_measured(root, *command)
            rows.append(
                {
                    "name": name,
                    "seconds": seconds / frames,
                    "frames_per_s": frames / seconds,
                    "peak_mb": peak_mb,
                }
            )
        scenes = open_store(root / stage.FRAMES / dataset)
        camera = load_params(stage.PARAMS).camera("paper")[0]
        start = time.perf_counter()
        for index in range(len(scenes)):
            _blur_alone(scenes, camera, index)
        alone = time.perf_counter() - start
    baseline = "reading and blurring alone"
    rows.insert(0, {"name": baseline, "seconds": alone / frames, "frames_per_s": frames / alone})
    for row in rows:
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    text = (
        f"{frames} frames, from start to end of each stage's process, including imports "
        f"({idle_s:.1f} s and {idle_mb:.0f} MB by themselves); the baseline only reads each frame "
        "from the store and blurs it"
    )
    return {
        "title": "Stages on NYU's raw files",
        "baseline": baseline,
        "statements": [{"title": "Stages", "text": text}],
        "rows": rows,
    }


def _blur_alone(scenes: Store, camera: Camera, index: int) -> None:
    depth = scenes.read("depth", index)
    lens = camera.lens(depth, scenes.attributes["image_width_px"], np.random.default_rng(0))
    gaussian_gather(scenes.read("rgb", index), lens.sigma_px(depth))


# a child process inherits the peak memory of its parent, so a small process starts it
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run([sys.executable, *sys.argv[1:]]).returncode
peak_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(status, time.perf_counter() - start, peak_kb / 1024)
"""


def run_measured(root: Path, *arguments: str) -> tuple[float, float]:
    """Run Python in `root`; return its seconds and its largest resident memory [MB]."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", LAUNCHER, *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    status, seconds, peak_mb = done.stdout.splitlines()[-1].split()
    if int(status):
        raise HDEDError(f"benchmark: {' '.join(arguments)} failed: {done.stderr.strip()[-300:]}")
    return float(seconds), float(peak_mb)
