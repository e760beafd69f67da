"""A small folder of a user's own pictures, and a clone whose only dataset it is."""

from pathlib import Path

import numpy as np
from PIL import Image
from support.clones import Clone

SIZE = (72, 96)


def write_pair(
    folder: Path, name: str, seed: int = 0, suffix: str = ".png", size: tuple[int, int] = SIZE
) -> None:
    """Write rgb/NAME and its depth/NAME.png in millimetres, 0.5 to 5 m."""
    rng = np.random.default_rng(seed)
    for inside in ("rgb", "depth"):
        (folder / inside).mkdir(parents=True, exist_ok=True)
    coarse = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    image.save(folder / "rgb" / f"{name}{suffix}")
    depth = np.linspace(500, 5000, size[0] * size[1]).reshape(size) + rng.integers(0, 50, size)
    Image.fromarray(depth.astype(np.uint16)).save(folder / "depth" / f"{name}.png")


def write_pictures(folder: Path, count: int = 6, size: tuple[int, int] = SIZE) -> Path:
    """Write so many pairs 0000, 0001, ..."""
    for i in range(count):
        write_pair(folder, f"{i:04d}", i, size=size)
    return folder


def own_clone(root: Path, path: str) -> Clone:
    """Return a committed clone with the dataset `own` at `path`; one epoch of a narrow network."""
    clone = Clone(root)
    clone.change(
        {
            "run.datasets": ["own"],
            "download.own": {
                "source": "folder", "path": path, "depth_unit_m": 0.001, "max_depth_m": 10.0,
            },
            "train.epochs": 1,
            "network.width": 0.0625,
            "network.init": "normal",  # so that a single step moves every figure
        }
    )  # fmt: skip
    clone.commit("own pictures")
    return clone
