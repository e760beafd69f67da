"""The frames that a network is trained or validated on, held in memory.

They are one uint8 tensor for each kind of image and one float32 tensor of depth, so that they can
be moved to the device that trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hded.blur.holes import fill_holes
from hded.blur.render import sensor_rng
from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.common.resize import resize_nearest, resize_rgb
from hded.config.schema import Geometry, NetworkInput
from hded.network.normalize import copy_to_tensor
from hded.optics import IDEAL, Sensor, recorded_lens, recorded_sensor
from hded.store import Store

RESIDENT_SHARE = 0.5  # of a GPU's free memory; the rest is left to the network


@dataclass(slots=True)
class Shot:
    """The stored renderings by one camera.

    `images` (M, H, W, 3) uint8; the rows `rows[i]` are the renderings of frame i; `lenses` (M, 6):
    see `hded.blur.lenses`; None where the store has none; `sensor`: whose noise and compression the
    images still lack.
    """

    images: Tensor
    rows: list[range]
    lenses: Tensor | None
    sensor: Sensor = IDEAL


class TrainingFrames:
    """Frames of a dataset in memory, with their stored renderings.

    - `sharp`: (N, H, W, 3) uint8, all in focus
    - `depth_m`: (N, H, W) float32, 0 where unknown; `host_depth_m`: the same, never on a GPU;
      `blur_depth_m`: the same without holes, for rendering
    - `shots`: the renderings by each camera, one element for each of the stores `defocused`
    - `indices`: (N,) the frames' rows in the store, and `rows` what its table says of them

    With `geometry` crop frames keep their size; with resize they are resized to size_px x size_px,
    images antialiased and depth by nearest neighbour. With `network_input` sharp the network reads
    the sharp images. `stored`: whether the renderings are read; None: unless the network reads
    sharp images. Where they are not, sharp images stand in for them if the network reads these;
    otherwise no frame is resized: a sampler renders at full size and resizes afterwards. `exposed`:
    the stored renderings get the noise and the compression of their camera once, as validation
    needs; otherwise a sampler adds them to each crop.

    Raises HDEDError where the frames are smaller than the crops, where a frame has several
    renderings by one of several cameras, and where noise would have to be added after a resize.
    """

    def __init__(
        self,
        scenes: Store,
        defocused: Sequence[Store],
        indices: NDArray[np.integer],
        geometry: Geometry,
        size_px: int,
        network_input: NetworkInput = "defocused",
        *,
        stored: bool | None = None,
        exposed: bool = False,
    ) -> None:
        height, width = scenes.arrays["rgb"].shape[1:3]
        if geometry == "crop" and min(height, width) < size_px:
            raise HDEDError(
                f"train.size_px is {size_px}, the frames are {height}x{width}; crop no more "
                "than the shorter side, or use geometry: resize"
            )
        self.reads_sharp = network_input == "sharp"
        anew = stored is False and not self.reads_sharp
        self.geometry, self.size_px, self.stored = geometry, size_px, not anew
        self.indices = np.asarray(indices)
        self.image_width_px: int = scenes.attributes["image_width_px"]
        self.rows = scenes.frames.iloc[self.indices].to_dict("records")
        count = len(self.indices)
        read = not self.reads_sharp if stored is None else stored
        tables = [_rows(store, self.indices) for store in defocused] if read else []
        if len(tables) > 1 and any(len(rows) != 1 for table in tables for rows in table):
            raise HDEDError(
                "training: a network that reads a picture by each of several cameras needs one "
                "rendering of each frame by each; give every camera one focus distance"
            )
        sensors = [recorded_sensor(store.attributes["camera"]) for store in defocused if read]
        if geometry == "resize" and not exposed and not all(sensor.ideal for sensor in sensors):
            raise HDEDError(
                "training: the camera's noise and compression come before an image is resized; use "
                "train.refocus: on_the_fly, or train.geometry: crop"
            )
        self.shots: list[Shot] = []
        bar = progress(self.indices, desc="load frames", unit="frame", disable=count < 100)
        for i, index in enumerate(bar):
            sharp, depth_m = scenes.read("rgb", index), scenes.read("depth", index)
            if self.stored:
                sharp, depth_m = self.resize(sharp), self.resize(depth_m)
            if i == 0:
                size = sharp.shape[:2]
                self.sharp = torch.empty((count, *size, 3), dtype=torch.uint8)
                self.depth_m = torch.empty((count, *size), dtype=torch.float32)
                self.host_depth_m = self.blur_depth_m = self.depth_m
                for store, table, sensor in zip(defocused, tables, sensors, strict=read):
                    shot = _empty_shot(store, table, size)
                    shot.sensor = IDEAL if exposed else sensor
                    self.shots.append(shot)
            self.sharp[i] = copy_to_tensor(sharp)
            self.depth_m[i] = copy_to_tensor(depth_m)
            for s, (store, table) in enumerate(zip(defocused, tables, strict=read)):
                for place, row in zip(self.shots[s].rows[i], table[i], strict=True):
                    image = store.read("defocused", row)
                    if exposed and not sensors[s].ideal:
                        rng = sensor_rng(store.attributes["camera"]["name"], 0, int(row))
                        image = sensors[s].expose(image / np.float32(255), rng)
                    self.shots[s].images[place] = copy_to_tensor(self.resize(image))
        if anew and (self.depth_m <= 0).any():
            holes = [fill_holes(depth.numpy()) for depth in self.depth_m]
            self.blur_depth_m = torch.from_numpy(np.stack(holes))
        if self.reads_sharp and not self.shots:
            self.shots = [Shot(self.sharp, [range(i, i + 1) for i in range(count)], None)]

    def __len__(self) -> int:
        return len(self.indices)

    def lenses(self, rows: Sequence[Sequence[int]]) -> Tensor | None:
        """Return the lenses (B, S, 6) of B samples' renderings, each a row for every shot."""
        known = [shot.lenses for shot in self.shots]
        found = [lenses for lenses in known if lenses is not None]
        if len(found) < len(known):
            return None
        picked = [[each[row] for each, row in zip(found, of, strict=True)] for of in rows]
        return torch.stack([torch.stack(of) for of in picked])

    def resize(self, array: NDArray) -> NDArray:
        """Return an image (H, W, 3) or depth (H, W) at the training size; crops keep their own."""
        size = (self.size_px, self.size_px)
        if self.geometry == "crop" or array.shape[:2] == size:
            return array
        return resize_rgb(array, size) if array.ndim == 3 else resize_nearest(array, size)

    def move_to(self, device: torch.device) -> bool:
        """Move the frames to a GPU if they take less than half of its free memory.

        Returns whether they were moved. Frames that are rendered before they are resized, and those
        to which noise is added, stay on the host, where that is done.
        """
        if device.type != "cuda" or (not self.stored and self.geometry == "resize"):
            return False
        if not all(shot.sensor.ideal for shot in self.shots):
            return False  # noise is added on the host
        tensors = [self.sharp, self.depth_m]
        tensors += [shot.images for shot in self.shots if shot.images is not self.sharp]
        needed = sum(t.numel() * t.element_size() for t in tensors)
        if needed > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            return False
        host = self.sharp
        self.sharp, self.depth_m = host.to(device), self.depth_m.to(device)
        for shot in self.shots:
            shot.images = self.sharp if shot.images is host else shot.images.to(device)
        return True


def _rows(defocused: Store, indices: NDArray) -> list[NDArray[np.intp]]:
    """Return the rows of each frame's renderings in a store."""
    frame_of = defocused.frames["frame_index"].to_numpy()
    return [np.flatnonzero(frame_of == index) for index in indices]


def stored_lenses(defocused: Store) -> Tensor | None:
    """Return the lens of every rendering in a store, (M, 6) float32; None where it has none."""
    camera = defocused.attributes["camera"]
    lenses = [recorded_lens(camera, row) for row in defocused.frames.to_dict("records")]
    rows = [lens.row() for lens in lenses if lens is not None]
    return torch.tensor(rows, dtype=torch.float32) if len(rows) == len(lenses) else None


def _empty_shot(store: Store, table: Sequence[NDArray[np.intp]], size: tuple[int, int]) -> Shot:
    bounds = np.cumsum([0, *map(len, table)]).tolist()
    images = torch.empty((bounds[-1], *size, 3), dtype=torch.uint8)
    lenses = stored_lenses(store)
    of_frames = torch.from_numpy(np.concatenate(table))
    return Shot(
        images,
        [range(first, last) for first, last in pairwise(bounds)],
        None if lenses is None else lenses[of_frames],
    )
