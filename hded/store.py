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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
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
MARKER, TABLE, ARRAYS = "store.json", "frames.csv", "arrays.zarr"
DRAFT = ".partial"  # of a shard that zarr is writing
Arrays = Mapping[str, tuple[tuple[int, ...], np.dtype | type]]


@dataclass(frozen=True, slots=True)
class Store:
    """An open store, whose arrays are read lazily: slice them as numpy arrays."""

    folder: Path
    frames: pd.DataFrame
    attributes: Mapping[str, Any]
    arrays: Mapping[str, zarr.Array]

    def __len__(self) -> int:
        return len(self.frames)

    def __reduce__(self) -> tuple[Any, ...]:
        # a copy in another process checks that what it reads is whole
        return open_store, (self.folder,)

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
        table = folder / TABLE
        frames = pd.read_csv(table, index_col="index", dtype=text, na_filter=False)
        root = zarr.open_group(folder / ARRAYS, mode="r")
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
    arrays: Arrays,
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
    names, records = frames["frame"].tolist(), iter(records)
    facts: list[dict[str, Any]] = []
    for shard in create_store(folder, len(frames), arrays):
        facts += write_shard(folder, shard, islice(records, len(shard)), names)
    if next(records, None) is not None:
        raise HDEDError(f"{folder}: more records than the {len(frames)} rows of frames.csv")
    finish_store(folder, frames, facts, attributes)


def create_store(folder: Path, count: int, arrays: Arrays) -> list[range]:
    """Create an unfinished store of `count` frames, and return the frames of each of its shards.

    What is in the folder is deleted. Shards are then written by `write_shard`, in any order and by
    several processes, and `finish_store` makes the store complete.
    """
    if not count:
        raise HDEDError(f"{folder}: there are no frames to store")
    if folder.exists():
        (folder / MARKER).unlink(missing_ok=True)  # a partly deleted store must not look complete
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    root = zarr.create_group(folder / ARRAYS)
    frame_bytes = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in arrays.values())
    size = max(1, min(SHARD_FRAMES, SHARD_BYTES // frame_bytes))
    for name, (shape, dtype) in arrays.items():
        root.create_array(
            name,
            shape=(count, *shape),
            dtype=np.dtype(dtype),
            chunks=(1, *shape),
            shards=(size, *shape),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
        )
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def write_shard(
    folder: Path, shard: range, records: Iterable[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Write one shard of an unfinished store; return the scalars of its records.

    records: those of the shard's frames, as for `write_store`; names: of all frames.
    """
    root = zarr.open_group(folder / ARRAYS, mode="r+")
    arrays = dict(root.arrays())
    buffers = {
        name: np.empty((len(shard), *array.shape[1:]), array.dtype)
        for name, array in arrays.items()
    }
    facts: list[dict[str, Any]] = []
    for record in records:
        frame = names[shard[len(facts)]]
        for name, buffer in buffers.items():
            if name not in record:
                raise HDEDError(f"frame {frame}: has no {name}")
            if record[name].shape != buffer.shape[1:]:
                raise HDEDError(
                    f"frame {frame}: {name} has shape {record[name].shape}, "
                    f"the store {buffer.shape[1:]}; all frames of a dataset share one size"
                )
            buffer[len(facts)] = record[name]
        facts.append({name: value for name, value in record.items() if name not in arrays})
    if len(facts) != len(shard):
        written = shard.start + len(facts)
        raise HDEDError(f"{folder}: {written} records for the {len(names)} rows of frames.csv")
    for name, buffer in buffers.items():
        arrays[name][shard.start : shard.stop] = buffer  # pyright: ignore[reportArgumentType]
    return facts


def shard_files(folder: Path, shard: range) -> dict[str, int]:
    """Return the files of a shard that was written, with their sizes [bytes].

    An array that is 0 in all of the shard has no file.
    """
    sizes = {}
    for name, array in zarr.open_group(folder / ARRAYS, mode="r").arrays():
        assert array.shards is not None
        place = (shard.start // array.shards[0], *[0] * (array.ndim - 1))
        path = folder / ARRAYS / name / array.metadata.encode_chunk_key(place)
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return sizes


def finish_store(
    folder: Path,
    frames: pd.DataFrame,
    facts: Sequence[Mapping[str, Any]],
    attributes: Mapping[str, Any],
) -> None:
    """Make a store complete once all its shards are written; `facts`: the scalars of all frames."""
    for draft in folder.rglob(f"*{DRAFT}"):  # of a process that was killed while it wrote a shard
        draft.unlink()
    columns = pd.DataFrame([*facts], index=frames.index).items()
    frames = frames.assign(**{str(name): column for name, column in columns})
    write_csv(folder / TABLE, frames, index=True, index_label="index")
    names = [name for name, _ in zarr.open_group(folder / ARRAYS, mode="r").arrays()]
    meta = {
        "format": FORMAT,
        "arrays": sorted(names),
        "attributes": dict(attributes),
        "files": _files(folder),
    }
    write_json(folder / MARKER, meta, allow_nan=True)


def _files(folder: Path) -> dict[str, int]:
    """Return every file below the folder with its size [bytes]."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER and path.suffix != DRAFT
    }
