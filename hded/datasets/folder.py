"""A user's own images: `rgb/` (png, jpg), `depth/` (16-bit png), `defocused/`, paired by name.

A folder with `rgb/` and `depth/` is defocused by the renderer. A folder with `defocused/` holds
photographs that a camera defocused, and in `rgb/` the same scenes all in focus, in `depth/` their
depth; one of these two may be missing, and is then not evaluated. Where the names of a scene's
files differ, `pairs.csv` has a row for each scene and a column of file names for each folder.

`train.txt` and `test.txt` define the splits, one name per line; frames in neither are left out. So
do folders `train/` and `test/`, each with the folders above. With neither, every fifth frame, in
the order of names, is a test frame. `lenses.csv` may state the lens of each frame
(`hded.datasets.lenses`).

Depth is registered to the image as it is stored: where the image's EXIF orientation turns it, its
depth is turned with it. Depth whose size fits the upright image only is taken as upright.
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from hded.common.errors import HDEDError
from hded.common.files import composed, is_hidden, read_text
from hded.common.heads import HEADS
from hded.common.image_io import (
    SWAPPED,
    open_image,
    open_turned,
    open_upright,
    turned,
    upright_size,
)
from hded.common.memory import available_bytes
from hded.common.progress import progress
from hded.datasets.base import RawFrame, RawFrames
from hded.datasets.lenses import FILE as LENSES
from hded.datasets.lenses import read_lenses
from hded.datasets.registration import REGISTRATION_BYTES, Registration, register

TEST_EVERY = 5
PICTURES = ("rgb", "depth", "defocused")  # folders
SUFFIXES = {
    "rgb": (".png", ".jpg", ".jpeg"),
    "depth": (".png",),
    "defocused": (".png", ".jpg", ".jpeg"),
}
LISTS = {"train": "train.txt", "test": "test.txt"}
PAIRS = "pairs.csv"
SHOWN = 5  # names that an error lists
CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one scene; `rgb` and `depth` may be missing beside a defocused photograph."""

    rgb: Path | None = None
    depth: Path | None = None
    defocused: Path | None = None

    @property
    def picture(self) -> Path:
        """Return the photograph to which depth belongs."""
        path = self.defocused or self.rgb
        assert path is not None
        return path


def open_folder(
    folder: Path,
    *,
    depth_unit_m: float,
    max_depth_m: float,
    max_residual: float | None = None,
) -> RawFrames:
    """Open `folder`; depth of 0 or above `max_depth_m` is invalid.

    depth_unit_m: metres per unit of the depth images (0.001 for millimetres). max_residual: each
    all-in-focus photograph is registered to its defocused one (`hded.datasets.registration`), and
    pairs with a larger residual are left out, by name; None takes the pairs as they are.
    Raises HDEDError for a missing folder, an image without its partner, images of different sizes,
    and a file that is not a readable image of the right kind.
    """
    notes: Counter[str] = Counter()
    frames, files = _find(folder, notes)
    files = {name: files[name] for name in frames["frame"]}  # the lists may leave some out
    size = _common_size(folder, files)
    skipped: list[str] = []
    registrations: dict[str, Registration] = {}
    margin = 0
    if (folder / LENSES).is_file():
        lenses = read_lenses(folder / LENSES, frames["frame"].tolist())
        frames = pd.concat([frames, lenses], axis=1)
    if max_residual is not None:
        registrations = _register(folder, files, size)
        good = {name for name, found in registrations.items() if found.residual <= max_residual}
        skipped = [
            f"{name}: not registered, residual {found.residual:.3f} above {max_residual:g}"
            for name, found in registrations.items()
            if name not in good
        ]
        frames = frames[frames["frame"].isin(good)].reset_index(drop=True)
        if frames.empty:
            raise HDEDError(
                f"{folder}: no pair can be registered: all residuals are above {max_residual:g}"
            )
        margin = max(registrations[name].margin_px for name in frames["frame"])
        frames = pd.concat([frames, _columns(frames, registrations)], axis=1)
    if margin and 2 * margin >= min(size):
        raise HDEDError(f"{folder}: nothing is left of a frame that is moved by {margin} px")
    inside = slice(margin, size[0] - margin), slice(margin, size[1] - margin)

    def read(i: int) -> RawFrame:
        name = frames["frame"].iloc[i]
        found = _read(files[name], depth_unit_m)
        if name in registrations:
            found["rgb"] = registrations[name].apply(found["rgb"])
        depth = found["depth"]
        if (depth > max_depth_m).all():
            found.notes += (f"frames with all depth beyond max_depth_m {max_depth_m:g} m",)
        found["depth"] = np.where(depth <= max_depth_m, depth, np.float32(0))
        for array in found:
            found[array] = np.ascontiguousarray(found[array][inside])
        return found

    first = next(iter(files.values()))
    return RawFrames(
        format="folder",
        frames=frames,
        size=(size[0] - 2 * margin, size[1] - 2 * margin),
        # the sensor's long side, whichever way the camera was held
        image_width_px=max(size),
        max_depth_m=max_depth_m,
        has_raw_valid=False,
        read=read,
        truths=tuple(
            truth
            for truth, path in zip(HEADS, (first.depth, first.rgb), strict=True)
            if path is not None
        ),
        has_photographs=first.defocused is not None,
        skipped=skipped,
        notes=notes,
        portable=True,
    )


