"""The embedded sample: ray-cast rooms and streets, written as the official raw files.

So that the real readers run by default, without network or licence. Rooms (0.7-10 m) become
`nyu_depth_v2_labeled.mat` and `splits.mat`; streets (2-80 m, sky at 80) the four Make3D archives.
Every scene has its own seed, so a frame does not depend on how many are asked for, and test scenes
are never seen in training. Equal arguments give equal bytes.
"""

import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from hded.datasets.make3d import ARCHIVES, GRID
from hded.datasets.nyu import FRAME_SIZE, LABELED, SPLITS
from hded.datasets.raycast import (
    CHECKER,
    PLAIN,
    PLANKS,
    SPECKLE,
    TILES,
    WINDOWS,
    Scene,
    Texture,
    camera_pose,
)
from hded.progress import progress

ROOM_FOCAL_PX = 519.0  # the Kinect's, at 640 px
ROOM_FAR_M = 9.99
STREET_SIZE = (2272, 1704)
STREET_FOCAL_PX = 2400.0
STREET_FAR_M = 80.0
BORDER_PX = 8  # NYU's frames have a white border that the crop removes
FRAMES_PER_ROOM = 2  # neighbouring NYU training frames show one room
EXIF_ORIENTATION, EXIF_ROTATE_90 = 0x0112, 6
TRAIN, TEST = 0, 1  # first word of a scene's seed


def write_nyu(dest: Path, *, train: int, test: int, seed: int) -> None:
    """Write the two NYU-Depth-v2 files with `train` + `test` frames into `dest`."""
    dest.mkdir(parents=True, exist_ok=True)
    plan = _room_plan(train, test)
    count, (height, width) = len(plan), FRAME_SIZE
    # MATLAB v7.3: HDF5 behind a block of text, axes reversed; without times, so equal bytes
    with h5py.File(dest / LABELED, "w", userblock_size=512) as mat:
        images = mat.create_dataset("images", (count, 3, width, height), "u1",
                                    chunks=(1, 3, width, height), track_times=False)  # fmt: skip
        depths, raw_depths = (
            mat.create_dataset(name, (count, width, height), "f4", chunks=(1, width, height),
                               track_times=False)
            for name in ("depths", "rawDepths")
        )  # fmt: skip
        names = mat.create_group("#refs#")
        scenes = mat.create_dataset("scenes", (1, count), h5py.ref_dtype, track_times=False)
        for i, (split, room, view) in enumerate(progress(plan, desc="sample nyu", unit="frame")):
            rgb, depth, raw = _room_frame(np.random.SeedSequence([seed, 1, split, room]), view)
            images[i] = rgb.transpose(2, 1, 0)
            depths[i], raw_depths[i] = depth.T, raw.T
            text = f"sample_{'test' if split else 'train'}_{room:04d}"
            codes = np.array([[ord(c)] for c in text], np.uint16)
            name = names.create_dataset(f"{i:05d}", data=codes, track_times=False)
            name.attrs["MATLAB_class"] = np.bytes_("char")
            scenes[0, i] = name.ref
        for dataset, kind in ((images, "uint8"), (depths, "single"), (raw_depths, "single"),
                              (scenes, "cell")):  # fmt: skip
            dataset.attrs["MATLAB_class"] = np.bytes_(kind)
    with (dest / LABELED).open("r+b") as file:
        head = b"MATLAB 7.3 MAT-file, Platform: hded sample".ljust(116) + bytes(8)
        file.write(head + b"\x00\x02IM")
    numbers = np.arange(1, count + 1)
    is_test = np.array([split == TEST for split, _, _ in plan])
    _savemat(dest / SPLITS, trainNdxs=numbers[~is_test, None], testNdxs=numbers[is_test, None])


