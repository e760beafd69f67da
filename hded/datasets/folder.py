"""A user's own images: `rgb/` (png, jpg) and `depth/` (16-bit png), paired by name.

`train.txt` and `test.txt` define the splits, one name per line; frames in neither are left out.
Without these lists, every fifth frame, in the order of names, is a test frame.

Depth is registered to the image as it is stored: where the image's EXIF orientation turns it, its
depth is turned with it. Depth whose size fits the upright image only is taken as upright.
"""

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from hded.common.errors import HDEDError
from hded.common.files import composed, is_hidden, read_text
from hded.common.image_io import open_image, open_turned, open_upright, turned
from hded.datasets.base import RawFrames

TEST_EVERY = 5
PICTURES = ("rgb", "depth")  # folders
SUFFIXES = {"rgb": (".png", ".jpg", ".jpeg"), "depth": (".png",)}
LISTS = {"train": "train.txt", "test": "test.txt"}
SWAPPED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
SHOWN = 5  # names that an error lists


def open_folder(folder: Path, *, depth_unit_m: float, max_depth_m: float) -> RawFrames:
    """Open `folder`; depth of 0 or above `max_depth_m` is invalid.

    depth_unit_m: metres per unit of the depth images (0.001 for millimetres).
    Raises HDEDError for a missing folder, an image without depth, and a file that is not a readable
    image of the right kind.
    """
    notes: Counter[str] = Counter()
    images, depths = (_by_stem(folder / name, SUFFIXES[name], notes) for name in PICTURES)
    if odd := sorted(images.keys() ^ depths.keys()):
        raise HDEDError(
            f"{folder}: {_listed(odd)} in only one of rgb/ and depth/; each image needs a depth "
            "image of the same name"
        )
    frames = _split(folder, sorted(images))
    first = np.asarray(open_upright(images[frames["frame"].iloc[0]]))

    def read(i: int) -> dict[str, NDArray]:
        name = frames["frame"].iloc[i]
        rgb, depth = _registered(images[name], depths[name], depth_unit_m, notes)
        far = int(np.count_nonzero(depth > max_depth_m))
        if far == depth.size:
            notes[f"frames with all depth beyond max_depth_m {max_depth_m:g} m"] += 1
        return {"rgb": rgb, "depth": np.where(depth <= max_depth_m, depth, np.float32(0))}

    return RawFrames(
        format="folder",
        frames=frames,
        size=first.shape[:2],
        # the sensor's long side, whichever way the camera was held
        image_width_px=max(first.shape[:2]),
        max_depth_m=max_depth_m,
        has_raw_valid=False,
        read=read,
        notes=notes,
    )


def list_files(folder: Path) -> list[Path]:
    """Return the files below `folder` that `open_folder` reads, where they exist."""
    lists = [folder / name for name in LISTS.values()]
    images = [
        path
        for name in PICTURES
        if (folder / name).is_dir()
        for path in _visible(folder / name)
        if path.suffix.lower() in SUFFIXES[name]
    ]
    return [path for path in lists if path.is_file()] + images


def _visible(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.iterdir()) if path.is_file() and not is_hidden(path.name)
    ]


def _by_stem(folder: Path, suffixes: tuple[str, ...], notes: Counter[str]) -> dict[str, Path]:
    """Return the files with one of the suffixes by their names without it; count the others."""
    if not folder.is_dir():
        raise HDEDError(f"{folder}: no such folder; a `folder` source needs rgb/ and depth/")
    if lost := [path.name for path in folder.iterdir() if path.is_symlink() and not path.exists()]:
        raise HDEDError(
            f"{folder}: {_listed(lost)} only links to files that do not exist; restore the files, "
            "or remove the links"
        )
    visible = _visible(folder)
    files = [path for path in visible if path.suffix.lower() in suffixes]
    others = Counter(
        path.suffix or "files without suffix"
        for path in visible
        if path.suffix.lower() not in suffixes
    )
    found = {composed(path.stem): path for path in files}
    if not found:
        seen = ", ".join(f"{count} {suffix}" for suffix, count in others.items()) or "nothing else"
        raise HDEDError(f"{folder}: has no {' or '.join(suffixes)} file; it has {seen}")
    if len(found) != len(files):
        raise HDEDError(
            f"{folder}: two files have one name but for their suffix, or for how its accents are "
            "encoded; keep one of them"
        )
    for suffix, count in others.items():
        notes[f"{suffix} in {folder.name}/, not read"] += count
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
    known, where = set(names), dict[str, str]()
    for split, path in lists.items():
        lines = composed(read_text(path)).splitlines()
        listed = [_plain(line.strip(), known) for line in lines]
        listed = [name for name in listed if name]
        if unknown := [name for name in listed if name not in known]:
            raise HDEDError(f"{path}: {_listed(unknown)} not in rgb/; correct or remove the lines")
        for name in listed:
            if name in where:
                raise HDEDError(f"{path}: {name} is listed twice")
            where[name] = split
    kept = [name for name in names if name in where]
    if not kept:
        raise HDEDError(f"{folder}: train.txt and test.txt are empty")
    return pd.DataFrame({"frame": kept, "split": [where[n] for n in kept], "scene": ""})


def _plain(line: str, names: set[str]) -> str:
    """Return a frame's name from a line that may have its suffix or its folder: rgb/0000.png."""
    path = PurePosixPath(line.replace("\\", "/"))
    candidates = (line, path.name, path.stem)
    return next((name for name in candidates if name in names), line)


def _listed(names: list[str]) -> str:
    """Return the first of `names` and the number of all, with the verb of a sentence."""
    shown = ", ".join(names[:SHOWN])
    if len(names) > SHOWN:
        return f"{shown} and {len(names) - SHOWN} more are"
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


def _registered(
    rgb_path: Path, depth_path: Path, unit_m: float, notes: Counter[str]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return an image and its depth [m], both upright; raise HDEDError where their sizes differ."""
    image, turn = open_turned(rgb_path)
    rgb, stored = np.asarray(image), _depth(depth_path)
    upright = rgb.shape[:2]
    before = upright[::-1] if turn in SWAPPED else upright
    if stored.size == before[::-1] and turn != 1:
        stored = turned(stored, turn)
        notes[f"turned with their depth, EXIF orientation {turn}"] += 1
    depth = np.asarray(stored)
    if depth.shape != upright:
        raise HDEDError(
            f"{depth_path}: {depth.shape[0]}x{depth.shape[1]}, its image "
            f"{upright[0]}x{upright[1]}; depth must be registered to the image"
        )
    return rgb, (depth * unit_m).astype(np.float32)


def _depth(path: Path) -> Image.Image:
    image = open_image(path)
    counts = np.asarray(image)
    if counts.ndim != 2 or counts.dtype not in (np.uint16, np.int32):
        raise HDEDError(f"{path}: {counts.dtype} of shape {counts.shape}; must be 16-bit greyscale")
    return image