def list_files(folder: Path) -> list[Path]:
    """Return the files below `folder` that `open_folder` reads, where they exist."""
    parts = [folder, *(folder / split for split in LISTS)]
    lists = [folder / name for name in (*LISTS.values(), LENSES)]
    lists += [part / PAIRS for part in parts]
    images = [
        path
        for part in parts
        for name in PICTURES
        if (part / name).is_dir()
        for path in _visible(part / name)
        if path.suffix.lower() in SUFFIXES[name]
    ]
    return [path for path in lists if path.is_file()] + images


def _find(folder: Path, notes: Counter[str]) -> tuple[pd.DataFrame, dict[str, _Files]]:
    """Return the table of frames, and each frame's files by its name."""
    parts = {split: folder / split for split in LISTS if (folder / split).is_dir()}
    if not parts:
        files = _paired(folder, notes)
        return _split(folder, sorted(files)), files
    if mixed := [name for name in (*PICTURES, *LISTS.values()) if (folder / name).exists()]:
        raise HDEDError(f"{folder}: has {', '.join(parts)} and {mixed[0]}; keep one kind of split")
    if (folder / PAIRS).exists():
        raise HDEDError(
            f"{folder}: {PAIRS} lies beside {', '.join(parts)}; give each of them one of its own, "
            "where names differ"
        )
    if astray := [part / LENSES for part in parts.values() if (part / LENSES).exists()]:
        raise HDEDError(f"{astray[0]}: would not be read; move its lines to {folder / LENSES}")
    every: dict[str, _Files] = {}
    rows = []
    for split, part in parts.items():
        files = _paired(part, notes)
        if both := sorted(every.keys() & files.keys()):
            raise HDEDError(f"{folder}: {_listed(both)} in train/ and in test/; rename one")
        every |= files
        rows += [(name, split, "") for name in sorted(files)]
    kinds = {tuple(getattr(f, kind) is None for kind in PICTURES) for f in every.values()}
    if len(kinds) > 1:
        raise HDEDError(f"{folder}: train/ and test/ must have the same of {', '.join(PICTURES)}")
    return pd.DataFrame(rows, columns=["frame", "split", "scene"]), every


def _paired(folder: Path, notes: Counter[str]) -> dict[str, _Files]:
    """Return the files of each scene in a folder, by the scene's name."""
    kinds = [name for name in PICTURES if (folder / name).is_dir()]
    if "defocused" not in kinds:
        kinds = ["rgb", "depth"]
    elif kinds == ["defocused"]:
        raise HDEDError(f"{folder}: has defocused/ alone; it needs rgb/ or depth/ beside it")
    found = {name: _by_stem(folder / name, SUFFIXES[name], notes) for name in kinds}
    if (folder / PAIRS).is_file():
        return _listed_pairs(folder / PAIRS, found, notes)
    names = set().union(*found.values())
    if odd := sorted(name for name in names if any(name not in of for of in found.values())):
        where = " and ".join(f"{kind}/" for kind in kinds)
        raise HDEDError(
            f"{folder}: {_listed(odd)} in only one of {where}; each image needs a depth "
            "image of the same name"
            if kinds == ["rgb", "depth"]
            else f"{folder}: {_listed(odd)} not in all of {where}; give equal names, or {PAIRS}"
        )
    return {name: _Files(**{kind: of[name] for kind, of in found.items()}) for name in names}


