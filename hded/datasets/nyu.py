"""Reader for the labeled NYU-Depth v2 (Silberman et al. 2012).

`nyu_depth_v2_labeled.mat` is HDF5 with MATLAB's axes reversed: images (N, 3, W, H), depths
(N, W, H). Holes of `depths` are filled; if the file has `rawDepths`, their holes give the mask
`raw_valid`. `splits.mat` has the official splits. The white border is cropped (rows 44:471, columns
40:601, 0-based): 427x561, the paper's "561x427".
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hded.common.errors import HDEDError
from hded.datasets.base import Dataset, RawFrame, RawFrames
from hded.datasets.matlab import MatReader

LABELED = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"
ARRAYS = ("images", "depths")
FRAME_SIZE = (480, 640)  # H, W
CROP_ROWS = slice(44, 471)
CROP_COLUMNS = slice(40, 601)
SIZE = (427, 561)
MAX_DEPTH_M = 10.0
MAX_FRAMES = 100_000  # a damaged file must not exhaust the memory
MAX_NAME = 1000  # characters
SPLITS_BYTES = 1 << 24  # the official file has 3 kB


class _Labeled:
    """The .mat's arrays, read frame by frame; a copy in another process opens the file anew."""

    def __init__(self, path: Path, mat: h5py.File) -> None:
        self._path, self._mat = path, mat

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._path,)

    def frame(self, name: str, i: int) -> NDArray:
        """Return the part of an array's frame that is used, (H, W) or (H, W, 3)."""
        array = self._mat[name]
        assert isinstance(array, h5py.Dataset)
        return array[i].T[CROP_ROWS, CROP_COLUMNS]


def _reopen(path: Path) -> _Labeled:
    return _Labeled(path, _open_hdf5(path, ExitStack()))


def open_nyu(folder: Path, stack: ExitStack) -> RawFrames:
    """Open the two official files in `folder`; `stack` closes them.

    Frame ids are the official 1-based numbers. Depth that is NaN or outside (0, 10] m becomes 0.
    Raises HDEDError for a file that is missing, damaged, or without the expected arrays.
    """
    mat = _open_hdf5(folder / LABELED, stack)
    arrays: dict[str, h5py.Dataset] = {}
    for name in (*ARRAYS, "rawDepths"):
        if isinstance(found := mat.get(name), h5py.Dataset):
            arrays[name] = found
    shapes = {name: arrays[name].shape for name in ARRAYS if name in arrays}
    height, width = FRAME_SIZE
    count = next(iter(shapes.get("images", ())), 0)
    expected = {"images": (count, 3, width, height), "depths": (count, width, height)}
    kinds = [arrays[name].dtype for name in shapes]
    if (
        shapes != expected
        or not 0 < count <= MAX_FRAMES
        or kinds[0] != "u1"
        or kinds[1].kind != "f"
    ):
        found = ", ".join(f"{n} {s} {k}" for (n, s), k in zip(shapes.items(), kinds, strict=True))
        raise HDEDError(
            f"{folder / LABELED}: arrays {found or 'missing'}; expected images (N, 3, 640, 480) "
            f"uint8 and depths (N, 640, 480) float, N up to {MAX_FRAMES}; fetch the file again"
        )
    raw = arrays.get("rawDepths")
    has_raw = raw is not None and raw.shape == shapes["depths"] and raw.dtype.kind == "f"
    split = _splits(folder / SPLITS, count)
    frames = pd.DataFrame(
        {
            "frame": [f"{i + 1:04d}" for i in range(count)],
            "split": split,
            "scene": _scene_names(folder / LABELED, mat, count),
        }
    )
    used = np.flatnonzero(frames["split"] != "")
    frames = frames.iloc[used].reset_index(drop=True)

    labeled = _Labeled(folder / LABELED, mat)

    def read(position: int) -> RawFrame:
        i = used[position]
        try:
            rgb, depth = labeled.frame("images", i), labeled.frame("depths", i)
            measured = labeled.frame("rawDepths", i) if has_raw else None
        except OSError as error:
            raise HDEDError(
                f"{folder / LABELED}: frame {i + 1} is unreadable ({error}); fetch the file again"
            ) from error
        valid = np.isfinite(depth) & (depth > 0) & (depth <= MAX_DEPTH_M)
        record = RawFrame(
            rgb=np.ascontiguousarray(rgb, np.uint8),
            depth=np.where(valid, depth, 0).astype(np.float32),
        )
        if measured is not None:
            known = np.isfinite(measured) & (measured > 0) & (measured <= MAX_DEPTH_M)
            record["raw_valid"] = known
        return record

    return RawFrames(
        format="nyu",
        frames=frames,
        size=SIZE,
        image_width_px=width,
        max_depth_m=MAX_DEPTH_M,
        has_raw_valid=has_raw,
        read=read,
        portable=True,
    )