def write_make3d(dest: Path, *, train: int, test: int, seed: int) -> None:
    """Write the four Make3D archives with `train` and `test` pairs into `dest`.

    The first training picture lies on its side and says so in its EXIF data, as one official does.
    """
    dest.mkdir(parents=True, exist_ok=True)
    with progress(total=train + test, desc="sample make3d", unit="frame") as bar:
        for split, count in ((TRAIN, train), (TEST, test)):
            (images, image_folder), (depths, depth_folder) = ARCHIVES["test" if split else "train"]
            with _tar(dest / images) as image_tar, _tar(dest / depths) as depth_tar:
                for i in range(count):
                    sequence = np.random.SeedSequence([seed, 2, split, i])
                    rgb, grid = _street_frame(sequence)
                    name = f"sample-{'test' if split else 'train'}-p-{i:03d}t000"
                    jpg = _jpeg(rgb, sideways=split == TRAIN and i == 0)
                    _add(image_tar, f"{image_folder}/img-{name}.jpg", jpg)
                    mat = io.BytesIO()
                    _savemat(mat, Position3DGrid=grid)
                    _add(depth_tar, f"{depth_folder}/depth_sph_corr-{name}.mat", mat.getvalue())
                    bar.update()


def _room_plan(train: int, test: int) -> list[tuple[int, int, int]]:
    """(split, room, view) of each frame in file order: test rooms lie between training rooms."""
    views = [(TRAIN, i // FRAMES_PER_ROOM, i % FRAMES_PER_ROOM) for i in range(train)]
    plan: list[tuple[int, int, int]] = []
    rooms = -(-train // FRAMES_PER_ROOM)
    for room in range(rooms):
        first, last = room * test // rooms, (room + 1) * test // rooms
        plan += [(TEST, i, 0) for i in range(first, last)]
        plan += views[room * FRAMES_PER_ROOM : (room + 1) * FRAMES_PER_ROOM]
    return plan


def _room_frame(
    sequence: np.random.SeedSequence, view: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Picture, filled depth and raw depth [m] of one view of one room, (480, 640)."""
    rng = np.random.default_rng(sequence)
    scene, back = _room(rng)
    pose_rng = np.random.default_rng([*rng.integers(0, 2**32, 2), view])
    position = [pose_rng.uniform(-0.3, 0.3), pose_rng.uniform(1.1, 1.7), 0.0]
    yaw, pitch = pose_rng.uniform(-0.25, 0.25), pose_rng.uniform(0.02, 0.3)
    pose = camera_pose(position, yaw, pitch)
    rgb, depth = scene.render(FRAME_SIZE, ROOM_FOCAL_PX, pose, samples=2)
    rgb, depth = _exposed(rgb, pose_rng), np.minimum(depth, ROOM_FAR_M).astype(np.float32)
    frame = np.ones(FRAME_SIZE, bool)
    frame[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = False
    rgb[frame] = 255
    raw = depth.copy()
    _punch_holes(raw, pose_rng, count=int(back) + 4, radius_px=(6, 30))
    if view == 0:  # a few pixels that even the filled depth does not know
        _punch_holes(depth, pose_rng, count=2, radius_px=(3, 9))
    return rgb, depth, raw


def _room(rng: np.random.Generator) -> tuple[Scene, float]:
    """A furnished box room, and the distance of its back wall [m]."""
    scene = Scene(far_m=ROOM_FAR_M)
    back = rng.uniform(2.2, 9.6)
    left, right = -rng.uniform(1.3, 3.6), rng.uniform(1.3, 3.6)
    top, near, span = rng.uniform(2.3, 3.2), -2.0, right - left
    deep = back - near
    floor = _texture(rng, [PLANKS, TILES, CHECKER], (0.25, 0.7))
    walls = [_texture(rng, [PLAIN, SPECKLE, TILES, PLANKS], (0.3, 0.9)) for _ in range(3)]
    scene.quad([left, 0, near], [span, 0, 0], [0, 0, deep], floor)
    scene.quad([left, top, near], [span, 0, 0], [0, 0, deep], _texture(rng, [PLAIN, TILES], (1, 2)))
    scene.quad([left, 0, back], [span, 0, 0], [0, top, 0], walls[0])
    scene.quad([left, 0, near], [0, 0, deep], [0, top, 0], walls[1])
    scene.quad([right, 0, near], [0, 0, deep], [0, top, 0], walls[2])
    for _ in range(rng.integers(1, 4)):  # pictures and shelves on the back wall
        w, h = rng.uniform(0.4, 1.4), rng.uniform(0.3, 0.9)
        x, y = rng.uniform(left, right - w), rng.uniform(0.9, max(1.0, top - h - 0.1))
        poster = _texture(rng, [CHECKER, SPECKLE, WINDOWS], (0.06, 0.3))
        scene.quad([x, y, back - 0.03], [w, 0, 0], [0, h, 0], poster)
    for _ in range(rng.integers(4, 9)):
        z = rng.uniform(1.3, max(1.6, 0.95 * back))
        x = rng.uniform(max(left, -0.8 * z - 0.3), min(right, 0.8 * z + 0.3))
        size = rng.uniform([0.3, 0.3, 0.3], [1.3, 1.3, 1.0])
        kinds = [PLANKS, CHECKER, SPECKLE, PLAIN, TILES]
        centre = [x, size[1] / 2, z + size[2] / 2]
        scene.box(centre, size, rng.uniform(-0.7, 0.7), _texture(rng, kinds, (0.1, 0.5)))
    for _ in range(rng.integers(1, 3)):
        radius, z = rng.uniform(0.12, 0.4), rng.uniform(1.3, max(1.6, 0.9 * back))
        ball = _texture(rng, [CHECKER, SPECKLE, PLAIN], (0.08, 0.25))
        scene.sphere([rng.uniform(-0.6, 0.6) * z, radius, z], radius, ball)
    for _ in range(rng.integers(1, 3)):  # panels that lean back
        z, w = rng.uniform(1.2, max(1.5, 0.8 * back)), rng.uniform(0.5, 1.2)
        lean, turn = rng.uniform(0.1, 0.6), rng.uniform(-0.6, 0.6)
        u = [w * np.cos(turn), 0, w * np.sin(turn)]
        corner = [rng.uniform(-0.7, 0.5) * z, 0, z]
        panel = _texture(rng, [TILES, CHECKER, PLANKS, SPECKLE], (0.1, 0.4))
        scene.quad(corner, u, [0, rng.uniform(0.8, 1.6), lean], panel)
    return scene, back


def _street_frame(
    sequence: np.random.SeedSequence,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Picture (2272, 1704) of one street and its Position3DGrid (55, 305, 4) [m]."""
    rng = np.random.default_rng(sequence)
    scene = _street(rng)
    pose = camera_pose(
        [rng.uniform(-1, 1), rng.uniform(1.4, 2.2), 0], rng.uniform(-0.15, 0.15),
        rng.uniform(-0.08, 0.08),
    )  # fmt: skip
    rgb, depth = scene.render(STREET_SIZE, STREET_FOCAL_PX, pose)
    (height, width), (rows, columns) = STREET_SIZE, GRID
    y = ((np.arange(rows) + 0.5) * height / rows).astype(int)
    x = ((np.arange(columns) + 0.5) * width / columns).astype(int)
    z = np.minimum(depth[y[:, None], x], STREET_FAR_M).astype(np.float64)
    across = (x + 0.5 - width / 2) / STREET_FOCAL_PX * z
    down = ((y + 0.5 - height / 2) / STREET_FOCAL_PX)[:, None] * z
    grid = np.stack([across, -down, z, z], -1)
    _punch_holes(grid[..., 3], rng, count=2, radius_px=(1, 3))
    return _exposed(rgb, rng), grid


def _street(rng: np.random.Generator) -> Scene:
    """A street between two rows of houses, with trunks, crowns, boxes and a ramp."""
    scene = Scene(far_m=STREET_FAR_M, sky=True)
    ground = _texture(rng, [PLAIN, SPECKLE, TILES], (0.6, 2.5))
    scene.quad([-90, 0, -5], [180, 0, 0], [0, rng.uniform(-0.5, 3.0), 95], ground)
    half = rng.uniform(3.5, 9.0)
    for side in (-1, 1):
        z = rng.uniform(2.0, 14.0)
        while z < 75 and rng.uniform() < 0.9:
            size = [rng.uniform(5, 12), rng.uniform(3.5, 16), rng.uniform(5, 14)]
            x = side * (half + rng.uniform(0, 3) + size[0] / 2)
            facade = _texture(rng, [WINDOWS, TILES, WINDOWS, PLANKS], (1.5, 3.5))
            scene.box([x, size[1] / 2, z + size[2] / 2], size, rng.uniform(-0.15, 0.15), facade)
            z += size[2] + rng.uniform(0, 8)
    for _ in range(rng.integers(3, 8)):  # trees
        z = rng.uniform(4, 45)
        x = rng.choice([-1, 1]) * rng.uniform(0.55, 1.1) * half
        tall = rng.uniform(2.5, 5)
        bark, leaves = _texture(rng, [PLANKS], (0.2, 0.4)), _texture(rng, [SPECKLE], (0.8, 1.6))
        scene.box([x, tall / 2, z], [0.35, tall, 0.35], rng.uniform(0, 1.5), bark)
        for _ in range(4):
            offset = rng.normal(0, 0.7, 3)
            scene.sphere(np.array([x, tall, z]) + offset, rng.uniform(0.8, 1.6), leaves)
    for _ in range(rng.integers(4, 9)):  # cars, kiosks, crates
        z = rng.uniform(3.5, 50)
        size = rng.uniform([0.5, 0.5, 0.5], [2.2, 2.2, 4.5])
        x = rng.uniform(-1, 1) * min(half, 0.35 * z + 0.8)
        kinds = [CHECKER, PLANKS, SPECKLE, TILES]
        centre = [x, size[1] / 2, z + size[2] / 2]
        scene.box(centre, size, rng.uniform(-0.4, 0.4), _texture(rng, kinds, (0.2, 0.9)))
    z = rng.uniform(8, 30)
    ramp = _texture(rng, [PLANKS, TILES], (0.4, 1.2))
    scene.quad([rng.uniform(-4, 1), 0.02, z], [rng.uniform(2, 4), 0, 0], [0, 1.5, 5], ramp)
    return scene


def _texture(rng: np.random.Generator, kinds: list[int], scale_m: tuple[float, float]) -> Texture:
    """Draw a pattern of one of `kinds` in two shades of one hue."""
    hue = rng.uniform(0.25, 1.0, 3)
    hue = 0.55 * hue / hue.max() + 0.45
    return Texture(
        kind=int(rng.choice(kinds)),
        seed=int(rng.integers(0, 2**20)),
        scale_m=float(rng.uniform(*scale_m)),
        dark=hue * rng.uniform(0.05, 0.3),
        light=np.minimum(1.0, hue * rng.uniform(0.65, 1.1) + rng.uniform(-0.08, 0.08, 3)),
    )


def _exposed(rgb: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Vary exposure and white balance, and add a sensor's faint noise."""
    gain = rng.uniform(0.75, 1.1) * rng.uniform(0.95, 1.05, 3)
    noise = rng.normal(0, 1.0, rgb.shape).astype(np.float32)
    return np.clip(np.rint(rgb * gain.astype(np.float32) + noise), 0, 255).astype(np.uint8)


def _punch_holes(
    depth: NDArray, rng: np.random.Generator, *, count: int, radius_px: tuple[float, float]
) -> None:
    """Set discs of `depth` to 0, "unknown"."""
    height, width = depth.shape
    y, x = np.ogrid[:height, :width]
    for _ in range(count):
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(*radius_px)
        depth[(y - cy) ** 2 + (x - cx) ** 2 < r**2] = 0


def _jpeg(rgb: NDArray[np.uint8], *, sideways: bool) -> bytes:
    image, data, exif = Image.fromarray(rgb), io.BytesIO(), Image.Exif()
    if sideways:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[EXIF_ORIENTATION] = EXIF_ROTATE_90
    image.save(data, "JPEG", quality=92, exif=exif)
    return data.getvalue()


def _savemat(file: Path | io.BytesIO, **arrays: NDArray) -> None:
    """Write MATLAB v5 without the time of day in its header."""
    data = io.BytesIO()
    savemat(data, arrays)
    content = b"MATLAB 5.0 MAT-file, hded sample".ljust(116) + data.getvalue()[116:]
    if isinstance(file, Path):
        file.write_bytes(content)
    else:
        file.write(content)


@contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A .tar.gz that holds no time and no name of its own."""
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        yield tar


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