def _listed_pairs(
    path: Path, found: dict[str, dict[str, Path]], notes: Counter[str]
) -> dict[str, _Files]:
    """Return the files of each scene that pairs.csv lists; it is named by its first photograph."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise HDEDError(f"{path}: cannot be read as a table ({error})") from error
    if set(table.columns) != set(found):
        raise HDEDError(
            f"{path}: has the columns {', '.join(table.columns)}; give {', '.join(found)}"
        )
    files: dict[str, _Files] = {}
    used: dict[str, set[str]] = {kind: set() for kind in found}
    for row in table.to_dict("records"):
        pair = {}
        for kind, of in found.items():
            stem = composed(PurePosixPath(str(row[kind])).stem)
            if stem not in of:
                raise HDEDError(f"{path}: {row[kind]!r} is not in {kind}/; correct the line")
            pair[kind] = of[stem]
            used[kind].add(stem)
        one = _Files(**pair)
        name = composed(one.picture.stem)
        if name in files:
            raise HDEDError(f"{path}: {name} is listed twice")
        files[name] = one
    if not files:
        raise HDEDError(f"{path}: lists no pair")
    for kind, of in found.items():
        if unlisted := len(of.keys() - used[kind]):
            notes[f"in {kind}/, but not in {PAIRS}"] += unlisted
    return files


def _common_size(folder: Path, files: dict[str, _Files]) -> tuple[int, int]:
    """Return the size of all pictures; raises HDEDError that names those of another size."""
    sizes: dict[str, tuple[int, int]] = {}
    for of in files.values():
        for path in filter(None, (of.defocused, of.rgb)):
            sizes[path.relative_to(folder).as_posix()] = upright_size(path)
    common, _ = Counter(sizes.values()).most_common(1)[0]
    if other := sorted(name for name, size in sizes.items() if size != common):
        height, width = sizes[other[0]]
        raise HDEDError(
            f"{folder}: {_listed(other)} not {common[0]}x{common[1]} as the others ({other[0]}: "
            f"{height}x{width}); all frames of a dataset share one size: resize or remove them"
        )
    return common


def _register(
    folder: Path, files: dict[str, _Files], size: tuple[int, int]
) -> dict[str, Registration]:
    """Register each all-in-focus photograph to its defocused one, as many at once as fit."""
    if any(of.rgb is None or of.defocused is None for of in files.values()):
        raise HDEDError(
            f"{folder}: registration needs rgb/ and defocused/; set max_residual to null"
        )

    def one(of: _Files) -> Registration:
        assert of.rgb is not None and of.defocused is not None
        return register(*(np.asarray(open_upright(path)) for path in (of.rgb, of.defocused)))

    names = sorted(files)
    fitting = available_bytes() // (REGISTRATION_BYTES * size[0] * size[1])
    with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, fitting))) as pool:
        found = pool.map(one, (files[name] for name in names))
        bar = progress(found, total=len(names), desc="register", unit="pair")
        return dict(zip(names, bar, strict=True))


def _columns(frames: pd.DataFrame, registrations: dict[str, Registration]) -> pd.DataFrame:
    """Return what was done to each frame's truth, as columns of its table."""
    rows = []
    for name in frames["frame"]:
        found = registrations[name]
        row = dict(zip(("shift_down_px", "shift_right_px"), found.shift_px, strict=True))
        row |= {f"gain_{c}": v for c, v in zip(CHANNELS, found.gain, strict=True)}
        row |= {f"offset_{c}": v for c, v in zip(CHANNELS, found.offset, strict=True)}
        rows.append({**row, "residual": found.residual})
    return pd.DataFrame(rows)


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


def _read(files: _Files, unit_m: float) -> RawFrame:
    """Return a scene's arrays, all upright.

    What is missing stands in: the defocused photograph for the one in focus, unknown depth.
    """
    image, turn = open_turned(files.picture)
    picture = np.asarray(image)
    found = RawFrame(rgb=picture)
    if files.defocused is not None:
        found["defocused"] = picture
        if files.rgb is not None:
            found["rgb"] = np.asarray(open_upright(files.rgb))
    if files.depth is None:
        found["depth"] = np.zeros(picture.shape[:2], np.float32)
        return found
    stored = _depth(files.depth)
    upright = picture.shape[:2]
    before = upright[::-1] if turn in SWAPPED else upright
    if stored.size == before[::-1] and turn != 1:
        stored = turned(stored, turn)
        found.notes = (f"turned with their depth, EXIF orientation {turn}",)
    depth = np.asarray(stored)
    if depth.shape != upright:
        raise HDEDError(
            f"{files.depth}: {depth.shape[0]}x{depth.shape[1]}, its image "
            f"{upright[0]}x{upright[1]}; depth must be registered to the image: resize it to "
            "the image's size, by nearest neighbour"
        )
    found["depth"] = (depth * unit_m).astype(np.float32)
    return found


def _depth(path: Path) -> Image.Image:
    image = open_image(path)
    counts = np.asarray(image)
    if counts.ndim != 2 or counts.dtype not in (np.uint16, np.int32):
        raise HDEDError(f"{path}: {counts.dtype} of shape {counts.shape}; must be 16-bit greyscale")
    return image
