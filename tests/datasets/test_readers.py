"""The readers of the official formats, on tiny files written here with other tools."""

import contextlib
import fcntl
import io
import struct
import tarfile
import tracemalloc
import unicodedata
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from scipy.io import loadmat, savemat
from support.hdf5 import dataset

from hded.common.errors import HDEDError
from hded.datasets.base import RawFrame, RawFrames
from hded.datasets.folder import open_folder
from hded.datasets.make3d import open_make3d
from hded.datasets.matlab import MatReader
from hded.datasets.nyu import open_nyu

# --- NYU-Depth-v2 --------------------------------------------------------------------------------


def nyu_picture(k: int) -> np.ndarray:
    """480x640: red is the row, green the column, blue the rest of both and the frame."""
    rows, columns = np.mgrid[:480, :640]
    blue = 64 * k + 8 * (rows // 256) + columns // 256
    return np.stack([rows % 256, columns % 256, blue], -1).astype(np.uint8)


def nyu_depth(k: int) -> np.ndarray:
    rows, columns = np.mgrid[:480, :640]
    return (1 + k / 10 + rows / 100 + columns / 1000).astype(np.float32)


def write_nyu(
    folder: Path,
    *,
    count: int = 3,
    train: Sequence[int] = (1, 3),
    test: Sequence[int] = (2,),
    depths: np.ndarray | None = None,
    raw: np.ndarray | None = None,
    scenes: Sequence[str] | None = None,
) -> Path:
    """The two official files. MATLAB's (H, W, 3, N) lies reversed in HDF5, hence each `.T`."""
    folder.mkdir(exist_ok=True)
    images = np.stack([nyu_picture(k) for k in range(count)], -1)
    if depths is None:
        depths = np.stack([nyu_depth(k) for k in range(count)], -1)
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = images.T
        file["depths"] = depths.T
        if raw is not None:
            file["rawDepths"] = raw.T
        if scenes is not None:
            cells = file.create_dataset("scenes", (1, count), h5py.ref_dtype)
            for i, name in enumerate(scenes):
                codes = np.array([[ord(c)] for c in name], np.uint16)
                cells[0, i] = file.create_dataset(f"#refs#/{i}", data=codes).ref
    splits = {"trainNdxs": train, "testNdxs": test}
    savemat(folder / "splits.mat", {k: np.array(v, np.uint16)[:, None] for k, v in splits.items()})
    return folder


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_nyu_frames_are_turned_upright_and_lose_their_white_border(tmp_path, stack):
    scenes = open_nyu(write_nyu(tmp_path / "nyu"), stack)
    assert (scenes.format, scenes.size, scenes.image_width_px) == ("nyu", (427, 561), 640)
    assert scenes.max_depth_m == 10 and not scenes.has_raw_valid and scenes.skipped == []
    for k, frame in enumerate(scenes):
        assert set(frame) == {"rgb", "depth"}
        assert frame["rgb"].dtype == np.uint8 and frame["depth"].dtype == np.float32
        np.testing.assert_array_equal(frame["rgb"], nyu_picture(k)[44:471, 40:601])
        np.testing.assert_array_equal(frame["depth"], nyu_depth(k)[44:471, 40:601])
    assert scenes.read(0)["rgb"][0, 0].tolist() == [44, 40, 0]  # row 44, column 40 of frame 0


def test_nyu_numbers_are_one_based_and_frames_in_neither_split_are_left_out(tmp_path, stack):
    folder = write_nyu(tmp_path / "nyu", count=4, train=(4, 1), test=(3,))
    scenes = open_nyu(folder, stack)
    assert scenes.frames["frame"].tolist() == ["0001", "0003", "0004"]
    assert scenes.frames["split"].tolist() == ["train", "test", "train"]
    assert scenes.frames["scene"].tolist() == ["", "", ""]
    blue = [scenes.read(i)["rgb"][0, 0, 2] // 64 for i in range(3)]
    assert blue == [0, 2, 3]


def test_nyu_scene_names_are_read_from_their_cells(tmp_path, stack):
    names = ["kitchen_0004", "a", "nyu_office_0"]
    scenes = open_nyu(write_nyu(tmp_path / "nyu", scenes=names, train=(1,), test=(3,)), stack)
    assert scenes.frames["scene"].tolist() == ["kitchen_0004", "nyu_office_0"]


def test_nyu_depth_outside_its_range_is_unknown(tmp_path, stack):
    depths = np.full((480, 640, 1), 5, np.float32)
    odd = [np.nan, np.inf, -np.inf, -1.0, 0.0, 10.5, 10.0, 1e-3]
    depths[100, 100 : 100 + len(odd), 0] = odd
    folder = write_nyu(tmp_path / "nyu", count=1, train=(1,), test=(), depths=depths)
    depth = open_nyu(folder, stack).read(0)["depth"]
    row = depth[100 - 44, 100 - 40 :]
    np.testing.assert_array_equal(row[:8], np.array([0, 0, 0, 0, 0, 0, 10, 1e-3], np.float32))
    assert (depth == 5).sum() == depth.size - len(odd)


def test_nyu_raw_depths_say_what_the_sensor_measured(tmp_path, stack):
    raw = np.random.default_rng(0).uniform(-2, 12, (480, 640, 3)).astype(np.float32)
    raw[50:60] = np.nan
    scenes = open_nyu(write_nyu(tmp_path / "nyu", raw=raw), stack)
    assert scenes.has_raw_valid
    for k, frame in enumerate(scenes):
        seen = raw[44:471, 40:601, k]
        assert frame["raw_valid"].dtype == np.bool_
        np.testing.assert_array_equal(frame["raw_valid"], (seen > 0) & (seen <= 10))
        np.testing.assert_array_equal(frame["depth"], nyu_depth(k)[44:471, 40:601])


@pytest.mark.parametrize("name", ["nyu_depth_v2_labeled.mat", "splits.mat"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "folder"])
def test_a_damaged_nyu_file_is_named_in_one_line(tmp_path, stack, name, damage):
    folder = write_nyu(tmp_path / "nyu", count=1, train=(1,), test=())
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        kinds = {"empty": b"", "text": b"<html>404</html>" * 40, "cut": data[: len(data) * 2 // 3]}
        path.write_bytes(kinds[damage])
    with pytest.raises(HDEDError, match=name) as caught:
        open_nyu(folder, stack).read(0)
    assert "\n" not in str(caught.value)


def test_a_file_that_another_process_has_locked_is_not_to_be_fetched_again(
    tmp_path, stack, monkeypatch
):
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    folder = write_nyu(tmp_path / "nyu", count=1, train=(1,), test=())
    with (folder / "nyu_depth_v2_labeled.mat").open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(HDEDError, match="another process has locked it") as caught:
            open_nyu(folder, stack)
    assert "fetch" not in str(caught.value)
    open_nyu(folder, stack)


def test_a_compressed_splits_file_is_read_and_one_with_a_flipped_bit_is_refused(tmp_path, stack):
    folder = write_nyu(tmp_path / "nyu")
    numbers = {"trainNdxs": np.arange(1, 3)[:, None], "testNdxs": np.array([[3]])}
    savemat(folder / "splits.mat", numbers, do_compression=True)
    assert open_nyu(folder, stack).frames["split"].tolist() == ["train", "train", "test"]
    data = bytearray((folder / "splits.mat").read_bytes())
    data[160] ^= 0xFF
    (folder / "splits.mat").write_bytes(data)
    with pytest.raises(HDEDError, match=r"splits\.mat"):
        open_nyu(folder, stack)


@pytest.mark.parametrize(("position", "byte"), [(145, 255), (172, 1), (193, 127), (289, 14)])
def test_a_byte_that_crashes_scipy_is_one_clear_line(tmp_path, stack, position, byte):
    """Each of these kills the process that hands the file to scipy 1.17."""
    folder = write_nyu(tmp_path)
    numbers = {"trainNdxs": np.arange(1.0, 5)[:, None], "testNdxs": np.arange(5.0, 7)[:, None]}
    savemat(folder / "splits.mat", numbers)
    data = bytearray((folder / "splits.mat").read_bytes())
    data[position] = byte
    (folder / "splits.mat").write_bytes(data)
    with pytest.raises(HDEDError, match=r"splits\.mat: no readable trainNdxs"):
        open_nyu(folder, stack)


@pytest.mark.parametrize(
    ("train", "test", "what"),
    [
        ((1, 4), (2,), "4"),
        ((0, 1), (2,), "0"),
        ((1, 2), (2, 3), "2"),
        ((1, 1), (2,), "1"),
    ],
    ids=["beyond the frames", "zero", "in both", "twice"],
)
def test_splits_that_do_not_fit_the_frames_are_refused(tmp_path, stack, train, test, what):
    folder = write_nyu(tmp_path / "nyu", train=train, test=test)
    with pytest.raises(HDEDError, match=rf"splits\.mat.*frame {what}\b"):
        open_nyu(folder, stack)


@pytest.mark.parametrize(
    "claim",
    [
        {"images": ((10**9, 3, 640, 480), "u1"), "depths": ((10**9, 640, 480), "f4")},
        {"images": ((2, 3, 640, 480), "S4000000"), "depths": ((2, 640, 480), "f4")},
        {"images": ((2, 3, 640, 480), "u1"), "depths": ((2, 640, 480), "c16")},
        {"images": "group", "depths": ((2, 640, 480), "f4")},
    ],
    ids=["frames", "bytes a pixel", "kind", "a group"],
)
def test_absurd_claims_cost_no_memory(tmp_path, stack, claim):
    """Chunked arrays of petabytes that no byte was written of."""
    folder = write_nyu(tmp_path / "nyu")
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        for name, kind in claim.items():
            if kind == "group":
                file.create_group(name)
                continue
            shape, dtype = kind
            file.create_dataset(name, shape, dtype, chunks=(1,) * (len(shape) - 1) + (48,))
    tracemalloc.start()
    try:
        with pytest.raises(HDEDError, match=r"labeled\.mat: arrays (images|depths)"):
            open_nyu(folder, stack)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["rawDepths", "scenes"])
@pytest.mark.parametrize("kind", ["group", "S4000000"])
def test_what_is_beside_the_arrays_and_absurd_is_not_used(tmp_path, stack, name, kind):
    folder = write_nyu(tmp_path / "nyu")
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "r+") as file:
        shape = dataset(file, "depths").shape
        shape = shape if name == "rawDepths" else (1, shape[0])
        if name in file:
            del file[name]
        if kind == "group":
            file.create_group(name)
        else:
            file.create_dataset(name, shape, kind, chunks=(1,) * len(shape))
    scenes = open_nyu(folder, stack)
    assert not scenes.has_raw_valid or name == "scenes"
    assert name != "scenes" or set(scenes.frames["scene"]) == {""}
    scenes.read(0)


def test_a_mat_file_that_inflates_beyond_bounds_ends_with_a_reason():
    """0.8 GB of zeros in 0.8 MB, read by a process that may have 0.6 GB."""
    count = 10**8
    element = struct.pack("<II", 14, 8 * count + 56)  # miMATRIX
    element += struct.pack("<IIII", 6, 8, 6, 0)  # array flags: double
    element += struct.pack("<IIii", 5, 8, count, 1)  # dimensions
    element += struct.pack("<II4s4x", 1, 4, b"grid")  # name
    element += struct.pack("<II", 9, 8 * count)  # miDOUBLE
    packer = zlib.compressobj(1)
    packed = packer.compress(element)
    for _ in range(100):
        packed += packer.compress(bytes(8 * count // 100))
    packed += packer.flush()
    bomb = matlab(1.0)[:128] + struct.pack("<II", 15, len(packed)) + packed
    with MatReader(memory_bytes=600 << 20) as reader:
        found = reader.read(bomb, "grid")
        assert isinstance(found, str) and "Memory" in found
        two = io.BytesIO()
        savemat(two, {"a": np.arange(1.0, 5)[:, None], "b": np.arange(5.0, 7)[:, None]})
        assert reader.read(crashing(two.getvalue()), "a") == "its bytes crash the parser"
        np.testing.assert_array_equal(reader.read(matlab(np.eye(2), "grid"), "grid"), np.eye(2))


@pytest.mark.parametrize("damage", ["long", "code", "reference"])
def test_a_damaged_scene_name_is_one_clear_line(tmp_path, stack, damage):
    folder = write_nyu(tmp_path / "nyu", scenes=["attic", "bath", "cellar"])
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "r+") as file:
        if damage == "long":
            data = file.create_dataset("long", (10**12,), "u2", chunks=(1024,))
        else:
            data = file.create_dataset("codes", data=np.array([2**32 - 1], np.uint32))
        dataset(file, "scenes")[0, 1] = data.ref
        if damage == "reference":
            del file["codes"]
    with pytest.raises(HDEDError, match=r"labeled\.mat: the names in `scenes`"):
        open_nyu(folder, stack)


@pytest.mark.parametrize("content", [{"trainNdxs": [[1]]}, {"testNdxs": [[1]]}, {"x": [[1]]}])
def test_splits_without_both_lists_are_refused(tmp_path, stack, content):
    folder = write_nyu(tmp_path / "nyu")
    savemat(folder / "splits.mat", content)
    with pytest.raises(HDEDError, match="trainNdxs and testNdxs"):
        open_nyu(folder, stack)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"images": (2, 3, 640, 480)},
        {"depths": (2, 640, 480)},
        {"images": (2, 640, 480, 3), "depths": (2, 640, 480)},
        {"images": (2, 3, 480, 640), "depths": (2, 480, 640)},
        {"images": (2, 3, 640, 480), "depths": (1, 640, 480)},
        {"images": (0, 3, 640, 480), "depths": (0, 640, 480)},
        {"images": (), "depths": ()},
    ],
    ids=str,
)
def test_an_hdf5_file_that_is_not_nyus_is_refused(tmp_path, stack, arrays):
    folder = write_nyu(tmp_path / "nyu")
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        for name, shape in arrays.items():
            file[name] = np.zeros(shape, np.uint8)
    with pytest.raises(HDEDError, match=r"nyu_depth_v2_labeled\.mat"):
        open_nyu(folder, stack)


