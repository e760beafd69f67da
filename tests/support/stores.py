"""Small stores of frames, and what was written into them."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from support.cameras import PAPER

from hded.blur.render import list_renderings
from hded.store import open_store, write_store

CAMERA = {"name": "paper", "max_coc_px": 12.0}


def write_stores(
    folder: Path,
    *,
    splits: Sequence[str] = ("train",) * 8 + ("test",) * 4,
    scenes: Sequence[str] | None = None,
    size: tuple[int, int] = (40, 56),
    format: str = "folder",
    max_depth_m: float = 8.0,
    raw_valid: bool = False,
    without_depth: Sequence[int] = (),
    seed: int = 0,
) -> SimpleNamespace:
    """Write a dataset of random smooth frames as two stores; give them and what was written.

    Frame ids are 0001, 0002, ... One depth pixel in ten is unknown (0), and all are in the frames
    at the positions `without_depth`.
    """
    rng = np.random.default_rng(seed)
    count = len(splits)
    frames = pd.DataFrame(
        {
            "frame": [f"{i + 1:04d}" for i in range(count)],
            "split": splits,
            "scene": [""] * count if scenes is None else scenes,
        }
    )
    smooth = gaussian_filter(rng.uniform(0, 255, (count, *size, 3)), (0, 1, 1, 0))
    rgb = np.clip(np.rint(128 + 3 * (smooth - 128)), 0, 255).astype(np.uint8)
    depth = gaussian_filter(rng.uniform(0, 1, (count, *size)), (0, 4, 4))
    depth = np.interp(depth, (depth.min(), depth.max()), (0.5, max_depth_m)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.1] = 0
    depth[list(without_depth)] = 0
    blurred = np.rint(gaussian_filter(rgb.astype(np.float64), (0, 1.5, 1.5, 0))).astype(np.uint8)
    coc = rng.uniform(-CAMERA["max_coc_px"], CAMERA["max_coc_px"], depth.shape).astype(np.float16)
    written = {"rgb": rgb, "depth": depth, "defocused": blurred, "coc": coc}
    arrays = {"rgb": ((*size, 3), np.uint8), "depth": (size, np.float32)}
    if raw_valid:
        arrays["raw_valid"] = (size, np.bool_)
        written["raw_valid"] = rng.random(depth.shape) < 0.7
    attributes = {
        "dataset": "tiny",
        "format": format,
        "source": "folder",
        "truths": ["depth", "all_in_focus"],
        "size": list(size),
        "image_width_px": size[1],
        "max_depth_m": max_depth_m,
        "skipped": [],
    }
    write_store(folder / "scenes", frames, arrays, _records(written, arrays, count), attributes)
    arrays = {"defocused": ((*size, 3), np.uint8), "coc": (size, np.float16)}
    records = _records(written, arrays, count)
    copies = list_renderings(frames, [PAPER])
    write_store(folder / "defocused", copies, arrays, records, {"camera": CAMERA})
    return SimpleNamespace(
        scenes=open_store(folder / "scenes"),
        defocused=open_store(folder / "defocused"),
        rgb=rgb,
        depth=depth,
        defocused_rgb=blurred,
        coc=coc,
        raw_valid=written.get("raw_valid"),
    )


def _records(
    written: dict[str, np.ndarray], arrays: dict[str, tuple], count: int
) -> list[dict[str, np.ndarray]]:
    return [{name: written[name][i] for name in arrays} for i in range(count)]
