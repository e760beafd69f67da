"""The embedded sample: ray-cast rooms and streets, written in the official raw formats.

With it the real readers run by default, without network or licence. Rooms (0.7 to 10 m) become
`nyu_depth_v2_labeled.mat` and `splits.mat`; streets (2 to 80 m, sky at 80 to 81 m) become the four
Make3D archives.

- The seed of a scene is derived from (seed, dataset, split, number), so its content does not depend
  on the number of frames, and no test scene is a training scene.
- Depth is z-depth, along the optical axis, in both datasets. This is so for Kinect; Make3D's laser
  measured the length of the ray, which is at most 13% more, in the image's corners.
- No file contains a time: equal arguments give equal bytes on one machine.
"""

import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.datasets.make3d import ARCHIVES, GRID
from hded.datasets.nyu import FRAME_SIZE, LABELED, SPLITS
from hded.sample import rooms, streets
from hded.sample.raycast import cast_depth
from hded.sample.shading import render

NYU, MAKE3D = 0, 1  # parts of a scene's seed
SPLIT_WORDS = {"train": 0, "test": 1}
BORDER_PX = 7  # the official frames have a white border, which the readers' crop removes
KINECT_BASELINE_M = 0.075
LASER_STEP_M = 0.005
STREET_RENDER_SIZE = (639, 852)  # W, H; upsampled to the official size, of which 345x460 is used
EXIF_ORIENTATION, EXIF_ROTATE_90_CW = 0x0112, 6


def write_nyu(dest: Path, *, train: int, test: int, seed: int) -> None:
    """Write nyu_depth_v2_labeled.mat and splits.mat with `train` + `test` frames into `dest`.

    train, test: numbers of frames. The .mat is HDF5 in the layout of MATLAB v7.3, with `images`,
    `depths`, `rawDepths` (0 where the Kinect measures nothing) and `scenes`. Two consecutive
    training frames show one room; test frames are spread between them. Some `depths` have invalid
    pixels (0), too. Raises HDEDError for counts below 1 or a negative seed.
    """
    _check(train, test, seed)
    plan = _plan(train, test)
    dest.mkdir(parents=True, exist_ok=True)
    count, (height, width) = train + test, FRAME_SIZE
    # the user block is for MATLAB's text and version; no times, so that files are reproducible
    with h5py.File(dest / LABELED, "w", userblock_size=512) as mat:
        stores = {
            name: mat.create_dataset(
                name, (count, *shape), dtype, chunks=(1, *shape), track_times=False
            )
            for name, shape, dtype in (
                ("images", (3, width, height), "u1"),
                ("depths", (width, height), "f4"),
                ("rawDepths", (width, height), "f4"),
            )
        }
        stores["scenes"] = mat.create_dataset(
            "scenes", (1, count), h5py.ref_dtype, track_times=False
        )
        for name, kind in zip(stores, ("uint8", "single", "single", "cell"), strict=True):
            stores[name].attrs["MATLAB_class"] = np.bytes_(kind)
        texts = mat.create_group("#refs#")
        frames = progress(_room_frames(plan, seed), total=count, desc="sample nyu", unit="frame")
        for i, (scene, rgb, depth, raw) in enumerate(frames):
            stores["images"][i] = rgb.transpose(2, 1, 0)
            stores["depths"][i], stores["rawDepths"][i] = depth.T, raw.T
            codes = np.array([[ord(letter)] for letter in scene], np.uint16)
            text = texts.create_dataset(f"{i:05d}", data=codes, track_times=False)
            text.attrs["MATLAB_class"] = np.bytes_("char")
            text.attrs["MATLAB_int_decode"] = np.int32(2)
            stores["scenes"][0, i] = text.ref
    with (dest / LABELED).open("r+b") as file:
        file.write(_matlab_text("7.3") + b"\0" * 8 + b"\x00\x02IM")
    split = np.repeat([room.split for room in plan], [room.views for room in plan])
    numbers = {f"{name}Ndxs": np.argwhere(split == name) + 1.0 for name in SPLIT_WORDS}
    (dest / SPLITS).write_bytes(_mat_bytes(numbers))


def write_make3d(dest: Path, *, train: int, test: int, seed: int) -> None:
    """Write the four Make3D archives of `train` + `test` pairs into the folder `dest`.

    train, test: numbers of pairs. Images are 1704x2272 (W x H). Depth is on the laser's grid of
    55x305, where Position3DGrid[..., 3] is depth [m] and [..., :3] the point: up, right, forward.
    The first training image is stored rotated, with an EXIF orientation that corrects it.
    Raises HDEDError for counts below 1 or a negative seed.
    """
    _check(train, test, seed)
    dest.mkdir(parents=True, exist_ok=True)
    with progress(total=train + test, desc="sample make3d", unit="frame") as bar:
        for split, count in (("train", train), ("test", test)):
            (image_archive, image_folder), (depth_archive, depth_folder) = ARCHIVES[split]
            with ExitStack() as stack:
                images = stack.enter_context(_tar_gz(dest / image_archive))
                depths = stack.enter_context(_tar_gz(dest / depth_archive))
                for number in range(count):
                    rgb, grid = _street_frame(seed, split, number)
                    name = f"sample-{split}-p-{number:03d}t000"
                    jpg = _jpeg(rgb, on_its_side=split == "train" and number == 0)
                    _add(images, f"{image_folder}/img-{name}.jpg", jpg)
                    mat = _mat_bytes({"Position3DGrid": grid})
                    _add(depths, f"{depth_folder}/depth_sph_corr-{name}.mat", mat)
                    bar.update()