# --- Make3D --------------------------------------------------------------------------------------

PARTS = {
    "train": ("Train400Img", "Train400Img.tar.gz", "Train400Depth", "Train400Depth.tgz"),
    "test": ("Test134", "Test134.tar.gz", "Gridlaserdata", "Test134Depth.tar.gz"),
}


def jpeg(picture: np.ndarray, exif: bytes = b"") -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=95, subsampling=0, exif=exif)
    return data.getvalue()


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def view(seed: int = 0, height: int = 568, width: int = 426) -> np.ndarray:
    """A smooth portrait picture, a quarter of Make3D's size, that differs in every corner."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 4, 3)).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def grid(seed: int = 0) -> np.ndarray:
    """Position3DGrid: x, y, z and, fourth, the depth."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(0, 30, (55, 305, 3)), rng.uniform(1, 81, (55, 305, 1))], -1)


def matlab(array: Any, name: str = "Position3DGrid", compress: bool = True) -> bytes:
    data = io.BytesIO()
    savemat(data, {name: array}, do_compression=compress)
    return data.getvalue()


def pack(path: Path, folder: str, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_make3d(
    folder: Path,
    train: Mapping[str, tuple[bytes | None, bytes | None]] | None = None,
    test: Mapping[str, tuple[bytes | None, bytes | None]] | None = None,
) -> Path:
    """The four official archives, from name -> (jpg, mat); None leaves a file out."""
    folder.mkdir(exist_ok=True)
    pairs = {
        "train": train or {"op2-p-1": (jpeg(view(1)), matlab(grid(1)))},
        "test": test or {"math7-p-2": (jpeg(view(2)), matlab(grid(2)))},
    }
    for split, (image_folder, image_archive, depth_folder, depth_archive) in PARTS.items():
        images = {f"img-{n}.jpg": image for n, (image, _) in pairs[split].items() if image}
        depths = {f"depth_sph_corr-{n}.mat": d for n, (_, d) in pairs[split].items() if d}
        pack(folder / image_archive, image_folder, images)
        pack(folder / depth_archive, depth_folder, depths)
    return folder


def at_work_size(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((345, 460), Image.Resampling.BILINEAR))


def test_make3d_pairs_images_with_depth_by_name_in_the_order_of_names(tmp_path):
    train = {
        name: (jpeg(view(seed)), matlab(grid(seed)))
        for seed, name in enumerate(("op9-p-1", "060705-17.10.14-p-254t000", "op10-p-3"))
    }
    scenes = open_make3d(write_make3d(tmp_path / "make3d", train))
    names = ["060705-17.10.14-p-254t000", "op10-p-3", "op9-p-1", "math7-p-2"]
    assert scenes.frames["frame"].tolist() == names
    assert scenes.frames["split"].tolist() == ["train", "train", "train", "test"]
    assert (scenes.format, scenes.size, scenes.image_width_px) == ("make3d", (460, 345), 345)
    assert scenes.max_depth_m == 80 and not scenes.has_raw_valid and scenes.skipped == []
    for frame, seed in zip(scenes, (1, 2, 0, 2), strict=True):
        assert frame["rgb"].shape == (460, 345, 3) and frame["rgb"].dtype == np.uint8
        difference = frame["rgb"].astype(int) - at_work_size(view(seed))
        assert abs(difference).max() <= 12 and abs(difference).mean() < 1.5  # what JPEG costs
        # nearest neighbour: the pixel's centre, carried over to the laser's grid
        rows = [int((i + 0.5) * 55 / 460) for i in range(460)]
        columns = [int((j + 0.5) * 305 / 345) for j in range(345)]
        expected = grid(seed)[rows][:, columns, 3].astype(np.float32)
        assert frame["depth"].dtype == np.float32
        np.testing.assert_array_equal(frame["depth"], expected)


def test_a_make3d_picture_of_the_official_size_is_reduced_without_aliasing(tmp_path):
    stripes = np.zeros((2272, 1704, 3), np.uint8)
    stripes[::2] = 255  # finer than the small picture can show
    train = {"op1": (jpeg(stripes), matlab(grid()))}
    rgb = open_make3d(write_make3d(tmp_path / "make3d", train)).read(0)["rgb"]
    assert rgb.shape == (460, 345, 3) and np.ptp(rgb[5:-5].astype(int)) < 12


@pytest.mark.parametrize("tag", [3, 6, 8])
def test_a_make3d_picture_is_turned_as_its_exif_says(tmp_path, tag):
    upright = view(3)
    # how a camera held that way stores it
    stored = np.rot90(upright, {3: 2, 6: 1, 8: -1}[tag])
    train = {"op29-p-295t000": (jpeg(np.ascontiguousarray(stored), orientation(tag)),
                                matlab(grid()))}  # fmt: skip
    rgb = open_make3d(write_make3d(tmp_path / "make3d", train)).read(0)["rgb"]
    assert abs(rgb.astype(int) - at_work_size(upright)).mean() < 1.5
    assert abs(rgb[::-1, ::-1].astype(int) - at_work_size(upright)).mean() > 10


def test_make3d_depth_keeps_the_sky_and_drops_what_is_no_depth(tmp_path):
    position = grid()
    position[..., 3] = 30.0
    position[0, :5, 3] = (80.7, np.nan, np.inf, -2.0, 0.0)
    train = {"op1": (jpeg(view()), matlab(position))}
    depth = open_make3d(write_make3d(tmp_path / "make3d", train)).read(0)["depth"]
    columns = [int((j + 0.5) * 305 / 345) for j in range(345)]
    first = {columns[j]: depth[0, j] for j in range(10)}
    assert first[0] == np.float32(80.7)
    assert [first[j] for j in (1, 2, 3, 4)] == [0, 0, 0, 0] and first[5] == 30


def damaged_exif() -> bytes:
    """A rotation and a width written as a fraction, which no width is."""
    entries = [
        struct.pack("<HHII", 0x0100, 5, 1, 8 + 2 + 2 * 12 + 4),  # ImageWidth, RATIONAL
        struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0),  # Orientation, SHORT
    ]
    ifd = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + ifd + struct.pack("<II", 3, 2)


