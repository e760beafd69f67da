"""The store: what goes in comes out, frame by frame, and what is not whole is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from hded import store as store_module
from hded.common.errors import HDEDError
from hded.store import open_store, write_store

SIZE = (6, 9)
ARRAYS = {"rgb": ((*SIZE, 3), np.uint8), "depth": (SIZE, np.float32), "seen": (SIZE, np.bool_)}
ATTRIBUTES = {"dataset": "tiny", "size": [6, 9], "skipped": ["a: why"], "nested": {"x": None}}


def table(count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "frame": [f"{i + 1:04d}" for i in range(count)],
            "split": ["train" if i % 3 else "test" for i in range(count)],
            "scene": [("", "NA", "null", "007")[i % 4] for i in range(count)],
        }
    )


def record(i: int) -> dict[str, Any]:
    rng = np.random.default_rng(i)
    return {
        "rgb": rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8),
        "depth": rng.uniform(0, 10, SIZE).astype(np.float32),
        "seen": rng.random(SIZE) < 0.5,
    }


def write(folder: Path, count: int, records: Any = None) -> Path:
    records = [record(i) for i in range(count)] if records is None else records
    write_store(folder, table(count), ARRAYS, records, ATTRIBUTES)
    return folder


@pytest.mark.parametrize("count", [1, 3, 63, 64, 65, 130])
def test_what_is_written_is_read_back_exactly(tmp_path, count):
    store = open_store(write(tmp_path / "store", count))
    assert len(store) == count and set(store.arrays) == set(ARRAYS)
    assert dict(store.attributes) == ATTRIBUTES
    pd.testing.assert_frame_equal(
        store.frames.reset_index(drop=True), table(count), check_dtype=False
    )
    for name, (shape, dtype) in ARRAYS.items():
        assert store.arrays[name].shape == (count, *shape)
        for i in range(count):
            frame = store.read(name, i)
            assert frame.dtype == dtype
            np.testing.assert_array_equal(frame, record(i)[name])


def test_not_a_number_and_odd_floats_survive(tmp_path):
    odd = record(0) | {"depth": np.full(SIZE, np.nan, np.float32)}
    odd["depth"][0, :3] = (np.inf, -0.0, 1e-42)
    store = open_store(write(tmp_path / "store", 1, [odd]))
    assert store.read("depth", 0).tobytes() == odd["depth"].tobytes()


def test_ids_and_scenes_stay_text(tmp_path):
    frames = open_store(write(tmp_path / "store", 8)).frames
    assert list(frames["frame"][:2]) == ["0001", "0002"]
    assert list(frames["scene"][:4]) == ["", "NA", "null", "007"]


def test_the_indices_of_a_split_are_its_positions_ascending(tmp_path):
    store = open_store(write(tmp_path / "store", 10))
    assert store.indices("test").tolist() == [0, 3, 6, 9]
    assert store.indices("train").tolist() == [1, 2, 4, 5, 7, 8]
    assert store.indices("validation").tolist() == []


def test_a_shard_holds_64_frames_and_a_chunk_one(tmp_path):
    store = open_store(write(tmp_path / "store", 130))
    for name, (shape, _) in ARRAYS.items():
        array = store.arrays[name]
        assert array.shards == (64, *shape) and array.chunks == (1, *shape)
        files = [p for p in (tmp_path / "store/arrays.zarr" / name).rglob("*") if p.is_file()]
        assert len(files) == 3 + 1  # three shards and the array's metadata


def test_opening_a_store_reads_no_frame(tmp_path):
    folder = write(tmp_path / "store", 70)
    for shard in (folder / "arrays.zarr" / "depth" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"x" * shard.stat().st_size)
    store = open_store(folder)
    np.testing.assert_array_equal(store.read("rgb", 69), record(69)["rgb"])


def test_a_store_is_written_in_the_memory_of_one_shard(tmp_path):
    alive = 0
    most = 0

    class Frame(np.ndarray):
        def __array_finalize__(self, obj: Any) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def records() -> Iterator[dict[str, Any]]:
        for i in range(200):
            yield {name: value.view(Frame) for name, value in record(i).items()}

    write(tmp_path / "store", 200, records())
    assert most < 3 * 10  # three arrays a frame, a few frames at a time


def test_scalars_of_a_record_become_columns(tmp_path):
    records = [
        record(i) | {"focus_distance_m": 1 + i / 3, "note": f"n{i}", "count": i} for i in range(66)
    ]
    frames = open_store(write(tmp_path / "store", 66, records)).frames
    assert list(frames.columns) == ["frame", "split", "scene", "focus_distance_m", "note", "count"]
    assert frames["focus_distance_m"].tolist() == [1 + i / 3 for i in range(66)]
    assert frames["note"].tolist() == [f"n{i}" for i in range(66)]
    assert frames["count"].tolist() == list(range(66))


def test_a_figure_that_was_not_taken_comes_back_as_nan(tmp_path):
    records = [record(0) | {"psnr": float("nan")}, record(1) | {"psnr": 25.5}]
    psnr = open_store(write(tmp_path / "store", 2, records)).frames["psnr"]
    assert psnr.isna().tolist() == [True, False] and psnr[1] == 25.5


def test_columns_of_the_table_are_kept(tmp_path):
    frames = table(2).assign(weight=[0.25, 0.5])
    write_store(tmp_path / "store", frames, ARRAYS, [record(0), record(1)], {})
    assert open_store(tmp_path / "store").frames["weight"].tolist() == [0.25, 0.5]


def test_a_new_store_takes_the_place_of_the_old_one_whole(tmp_path):
    folder = write(tmp_path / "store", 70)
    (folder / "left_over.txt").write_text("x")
    write(folder, 3)
    assert len(open_store(folder)) == 3
    assert sorted(p.name for p in folder.iterdir()) == ["arrays.zarr", "frames.csv", "store.json"]


def test_equal_frames_are_equal_bytes(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / name, 66)
    first, second = (
        {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in (tmp_path / name).rglob("*")
            if p.is_file()
        }
        for name in ("first", "second")
    )
    assert first == second


def test_a_store_without_its_marker_is_refused(tmp_path):
    folder = write(tmp_path / "store", 2)
    (folder / "store.json").unlink()
    for path in (folder, tmp_path / "nowhere"):
        with pytest.raises(HDEDError, match=str(path)):
            open_store(path)


def test_writing_that_is_interrupted_leaves_no_finished_store(tmp_path):
    folder = write(tmp_path / "store", 3)

    def records() -> Iterator[dict[str, Any]]:
        yield record(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(folder, 3, records())
    with pytest.raises(HDEDError, match="no finished store"):
        open_store(folder)


def test_a_store_of_another_format_is_refused(tmp_path):
    folder = write(tmp_path / "store", 2)
    meta = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(HDEDError, match="format 99"):
        open_store(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"format": 1}'])
def test_a_marker_that_is_damaged_is_one_clear_line(tmp_path, text):
    folder = write(tmp_path / "store", 2)
    (folder / "store.json").write_text(text)
    with pytest.raises(HDEDError, match=str(folder)):
        open_store(folder)


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_no_file_of_a_store_can_be_lost_or_cut_unseen(tmp_path, damage):
    """A shard that is missing would be read as zeros."""
    folder = write(tmp_path / "store", 3)
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "store.json"]
    assert len(files) > 4
    for path in files:
        content = path.read_bytes()
        path.unlink()
        if damage == "cut":
            path.write_bytes(content[:-1])
        with pytest.raises(HDEDError, match=str(folder)):
            open_store(folder)
        path.write_bytes(content)
        open_store(folder)


def test_a_store_that_is_being_replaced_is_no_store(tmp_path, monkeypatch):
    folder = write(tmp_path / "store", 3)

    def killed(place: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        write(folder, 3)
    assert (folder / "frames.csv").exists()
    with pytest.raises(HDEDError, match="no finished store"):
        open_store(folder)


def test_a_finished_store_that_lost_a_part_is_refused(tmp_path):
    for part in ("frames.csv", "arrays.zarr", "arrays.zarr/depth"):
        folder = write(tmp_path / "store", 2)
        if (folder / part).is_dir():
            shutil.rmtree(folder / part)
        else:
            (folder / part).unlink()
        with pytest.raises(HDEDError, match=str(folder)):
            open_store(folder)


@pytest.mark.parametrize("position", [0, 2, 65])
def test_a_frame_of_another_size_is_named(tmp_path, position):
    records = [record(i) for i in range(67)]
    records[position]["depth"] = np.zeros((6, 8), np.float32)
    with pytest.raises(HDEDError, match=rf"{position + 1:04d}.*depth.*\(6, 8\)"):
        write(tmp_path / "store", 67, records)
    with pytest.raises(HDEDError):
        open_store(tmp_path / "store")


def test_a_frame_that_lacks_an_array_is_named(tmp_path):
    records = [record(0), record(1)]
    del records[1]["seen"]
    with pytest.raises(HDEDError, match=r"0002.*seen"):
        write(tmp_path / "store", 2, records)


def test_more_or_fewer_records_than_rows_are_refused(tmp_path):
    for given in (1, 3):
        with pytest.raises(HDEDError, match="records"):
            write(tmp_path / "store", 2, [record(i) for i in range(given)])
        with pytest.raises(HDEDError):
            open_store(tmp_path / "store")


def test_a_store_without_frames_is_refused_and_nothing_is_lost(tmp_path):
    folder = write(tmp_path / "store", 2)
    with pytest.raises(HDEDError, match="no frames"):
        write(folder, 0)
    assert len(open_store(folder)) == 2


def test_the_arrays_are_plain_zarr_for_other_tools(tmp_path):
    write(tmp_path / "store", 5)
    array = zarr.open_group(tmp_path / "store/arrays.zarr", mode="r")["depth"]
    assert isinstance(array, zarr.Array) and array.metadata.zarr_format == 3
    np.testing.assert_array_equal(np.asarray(array[3]), record(3)["depth"])


def test_large_frames_have_fewer_to_a_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_BYTES", 3 * 20 * 30 * 4)
    frames = pd.DataFrame({"frame": list("abcdefg"), "split": "train", "scene": ""})
    values = [np.full((20, 30), i, np.float32) for i in range(7)]
    arrays = {"depth": ((20, 30), np.float32)}
    write_store(tmp_path / "s", frames, arrays, ({"depth": v} for v in values), {})
    store = open_store(tmp_path / "s")
    assert store.arrays["depth"].shards == (3, 20, 30)
    assert all((store.read("depth", i) == i).all() for i in range(7))
