"""A user's own images: `rgb/` (png, jpg) and `depth/` (16-bit png), paired by name.

`train.txt` and `test.txt` define the splits, one name without suffix per line; frames in neither
are left out. Without these lists, every fifth frame, in the order of names, is a test frame.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hded.common.errors import HDEDError
from hded.common.image_io import open_image, open_upright
from hded.datasets.base import RawFrames

TEST_EVERY = 5
PICTURES = ("rgb", "depth")  # folders
LISTS = {"train": "train.txt", "test": "test.txt"}


def open_folder(folder: Path, *, depth_unit_m: float, max_depth_m: float) -> RawFrames:
    """Open `folder`; depth of 0 or above `max_depth_m` is invalid.

    depth_unit_m: metres per unit of the depth images (0.001 for millimetres).
    Raises HDEDError for a missing folder, an image without depth, and a file that is not a readable
    image of the right kind.
    """
    images = _by_stem(folder / PICTURES[0], (".png", ".jpg", ".jpeg"))
    depths = _by_stem(folder / PICTURES[1], (".png",))
    if odd := sorted(images.keys() ^ depths.keys()):
        raise HDEDError(
            f"{folder}: {odd[0]} is in only one of rgb/ and depth/ ({len(odd)} such names); "
            "each image needs a depth image of the same name"
        )
    frames = _split(folder, sorted(images))
    first = _rgb(images[frames["frame"].iloc[0]])

    def read(i: int) -> dict[str, NDArray]:
        name = frames["frame"].iloc[i]
        rgb, depth = _rgb(images[name]), _depth(depths[name], depth_unit_m)
        if depth.shape != rgb.shape[:2]:
            raise HDEDError(
                f"{depths[name]}: {depth.shape[0]}x{depth.shape[1]}, its image "
                f"{rgb.shape[0]}x{rgb.shape[1]}; depth must be registered to the image"
            )
        return {"rgb": rgb, "depth": np.where(depth <= max_depth_m, depth, np.float32(0))}

    return RawFrames(
        format="folder",
        frames=frames,
        size=first.shape[:2],
        image_width_px=first.shape[1],
        max_depth_m=max_depth_m,
        has_raw_valid=False,
        read=read,
    )


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    if not folder.is_dir():
        raise HDEDError(f"{folder}: no such folder; a `folder` source needs rgb/ and depth/")
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes]
    found = {path.stem: path for path in files}
    if not found:
        raise HDEDError(f"{folder}: has no {' or '.join(suffixes)} file")
    if len(found) != len(files):
        raise HDEDError(f"{folder}: two files differ only in their suffix; keep one of them")
    return found


def _split(folder: Path, names: list[str]) -> pd.DataFrame:
    lists = {split: folder / file for split, file in LISTS.items()}
    present = [path for path in lists.values() if path.is_file()]
    if present and len(present) < len(lists):
        raise HDEDError(f"{folder}: has only {present[0].name}; give both lists, or neither")
    if not present:
        if len(names) < TEST_EVERY:
            raise HDEDError(
                f"{folder}: {len(names)} frames; give at least {TEST_EVERY}, or train.txt and "
                "test.txt"
            )
        split = ["test" if i % TEST_EVERY == TEST_EVERY - 1 else "train" for i in range(len(names))]
        return pd.DataFrame({"frame": names, "split": split, "scene": ""})
    where: dict[str, str] = {}
    for split, path in lists.items():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise HDEDError(f"{path}: is not UTF-8 text ({error}); save it as such") from error
        lines = (line.strip() for line in text.splitlines())
        for name in filter(None, lines):
            if name not in names:
                raise HDEDError(f"{path}: {name} is not in rgb/; give names without the suffix")
            if name in where:
                raise HDEDError(f"{path}: {name} is listed twice")
            where[name] = split
    kept = [name for name in names if name in where]
    if not kept:
        raise HDEDError(f"{folder}: train.txt and test.txt are empty")
    return pd.DataFrame({"frame": kept, "split": [where[n] for n in kept], "scene": ""})


def _rgb(path: Path) -> NDArray[np.uint8]:
    return np.asarray(open_upright(path))


def _depth(path: Path, unit_m: float) -> NDArray[np.float32]:
    counts = np.asarray(open_image(path))
    if counts.ndim != 2 or counts.dtype not in (np.uint16, np.int32):
        raise HDEDError(f"{path}: {counts.dtype} of shape {counts.shape}; must be 16-bit greyscale")
    return (counts * unit_m).astype(np.float32)