def _open_hdf5(path: Path, stack: ExitStack) -> h5py.File:
    if not path.is_file():
        raise HDEDError(f"{path}: missing; run the download stage")
    try:
        return stack.enter_context(h5py.File(path, "r"))
    except OSError as error:
        if "unable to lock file" in str(error):
            raise HDEDError(
                f"{path}: another process has locked it, such as MATLAB or a file server; close it "
                "there, or set HDF5_USE_FILE_LOCKING=FALSE to read it all the same"
            ) from error
        raise HDEDError(
            f"{path}: not a readable HDF5 file ({error}); fetch the file again"
        ) from error


def _splits(path: Path, count: int) -> list[str]:
    """Return "train", "test" or "" for each frame, from the 1-based trainNdxs and testNdxs."""
    if not path.is_file():
        raise HDEDError(f"{path}: missing; run the download stage")
    if path.stat().st_size > SPLITS_BYTES:
        raise HDEDError(
            f"{path}: {path.stat().st_size} bytes are too many for this file; fetch it again"
        )
    with MatReader() as mat:
        found = {
            "train": mat.read(path.read_bytes(), "trainNdxs"),
            "test": mat.read(path.read_bytes(), "testNdxs"),
        }
    split, listed = [""] * count, {}
    for name, numbers in found.items():
        if isinstance(numbers, str) or numbers.dtype.kind not in "fiu":
            why = numbers if isinstance(numbers, str) else f"{name} is {numbers.dtype}"
            raise HDEDError(
                f"{path}: no readable trainNdxs and testNdxs ({why}); fetch the file again"
            )
        listed[name] = numbers.astype(np.int64).ravel().tolist()
    for name, numbers in listed.items():
        for number in numbers:
            if not 1 <= number <= count:
                raise HDEDError(
                    f"{path}: {name} frame {number} is outside the .mat's 1..{count}; "
                    "the two files do not belong together"
                )
            if split[number - 1]:
                raise HDEDError(f"{path}: frame {number} is listed twice")
            split[number - 1] = name
    return split


def _scene_names(path: Path, mat: h5py.File, count: int) -> list[str]:
    """Return the names in the cell array `scenes`; empty names where the file has none."""
    scenes = mat.get("scenes")
    if not isinstance(scenes, h5py.Dataset) or scenes.size != count:
        return [""] * count
    if h5py.check_ref_dtype(scenes.dtype) is None:
        return [""] * count
    names = []
    try:
        for reference in scenes[()].ravel():
            codes = mat[reference]
            if not isinstance(codes, h5py.Dataset):
                raise ValueError("a name that is no array")
            if (codes.size or 0) > MAX_NAME:
                raise ValueError(f"a name of {codes.size} characters")
            names.append("".join(chr(code) for code in np.ravel(codes[()])))
    # damaged references and codes make h5py raise a dozen kinds of error
    except Exception as error:
        raise HDEDError(
            f"{path}: the names in `scenes` are unreadable ({error}); fetch the file again"
        ) from error
    return names


NYU = Dataset(name="nyu", files=(LABELED, SPLITS), open=open_nyu)
