"""A photograph of 12 megapixels, estimated and refocused, without reading and writing files."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.ndimage import zoom

from hded.common.heads import HEADS
from hded.inference import Predictor
from hded.inference.photo import estimate
from hded.inference.refocus import refocus
from hded.inference.view import View, view_of
from hded.network import HDEDNet
from hded.network.files import Scale
from hded.optics import MAX_COC_PX
from hded.optics.photograph import StatedLens
from pipeline.benchmark.evaluation import NETWORKS
from pipeline.lib import provenance

SIZE = (3000, 4000)
SCALE = Scale(image_width_px=640, gain_px=(0.5, 80.0), focus_distance_m=2.0)
LENS = StatedLens(focal_length_m=0.035, f_number=2.8, focus_distance_m=1.7, sensor_width_m=0.0236)
SLIM = "EfficientNet-Lite0, slim decoders"


def measure(device: torch.device, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """Return the section of the benchmark on photographs of `size` (H, W)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (-(-size[0] // 50), -(-size[1] // 50), 3))
    smooth = np.asarray(zoom(coarse.astype(np.float32), (50, 50, 1), order=1))
    rgb = np.clip(smooth[: size[0], : size[1]], 0, 255).astype(np.uint8)
    rows: list[dict[str, Any]] = []
    for name, arguments in NETWORKS.items():
        network = HDEDNet(HEADS, depth_scale_m=10.0, **arguments)
        predictor = Predictor(network, "crop", 256, device, scale=SCALE)
        estimate(predictor, rgb[:64, :64])  # warms up
        ways = {"at the training images' size": view_of(predictor, size, LENS)}
        if name == SLIM:
            ways["at its own size, in tiles"] = View()
        for way, view in ways.items():
            seconds = _seconds(estimate, predictor, rgb, view=view)
            rows.append({"name": f"{name}, {way}", "seconds": seconds})
    depth_m = np.full(size, 1.0, np.float32)
    depth_m += np.linspace(0, 5, size[1], dtype=np.float32)
    lens = LENS.lens(max(size), MAX_COC_PX, "quarter")
    refocus(rgb[:64, :64], depth_m[:64, :64], lens)  # compiles the renderer
    rows.append({"name": "refocused", "seconds": _seconds(refocus, rgb, depth_m, lens)})
    baseline = next(row for row in rows if "tiles" in row["name"])
    for row in rows:
        row["frames_per_s"] = 1 / row["seconds"]
        row["ratio"] = baseline["seconds"] / row["seconds"]
    text = (
        f"a photograph of {size[0]}x{size[1]} px, both heads, in float32, by networks that are not "
        "trained; `refocused`: its restored image and its depth, rendered through an f/2.8 lens. "
        f"Without reading and writing files. On {provenance.hardware(device)}"
    )
    return {
        "title": f"A photograph of {size[0] * size[1] / 1e6:.0f} megapixels",
        "baseline": baseline["name"],
        "statements": [{"title": "Photographs", "text": text}],
        "rows": rows,
    }


def _seconds(work: Callable, *arguments: Any, **options: Any) -> float:
    start = time.perf_counter()
    work(*arguments, **options)
    return time.perf_counter() - start