WRITERS = {"nyu": write_nyu, "make3d": write_make3d}  # by the name of the dataset


@dataclass(frozen=True, slots=True)
class _Room:
    """A planned room: its number within its split, and the number of its views."""

    split: str
    number: int
    views: int


def _check(train: int, test: int, seed: int) -> None:
    for key, value, least in (("train", train, 1), ("test", test, 1), ("seed", seed, 0)):
        if value < least:
            raise HDEDError(f"sample.{key}: {value} is too small; give {least} or more")


def _sequence(seed: int, dataset: int, split: str, *numbers: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(dataset, SPLIT_WORDS[split], *numbers))


def _plan(train: int, test: int) -> list[_Room]:
    """Return the rooms in the file's order: test rooms evenly among the training rooms."""
    pairs = -(-train // rooms.VIEWS)
    order = [((i + 0.5) / pairs, "train", i) for i in range(pairs)]
    order += [((i + 0.5) / test, "test", i) for i in range(test)]
    return [
        _Room(
            split, number, min(rooms.VIEWS, train - rooms.VIEWS * number) if split == "train" else 1
        )
        for _, split, number in sorted(order)
    ]


def _room_frames(
    plan: list[_Room], seed: int
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]]:
    """Yield (room name, rgb, depth [m], raw depth [m]) of every frame, arrays (480, 640, ...)."""
    height, width = FRAME_SIZE
    border = np.ones(FRAME_SIZE, bool)
    border[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = False
    for place, room in enumerate(plan):
        scene, views = rooms.furnish(_sequence(seed, NYU, room.split, room.number))
        for i in range(room.views):
            rng = np.random.default_rng(_sequence(seed, NYU, room.split, room.number, i))
            linear, z = render(scene, views[i], width, height, samples=2)
            rgb, depth = _exposed(linear, rng), z.astype(np.float32)
            rgb[border] = 255
            blobs = _blobs(rng)
            hidden = border | _kinect_shadow(depth) | (blobs > np.quantile(blobs, 0.97))
            raw = np.where(hidden, np.float32(0), depth)
            if i == 0:  # a few pixels that are invalid even in the filled depth
                depth[blobs > np.quantile(blobs, 0.998)] = 0
            yield f"sample_room_{place + 1:04d}", rgb, depth, raw


def _kinect_shadow(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the shadow of the Kinect's projector, beside its camera: right of near objects.

    A point is in the shadow if a point further left in the image is further right as seen from the
    projector, which is beside the camera.
    """
    x = np.arange(depth.shape[1], dtype=np.float64)
    projected = x + rooms.FOCAL_PX * KINECT_BASELINE_M / depth
    return projected < np.maximum.accumulate(projected, axis=1) - 1.0


def _blobs(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return smooth noise of a frame's size, for holes with smooth outlines."""
    coarse = Image.fromarray(rng.normal(size=(12, 16)).astype(np.float32))
    height, width = FRAME_SIZE
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _street_frame(
    seed: int, split: str, number: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the image (2272, 1704, 3) and Position3DGrid (55, 305, 4) [m] of one street."""
    scene, view = streets.build_street(_sequence(seed, MAKE3D, split, number))
    rng = np.random.default_rng(_sequence(seed, MAKE3D, split, number, 0))
    width, height = streets.WIDTH, streets.HEIGHT
    linear, _ = render(scene, view, *STREET_RENDER_SIZE, samples=2)
    small = Image.fromarray(_exposed(linear, rng))
    rgb = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = GRID
    z = cast_depth(scene, view, columns, rows)
    sky = streets.FAR_M + rng.uniform(0, 1)
    z = np.where(np.isinf(z), sky, np.minimum(z, streets.FAR_M))
    z = np.round(z / LASER_STEP_M) * LASER_STEP_M
    right = (np.arange(columns) + 0.5) * 2 / columns - 1
    down = (np.arange(rows)[:, None] + 0.5) * 2 / rows - 1
    point = (-z * down * view.tan_y, z * right * view.tan_x, z)
    return rgb, np.stack((*point, z), -1)


def _exposed(linear: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return sRGB bytes of linear rgb: exposed by its median, highlights compressed."""
    gain = rng.uniform(0.3, 0.45) / max(float(np.median(linear)), 1e-6)
    shown = (-np.expm1(np.float32(-gain) * linear)) ** np.float32(1 / 2.2)
    return np.rint(255 * shown).astype(np.uint8)


def _jpeg(rgb: NDArray[np.uint8], *, on_its_side: bool) -> bytes:
    image, exif, data = Image.fromarray(rgb), Image.Exif(), io.BytesIO()
    if on_its_side:
        image = image.transpose(Image.Transpose.ROTATE_90)  # counter-clockwise; EXIF reverses it
        exif[EXIF_ORIENTATION] = EXIF_ROTATE_90_CW
    image.save(data, "JPEG", quality=90, exif=exif)
    return data.getvalue()


def _matlab_text(version: str) -> bytes:
    """Return the first 116 bytes of a .mat file, without the date that MATLAB writes there."""
    return f"MATLAB {version} MAT-file, Platform: GLNXA64, sample of hded".encode().ljust(116)


def _mat_bytes(arrays: dict[str, NDArray]) -> bytes:
    """Return a MATLAB v5 file."""
    data = io.BytesIO()
    savemat(data, arrays, do_compression=True)
    return _matlab_text("5.0") + data.getvalue()[116:]


@contextmanager
def _tar_gz(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a .tar.gz whose header has no name and time; add members with `_add`."""
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        yield tar


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # time 0, owner 0
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
