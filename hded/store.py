"""The store of frames: sharded zarr v3 arrays and sidecars. Only this module defines its layout.

    <folder>/arrays.zarr/<name>   one array per quantity, (N, ...): chunks of 1 frame, shards of 64
    <folder>/frames.csv           one row per frame: index, frame, split (train | test), scene, ...
    <folder>/store.json           attributes, and every other file with its size; written last and
                                  removed first

A store is complete if store.json exists and every file that it lists has the listed size; zarr
would read a missing shard as zeros. Shards keep the number of files small (DVC hashes and links
each file), while a single frame can still be read alone. Strings are in the table, not in zarr.
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from hded.common.errors import HDEDError
from hded.common.files import write_csv, write_json

FORMAT = 2
SHARD_FRAMES = 64  # at most
SHARD_BYTES = 256 << 20  # of all arrays together: large frames have fewer to a shard
MARKER = "store.json"


@dataclass(frozen=True, slots=True)
class Store:
    """An open store, whose arrays are read lazily: slice them as numpy arrays."""

    folder: Path
    frames: pd.DataFrame
    attributes: Mapping[str, Any]
    arrays: Mapping[str, zarr.Array]

    def __len__(self) -> int:
        return len(self.frames)

    def indices(self, split: str) -> NDArray[np.int64]:
        """Return the positions of a split's frames, ascending."""
        return np.flatnonzero(self.frames["split"].to_numpy() == split)

    def read(self, name: str, index: int) -> NDArray:
        """Return one frame of one array."""
        return np.asarray(self.arrays[name][index])


def open_store(folder: Path) -> Store:
    """Open a store; raises HDEDError for one that is missing, unfinished or of another format."""
    marker = folder / MARKER
    if not marker.is_file():
        raise HDEDError(f"{folder}: no finished store ({MARKER} is missing); run `dvc repro`")
    try:
        meta = json.loads(marker.read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise HDEDError(
                f"{folder}: store format {meta['format']}, expected {FORMAT}; rebuild it"
            )
        names, attributes, files = meta["arrays"], meta["attributes"], dict(meta["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise HDEDError(f"{marker}: damaged ({error}); rebuild the store") from error
    present = _files(folder)
    for name, size in files.items():
        if present.get(name) != size:
            state = f"has {present[name]} bytes of {size}" if name in present else "is missing"
            raise HDEDError(f"{folder}: {name} {state}; rebuild the store")
    text = {"frame": str, "split": str, "scene": str}
    try:
        table = folder / "frames.csv"
        frames = pd.read_csv(table, index_col="index", dtype=text, na_filter=False)
        root = zarr.open_group(folder / "arrays.zarr", mode="r")
        arrays: dict[str, zarr.Array] = {}
        for name in names:
            if not isinstance(array := root[name], zarr.Array):
                raise KeyError(name)
            arrays[name] = array
    except (OSError, ValueError, KeyError) as error:
        raise HDEDError(f"{folder}: a part is missing or damaged ({error}); rebuild it") from error
    for name in frames.columns.difference(list(text)):
        # "NA" is a valid name, so missing numbers are empty fields
        with suppress(ValueError):
            frames[name] = pd.to_numeric(frames[name])
    return Store(folder, frames, attributes, arrays)


def write_store(
    folder: Path,
    frames: pd.DataFrame,
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype | type]],
    records: Iterable[Mapping[str, Any]],
    attributes: Mapping[str, Any],
) -> None:
    """Write a store shard by shard, with one shard in memory.

    frames: columns frame, split, scene and any more, in the order of `records`; arrays: shape and
    dtype of one frame, by name; records: for each frame a mapping from the arrays' names to arrays,
    and from any other name to a scalar, which becomes a column of frames.csv.
    Raises HDEDError, naming the frame, for a record without an array or of another shape, and for a
    wrong number of records.
    """
    if not len(frames):
        raise HDEDError(f"{folder}: there are no frames to store")
    if folder.exists():
        (folder / MARKER).unlink(missing_ok=True)  # a partly deleted store must not look complete
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    root = zarr.create_group(folder / "arrays.zarr")
    count = len(frames)
    frame_bytes = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in arrays.values())
    shard = max(1, min(SHARD_FRAMES, SHARD_BYTES // frame_bytes))
    for name, (shape, dtype) in arrays.items():
        root.create_array(
            name,
            shape=(count, *shape),
            dtype=np.dtype(dtype),
            chunks=(1, *shape),
            shards=(shard, *shape),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
        )
    buffers = {
        name: np.empty((min(shard, count), *shape), dtype)
        for name, (shape, dtype) in arrays.items()
    }
    facts: list[dict[str, Any]] = []
    written = 0
    for index, record in enumerate(records):
        if index == count:
            raise HDEDError(f"{folder}: more records than the {count} rows of frames.csv")
        for name, buffer in buffers.items():
            if name not in record:
                raise HDEDError(f"frame {frames['frame'].iloc[index]}: has no {name}")
            if record[name].shape != buffer.shape[1:]:
                raise HDEDError(
                    f"frame {frames['frame'].iloc[index]}: {name} has shape {record[name].shape}, "
                    f"the store {buffer.shape[1:]}; all frames of a dataset share one size"
                )
            buffer[index % shard] = record[name]
        facts.append({name: value for name, value in record.items() if name not in arrays})
        written = index + 1
        if written % shard == 0 or written == count:
            start = index // shard * shard
            for name, buffer in buffers.items():
                root[name][start:written] = buffer[: written - start]  # pyright: ignore[reportArgumentType]
    if written != count:
        raise HDEDError(f"{folder}: {written} records for the {count} rows of frames.csv")
    columns = pd.DataFrame(facts, index=frames.index).items()
    frames = frames.assign(**{str(name): column for name, column in columns})
    write_csv(folder / "frames.csv", frames, index=True, index_label="index")
    meta = {
        "format": FORMAT,
        "arrays": sorted(arrays),
        "attributes": dict(attributes),
        "files": _files(folder),
    }
    write_json(folder / MARKER, meta, allow_nan=True)


def _files(folder: Path) -> dict[str, int]:
    """Return every file below the folder with its size [bytes]."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