def crashing(data: bytes) -> bytes:
    """Let a small array claim a length that scipy 1.17 reads beyond, and dies."""
    return data[:145] + b"\xff" + data[146:]


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


GOOD_JPEG, GOOD_MAT = jpeg(view()), matlab(grid())
BAD_IMAGES = {
    "empty": b"\0",
    "text": b"<html>404</html>",
    "cut": GOOD_JPEG[: len(GOOD_JPEG) // 2],
    "header alone": GOOD_JPEG[:100],
}
BAD_DEPTHS = {
    "empty": b"\0",
    "text": b"<html>404</html>" * 20,
    "cut": GOOD_MAT[: len(GOOD_MAT) // 2],
    "header alone": GOOD_MAT[:128],
    "flipped bit": flipped(GOOD_MAT, len(GOOD_MAT) // 2),
    "flipped first byte of the zlib stream": flipped(GOOD_MAT, 136),
    "other name": matlab(grid(), "Position"),
    "other shape": matlab(grid()[:54]),
    "transposed": matlab(grid().transpose(1, 0, 2)),
    "three channels": matlab(grid()[..., :3]),
    "text inside": matlab("far away"),
    "struct inside": matlab({"depth": 1.0}),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(600),
    "uncompressed and cut": matlab(grid(), compress=False)[:9000],
    "a byte that kills scipy": crashing(matlab(np.arange(1.0, 5)[:, None], compress=False)),
    "a large array": matlab(np.zeros((55, 305, 40))),
}


def skip_line(tmp_path: Path, image: bytes | None, depth: bytes | None) -> str:
    """The one line about a bad pair between two good ones, which are read all the same."""
    good = (GOOD_JPEG, GOOD_MAT)
    train = {"a": good, "bad": (image, depth), "c": good}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pillow about the damaged file, to whom it may concern
        scenes = open_make3d(write_make3d(tmp_path / "make3d", train))
    assert scenes.frames["frame"].tolist() == ["a", "c", "math7-p-2"]
    assert len(scenes.skipped) == 1
    (line,) = scenes.skipped
    assert line.startswith("bad: ") and "\n" not in line
    return line


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_make3d_image_that_does_not_decode_is_skipped_by_name(tmp_path, kind):
    assert "img-bad.jpg" in skip_line(tmp_path, BAD_IMAGES[kind], GOOD_MAT)


@pytest.mark.parametrize("kind", BAD_DEPTHS)
def test_a_make3d_depth_that_does_not_decode_is_skipped_by_name(tmp_path, kind):
    assert "depth_sph_corr-bad.mat" in skip_line(tmp_path, GOOD_JPEG, BAD_DEPTHS[kind])


def test_the_flipped_bits_do_damage_the_zlib_stream():
    for kind in ("flipped bit", "flipped first byte of the zlib stream"):
        with pytest.raises(zlib.error):
            zlib.decompress(BAD_DEPTHS[kind][136:])


def test_a_make3d_image_with_absurd_exif_ends_nothing(tmp_path):
    # whether it is read or skipped is a matter of taste; the others must be read
    train = {
        "a": (GOOD_JPEG, GOOD_MAT),
        "odd": (jpeg(view(), damaged_exif()), GOOD_MAT),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scenes = open_make3d(write_make3d(tmp_path / "make3d", train))
    assert {"a", "math7-p-2"} <= set(scenes.frames["frame"]) <= {"a", "odd", "math7-p-2"}
    assert len(scenes.skipped) == 3 - len(scenes.frames)


def test_a_make3d_image_without_depth_or_the_reverse_is_skipped_by_name(tmp_path):
    assert "depth" in skip_line(tmp_path, GOOD_JPEG, None)
    assert "image" in skip_line(tmp_path, None, GOOD_MAT)


def test_a_pair_bad_on_both_sides_is_counted_once(tmp_path):
    skip_line(tmp_path, BAD_IMAGES["cut"], BAD_DEPTHS["cut"])


@pytest.mark.parametrize("archive", [a for part in PARTS.values() for a in (part[1], part[3])])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut"])
def test_a_damaged_make3d_archive_is_named_in_one_line(tmp_path, archive, damage):
    folder = write_make3d(tmp_path / "make3d")
    path = folder / archive
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        kinds = {"empty": b"", "text": b"<html>404</html>", "cut": data[: len(data) // 2]}
        path.write_bytes(kinds[damage])
    with pytest.raises(HDEDError, match=archive) as caught:
        open_make3d(folder)
    assert "\n" not in str(caught.value)


def test_a_make3d_split_without_a_single_pair_is_refused(tmp_path):
    test = {"a": (GOOD_JPEG, None), "b": (None, GOOD_MAT)}
    with pytest.raises(HDEDError, match="test"):
        open_make3d(write_make3d(tmp_path / "make3d", test=test))


# --- a folder of one's own -----------------------------------------------------------------------

NAMES = [f"{i:02d}" for i in range(11)]


def write_folder(folder: Path, names: Sequence[str] = NAMES, suffix: str = ".png") -> Path:
    """Pictures of 20x30 whose red is their number, and depth of 1000 counts more each."""
    for part in ("rgb", "depth"):
        (folder / part).mkdir(parents=True)
    for i, name in enumerate(names):
        Image.fromarray(own_picture(i)).save(folder / "rgb" / f"{name}{suffix}")
        counts = np.full((20, 30), 1000 * (i + 1), np.uint16)
        counts[0, 0] = 0
        Image.fromarray(counts).save(folder / "depth" / f"{name}.png")
    return folder


def own_picture(i: int) -> np.ndarray:
    picture = np.random.default_rng(i).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    picture[..., 0] = i
    return picture


def own(folder: Path, depth_unit_m: float = 0.001, max_depth_m: float = 20.0) -> RawFrames:
    return open_folder(folder, depth_unit_m=depth_unit_m, max_depth_m=max_depth_m)


def test_a_folder_gives_its_pictures_in_the_order_of_their_names(tmp_path):
    scenes = own(write_folder(tmp_path / "own"))
    assert scenes.frames["frame"].tolist() == NAMES
    assert (scenes.format, scenes.size, scenes.image_width_px) == ("folder", (20, 30), 30)
    for i, frame in enumerate(scenes):
        np.testing.assert_array_equal(frame["rgb"], own_picture(i))
        assert frame["depth"].dtype == np.float32
        assert frame["depth"][0, 0] == 0 and (frame["depth"].ravel()[1:] == i + 1).all()


def test_every_fifth_frame_is_a_test_frame_where_no_list_says_otherwise(tmp_path):
    frames = own(write_folder(tmp_path / "own")).frames
    assert frames["frame"][frames["split"] == "test"].tolist() == ["04", "09"]
    assert (frames["split"] == "train").sum() == 9


def test_lists_say_which_frame_goes_where(tmp_path):
    folder = write_folder(tmp_path / "own")
    (folder / "train.txt").write_text("07\n01\n\n")
    (folder / "test.txt").write_text("03\r\n10\r\n")
    scenes = own(folder)
    assert scenes.frames["frame"].tolist() == ["01", "03", "07", "10"]
    assert scenes.frames["split"].tolist() == ["train", "test", "train", "test"]
    assert [scenes.read(i)["rgb"][0, 0, 0] for i in range(4)] == [1, 3, 7, 10]


def test_a_name_may_have_spaces_since_lists_hold_one_a_line(tmp_path):
    folder = write_folder(tmp_path / "own", ["my garden", "my house"])
    (folder / "train.txt").write_text("my garden\n")
    (folder / "test.txt").write_text("my house\n")
    frames = own(folder).frames
    assert dict(zip(frames["frame"], frames["split"], strict=True)) == {
        "my garden": "train",
        "my house": "test",
    }


@pytest.mark.parametrize(
    ("train", "test", "named"),
    [
        ("00\n77\n", "01\n", "77"),
        ("00\n00.png\n", "01\n", "00 is listed twice"),
        ("77\n78\n79\n", "01\n", "77, 78, 79 are not in rgb/"),
        ("00\n01\n", "01\n", "01"),
        ("00\n00\n", "01\n", "00"),
        ("", "", "empty"),
        ("00\n", None, r"train\.txt"),
        (None, "00\n", r"test\.txt"),
    ],
)
def test_lists_with_a_mistake_are_refused(tmp_path, train, test, named):
    folder = write_folder(tmp_path / "own")
    for name, text in (("train.txt", train), ("test.txt", test)):
        if text is not None:
            (folder / name).write_text(text)
    with pytest.raises(HDEDError, match=named) as caught:
        own(folder)
    assert "\n" not in str(caught.value)


def test_the_unit_of_depth_is_the_users_and_beyond_the_largest_it_is_unknown(tmp_path):
    folder = write_folder(tmp_path / "own")
    scenes = own(folder, depth_unit_m=0.0002, max_depth_m=1.0)
    values = [scenes.read(i)["depth"][5, 5] for i in range(11)]
    assert values == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0, 0, 0, 0, 0, 0], rel=1e-6)
    assert scenes.max_depth_m == 1.0


def test_all_16_bits_of_depth_count(tmp_path):
    folder = write_folder(tmp_path / "own")
    Image.fromarray(np.full((20, 30), 65535, np.uint16)).save(folder / "depth" / "03.png")
    assert own(folder, max_depth_m=100.0).read(3)["depth"].max() == pytest.approx(65.535)


def test_a_list_in_another_encoding_is_named(tmp_path):
    folder = write_folder(tmp_path / "own")
    for name in ("train", "test"):
        (folder / f"{name}.txt").write_text("ä\n", encoding="latin-1")
    with pytest.raises(HDEDError, match=r"train\.txt: is not UTF-8"):
        own(folder)


def test_a_picture_with_absurd_exif_is_named_or_read(tmp_path):
    folder = write_folder(tmp_path / "own", suffix=".jpg")
    (folder / "rgb" / "02.jpg").write_bytes(jpeg(own_picture(2), damaged_exif()))
    try:
        assert own(folder).read(2)["rgb"].shape[2] == 3
    except HDEDError as error:
        assert "02.jpg" in str(error)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line", ["{}", "{}.png", "rgb/{}.png", ".\\rgb\\{}.png"])
def test_lists_are_read_as_editors_and_programs_write_them(tmp_path, encoding, line):
    folder = write_folder(tmp_path / "own")
    for name, numbers in (("train", ("00", "03")), ("test", ("01",))):
        text = "\r\n".join(line.format(number) for number in numbers)
        (folder / f"{name}.txt").write_bytes(text.encode(encoding))
    frames = own(folder).frames
    assert dict(zip(frames["frame"], frames["split"], strict=True)) == {
        "00": "train", "01": "test", "03": "train",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_accent_is_the_same_letter_however_it_is_encoded(tmp_path, form):
    """macOS and editors write it differently."""
    folder = write_folder(tmp_path / "own", ["a", "b"])
    name = unicodedata.normalize(form, "kärnten")
    for path in [folder / "rgb/a.png", folder / "depth/a.png"]:
        other = name if path.parent.name == "rgb" else "kärnten"
        path.rename(path.with_stem(other))
    (folder / "train.txt").write_text("kärnten\n", encoding="utf-8")
    (folder / "test.txt").write_text("b\n", encoding="utf-8")
    frames = own(folder).frames
    assert dict(zip(frames["frame"], frames["split"], strict=True)) == {
        "kärnten": "train",
        "b": "test",
    }


def test_a_link_to_a_picture_that_is_gone_is_named(tmp_path):
    folder = write_folder(tmp_path / "own", [f"{i}" for i in range(6)])
    (folder / "rgb/lost.png").symlink_to(tmp_path / "unplugged/lost.png")
    with pytest.raises(HDEDError, match=r"rgb: lost\.png is only links to files that do not exist"):
        own(folder)


def test_hidden_files_are_no_pictures_and_other_kinds_are_counted(tmp_path):
    folder = write_folder(tmp_path / "own")
    for name in ("rgb/._00.png", "depth/._00.png", "rgb/.DS_Store", "depth/.hidden.png"):
        (folder / name).write_bytes(b"Mac OS X")
    for name in ("a.tif", "b.tif", "c.webp"):
        (folder / "rgb" / name).write_bytes(b"")
    scenes = own(folder)
    assert len(scenes.frames) == 11
    assert dict(scenes.notes) == {".tif in rgb/, not read": 2, ".webp in rgb/, not read": 1}


def test_a_folder_of_another_kind_of_picture_says_what_it_has(tmp_path):
    folder = write_folder(tmp_path / "own", suffix=".webp")
    with pytest.raises(HDEDError, match=r"has no \.png or \.jpg or \.jpeg file; it has 11 \.webp"):
        own(folder)


@pytest.mark.parametrize("turn", range(1, 9))
def test_depth_of_the_stored_pixels_is_turned_with_its_picture(tmp_path, turn):
    """Every corner of the depth stays at the corner of the picture that it was made for."""
    folder = write_folder(tmp_path / "own")
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = np.zeros((20, 30), np.uint16) + 1000
    stored[:5, :7], stored[-5:, :7] = 2000, 3000
    picture = np.dstack([(stored // 20).astype(np.uint8)] * 3)
    for name in NAMES:  # all frames of a dataset share one size
        Image.fromarray(picture).save(folder / "rgb" / f"{name}.png", exif=exif)
        Image.fromarray(stored).save(folder / "depth" / f"{name}.png")
    frame = own(folder).read(2)
    assert frame["depth"].shape == ((20, 30) if turn < 5 else (30, 20))
    np.testing.assert_allclose(frame["depth"] * 50, frame["rgb"][..., 0], rtol=1e-6)


def test_the_sensors_long_side_stands_for_36_mm_however_it_was_held(tmp_path):
    lying = own(write_folder(tmp_path / "lying"))
    folder = tmp_path / "standing"
    for part in ("rgb", "depth"):
        (folder / part).mkdir(parents=True)
        for path in (tmp_path / "lying" / part).iterdir():
            Image.open(path).transpose(Image.Transpose.ROTATE_90).save(folder / part / path.name)
    standing = own(folder)
    assert standing.size == lying.size[::-1]
    assert standing.image_width_px == lying.image_width_px == 30


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_frame_that_would_leave_its_folder_is_refused(tmp_path, name):
    folder = write_make3d(tmp_path / "make3d", {name: (jpeg(view(1)), matlab(grid(1)))})
    with pytest.raises(HDEDError, match="cannot be a folder name"):
        open_make3d(folder)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".PNG", ".JPG"])
def test_pictures_may_be_jpeg_or_png_in_any_case(tmp_path, suffix):
    scenes = own(write_folder(tmp_path / "own", suffix=suffix))
    assert len(scenes.frames) == 11
    assert abs(scenes.read(4)["rgb"].astype(int) - own_picture(4)).mean() < 40


def test_grey_and_transparent_pictures_are_read_as_rgb(tmp_path):
    folder = write_folder(tmp_path / "own")
    grey = own_picture(0)[..., 1]
    Image.fromarray(grey).save(folder / "rgb" / "00.png")
    Image.fromarray(np.dstack([own_picture(1), grey])).save(folder / "rgb" / "01.png")
    scenes = own(folder)
    np.testing.assert_array_equal(scenes.read(0)["rgb"], np.dstack([grey] * 3))
    np.testing.assert_array_equal(scenes.read(1)["rgb"], own_picture(1))


def test_a_picture_is_turned_as_its_exif_says(tmp_path):
    folder = write_folder(tmp_path / "own", suffix=".jpg")
    stored = np.ascontiguousarray(np.rot90(own_picture(2), 1))
    (folder / "rgb" / "02.jpg").write_bytes(jpeg(stored, orientation(6)))
    frame = own(folder).read(2)
    assert frame["rgb"].shape == (20, 30, 3) and frame["depth"].shape == (20, 30)
    assert abs(frame["rgb"].astype(int) - own_picture(2)).mean() < 10


@pytest.mark.parametrize(
    "depth",
    [
        np.zeros((20, 30), np.uint8),
        np.zeros((20, 30, 3), np.uint8),
        np.zeros((20, 30), bool),
        np.zeros((10, 15), np.uint16),
        np.zeros((30, 20), np.uint16),
    ],
    ids=["8 bits", "rgb", "1 bit", "smaller", "turned"],
)
def test_depth_that_does_not_fit_is_named(tmp_path, depth):
    folder = write_folder(tmp_path / "own")
    Image.fromarray(depth).save(folder / "depth" / "06.png")
    scenes = own(folder)
    scenes.read(5)
    with pytest.raises(HDEDError, match=r"depth.06\.png") as caught:
        scenes.read(6)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["rgb", "depth"])
@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_a_file_that_is_no_picture_is_named(tmp_path, part, content):
    folder = write_folder(tmp_path / "own")
    path = folder / part / "06.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(HDEDError, match=rf"{part}.06\.png"):
        own(folder).read(6)


@pytest.mark.parametrize("part", ["rgb", "depth"])
def test_a_picture_without_depth_or_the_reverse_is_named(tmp_path, part):
    folder = write_folder(tmp_path / "own")
    (folder / part / "05.png").unlink()
    with pytest.raises(HDEDError, match="05"):
        own(folder)


def test_two_pictures_of_one_name_are_refused(tmp_path):
    folder = write_folder(tmp_path / "own")
    Image.fromarray(own_picture(0)).save(folder / "rgb" / "00.jpg")
    with pytest.raises(HDEDError, match="have one name but for their suffix"):
        own(folder)


@pytest.mark.parametrize("part", ["", "rgb", "depth"])
def test_a_folder_that_is_missing_is_named(tmp_path, part):
    for other in {"rgb", "depth"} - {part} if part else ():
        (tmp_path / "own" / other).mkdir(parents=True)
        Image.new("RGB", (3, 3)).save(tmp_path / "own" / other / "a.png")
    with pytest.raises(HDEDError, match=part or "rgb"):
        own(tmp_path / "own")


def test_a_folder_without_pictures_or_with_too_few_is_refused(tmp_path):
    for part in ("rgb", "depth"):
        (tmp_path / "empty" / part).mkdir(parents=True)
    with pytest.raises(HDEDError, match="rgb"):
        own(tmp_path / "empty")
    with pytest.raises(HDEDError, match="4 frames"):
        own(write_folder(tmp_path / "few", NAMES[:4]))


def test_other_files_beside_the_pictures_do_not_matter(tmp_path):
    folder = write_folder(tmp_path / "own")
    (folder / "rgb" / "Thumbs.db").write_bytes(b"x")
    (folder / "depth" / "notes.txt").write_text("x")
    assert len(own(folder).frames) == 11


# --- what all readers give -----------------------------------------------------------------------


def numbered(train: int, test: int) -> RawFrames:
    split = ["train"] * train + ["test"] * test
    names = [str(i) for i in range(train + test)]
    return RawFrames(
        format="folder",
        frames=pd.DataFrame({"frame": names, "split": split, "scene": ""}),
        size=(1, 1),
        image_width_px=1,
        max_depth_m=1.0,
        has_raw_valid=False,
        read=lambda i: RawFrame(depth=np.full((1, 1), i)),
        skipped=["x: why"],
    )


@pytest.mark.parametrize(("count", "train", "test"), [(1, 1, 1), (4, 4, 4), (7, 7, 6), (99, 40, 6)])
def test_a_subset_keeps_so_many_of_each_split_spread_evenly(count, train, test):
    part = numbered(40, 6).subset(count)
    assert part.frames["split"].tolist() == ["train"] * train + ["test"] * test
    kept = [int(name) for name in part.frames["frame"]]
    assert kept == [int(frame["depth"][0, 0]) for frame in part] == sorted(set(kept))
    if train > 1:
        steps = np.diff(kept[:train])
        assert steps.max() - steps.min() <= 1 and kept[train - 1] >= 39 - steps.max()
    assert part.frames.index.tolist() == list(range(train + test))
    assert part.skipped == ["x: why"]


def test_no_subset_is_everything():
    scenes = numbered(3, 2)
    assert scenes.subset(None) is scenes and len(list(scenes)) == 5


# --- real files ----------------------------------------------------------------------------------


def test_real_nyu_frames_are_the_official_splits_cropped(real_data, stack):
    folder = real_data / "nyu_v2"
    scenes = open_nyu(folder, stack)
    assert scenes.frames["split"].value_counts().to_dict() == {"train": 795, "test": 654}
    splits = loadmat(folder / "splits.mat")
    for split, key in (("train", "trainNdxs"), ("test", "testNdxs")):
        ids = scenes.frames["frame"][scenes.frames["split"] == split].astype(int)
        assert sorted(ids) == sorted(splits[key].ravel().tolist())
    with h5py.File(folder / "nyu_depth_v2_labeled.mat") as file:
        images, depths = file["images"], file["depths"]
        assert isinstance(images, h5py.Dataset) and isinstance(depths, h5py.Dataset)
        for i in (0, 600, 1448):
            frame = scenes.read(i)
            assert scenes.frames["frame"][i] == f"{i + 1:04d}"
            for channel in range(3):
                upright = images[i, channel].swapaxes(0, 1)
                np.testing.assert_array_equal(frame["rgb"][..., channel], upright[44:471, 40:601])
            expected = depths[i].swapaxes(0, 1)[44:471, 40:601]
            np.testing.assert_array_equal(frame["depth"], expected)
            assert 0.3 < frame["depth"].min() < frame["depth"].max() <= 10
            # a room is darker than the white border that the crop removes
            edges = np.concatenate([frame["rgb"][0], frame["rgb"][-1]])
            assert (edges.min(1) < 250).mean() > 0.9


def test_real_make3d_pairs_are_all_read_or_named(real_data):
    folder = real_data / "make3d"
    scenes = open_make3d(folder)
    names: dict[str, list[str]] = {}
    first: dict[str, tuple[bytes, bytes]] = {}
    for split, (_, image_archive, _, depth_archive) in PARTS.items():
        with (
            tarfile.open(folder / image_archive) as images,
            tarfile.open(folder / depth_archive) as depths,
        ):
            members = {Path(m.name).stem.removeprefix("img-"): m for m in images if m.isfile()}
            grids = {
                Path(m.name).stem.removeprefix("depth_sph_corr-"): m for m in depths if m.isfile()
            }
            names[split] = sorted(members.keys() & grids.keys())
            read = scenes.frames["frame"][scenes.frames["split"] == split]
            chosen = read.iloc[0]
            data = [images.extractfile(members[chosen]), depths.extractfile(grids[chosen])]
            first[chosen] = tuple(file.read() for file in data if file)  # pyright: ignore
    skipped = {line.split(":")[0] for line in scenes.skipped}
    for split, expected in names.items():
        read = scenes.frames["frame"][scenes.frames["split"] == split].tolist()
        assert read == [name for name in expected if name not in skipped] and read
    for name, (image, depth) in first.items():
        frame = scenes.read(scenes.frames["frame"].tolist().index(name))
        with contextlib.closing(Image.open(io.BytesIO(image))) as picture:
            upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        np.testing.assert_array_equal(frame["rgb"], at_work_size(upright))
        laser = loadmat(io.BytesIO(depth))["Position3DGrid"][..., 3]
        assert set(np.unique(frame["depth"])) <= set(np.unique(laser.astype(np.float32)))
        assert 0 < frame["depth"].min() < 20 and 40 < frame["depth"].max() < 82
        # nearer at the foot of the picture than at its head
        assert np.median(frame["depth"][-60:]) < np.median(frame["depth"][:60])
