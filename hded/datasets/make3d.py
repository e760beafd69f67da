"""Reader for Make3D (Saxena et al. 2009): archives of 1704x2272 jpgs and 55x305 laser depth maps.

Images and depth are paired by name: img-X.jpg with depth_sph_corr-X.mat, whose Position3DGrid
[..., 3] is depth in metres. The benchmark's size is 460x345 (H x W): images are resized with
antialiasing, depth by nearest neighbour. A pair that cannot be decoded is skipped and listed in
`RawFrames.skipped`.
"""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from hded.common.errors import HDEDError, one_line
from hded.common.image_io import open_upright
from hded.common.progress import progress
from hded.common.resize import resize_nearest
from hded.datasets.archives import iter_members
from hded.datasets.base import Dataset, RawFrame, RawFrames
from hded.datasets.matlab import MatReader

# split -> (archive, folder inside it) of images, and of depths
ARCHIVES = {
    "train": (("Train400Img.tar.gz", "Train400Img"), ("Train400Depth.tgz", "Train400Depth")),
    "test": (("Test134.tar.gz", "Test134"), ("Test134Depth.tar.gz", "Gridlaserdata")),
}
SIZE = (460, 345)  # H, W
GRID = (55, 305)
MAX_DEPTH_M = 80.0
BATCH = 64  # members decoded at once
LASER_RANGE_M = 100.0  # sky is 80 to 81 m; values above this are damaged data


def open_make3d(folder: Path) -> RawFrames:
    """Decode the four archives in `folder`; frames are sorted by name.

    The resized images are kept in memory (about 0.7 MB per frame). Depth that is not a positive
    number within the laser's range becomes 0; sky (80 to 81 m) is not changed.
    Raises HDEDError for an archive that is missing or damaged, and for a split without any pair.
    """
    rows, images, grids, skipped = [], [], [], []
    for split, (image_archive, depth_archive) in ARCHIVES.items():
        depths, bad_depths = _decode(folder, *depth_archive, "depth_sph_corr-", ".mat", _grids)
        rgb_images, bad_images = _decode(folder, *image_archive, "img-", ".jpg", _pictures)
        skipped += [f"{name}: {why}" for name, why in sorted((bad_depths | bad_images).items())]
        known = set(bad_depths) | set(bad_images)
        for name in sorted(set(depths) ^ set(rgb_images)):
            if name not in known:
                skipped.append(f"{name}: has no {'depth' if name in rgb_images else 'image'}")
        names = sorted(set(depths) & set(rgb_images))
        if not names:
            raise HDEDError(f"{folder}: Make3D's {split} archives have no readable pair")
        for name in names:
            rows.append({"frame": name, "split": split, "scene": ""})
            images.append(rgb_images[name])
            grids.append(depths[name])

    def read(i: int) -> RawFrame:
        return RawFrame(rgb=images[i], depth=resize_nearest(grids[i], SIZE))

    return RawFrames(
        format="make3d",
        frames=pd.DataFrame(rows),
        size=SIZE,
        image_width_px=SIZE[1],
        max_depth_m=MAX_DEPTH_M,
        has_raw_valid=False,
        read=read,
        skipped=skipped,
    )


def _decode(
    folder: Path,
    archive: str,
    inside: str,
    prefix: str,
    suffix: str,
    decode: Callable[[Sequence[bytes]], Sequence[NDArray | str]],
) -> tuple[dict[str, NDArray], dict[str, str]]:
    """Return an archive's members, name -> array, and those that failed, name -> reason."""
    members = iter_members(folder / archive, folder=inside, suffix=(suffix,))
    good: dict[str, NDArray] = {}
    bad: dict[str, str] = {}
    batch = list(islice(members, BATCH))  # before the progress bar, because this may raise
    with progress(desc=archive, unit="file") as bar:
        while batch:
            results = decode([data for _, data in batch])
            for (file, _), result in zip(batch, results, strict=True):
                bar.update()
                name = file.removeprefix(prefix).removesuffix(suffix)
                if isinstance(result, str):
                    bad[name] = f"{file} does not decode ({one_line(result)})"
                else:
                    good[name] = result
            batch = list(islice(members, BATCH))
    return good, bad


def _pictures(files: Sequence[bytes]) -> list[NDArray[np.uint8] | str]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_picture, files))


def _picture(data: bytes) -> NDArray[np.uint8] | str:
    try:
        upright = open_upright(io.BytesIO(data))
    except HDEDError as error:
        return str(error)
    height, width = SIZE
    return np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR))


def _grids(files: Sequence[bytes]) -> list[NDArray[np.float32] | str]:
    with MatReader() as mat:
        return [_grid(mat.read(data, "Position3DGrid")) for data in files]


def _grid(grid: NDArray | str) -> NDArray[np.float32] | str:
    if isinstance(grid, str):
        return grid
    if grid.shape != (*GRID, 4) or grid.dtype.kind not in "fiu":
        return f"Position3DGrid is {grid.dtype} of shape {grid.shape}, not {(*GRID, 4)}"
    depth = grid[..., 3].astype(np.float32)
    return np.where((depth > 0) & (depth < LASER_RANGE_M), depth, np.float32(0))


MAKE3D = Dataset(
    name="make3d",
    files=tuple(archive for pair in ARCHIVES.values() for archive, _ in pair),
    open=lambda folder, _: open_make3d(folder),
)
