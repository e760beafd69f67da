"""The frames that a network is trained or validated on: in memory, or read as they are needed.

In memory they are one uint8 tensor for each kind of image and one float32 tensor of depth, so that
they can be moved to the device that trains.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
from hded.optics import IDEAL, Sensor, recorded_lens, recorded_sensor
from hded.store import Store
from hded.training.stream import Streamed

RESIDENT_SHARE = 0.5  # of a GPU's free memory, or of the machine's; the rest is left to the network


@dataclass(slots=True)
class Shot:
    """The stored renderings by one camera.

    `images` (M, H, W, 3) uint8; the rows `rows[i]` are the renderings of frame i; `lenses` (M, 6):
    see `hded.blur.lenses`; None where the store has none; `sensor`: whose noise and compression the
    images still lack.
    """

    images: Tensor | Streamed
    rows: list[range]
    lenses: Tensor | None
    sensor: Sensor = IDEAL


class TrainingFrames:
    """Frames of a dataset, with their stored renderings: tensors, or with `streams` read as needed.

    - `sharp`: (N, H, W, 3) uint8, all in focus
    - `depth_m`: (N, H, W) float32, 0 where unknown; `host_depth_m`: the same, never on a GPU;
      `blur_depth_m`: the same without holes, for rendering
    - `shots`: the renderings by each camera, one element for each of the stores `defocused`
    - `bytes`: of one frame with a rendering by each camera
    - `indices`: (N,) the frames' rows in the store, and `rows` what its table says of them

    With `geometry` crop frames keep their size; with resize they are resized to size_px x size_px,
    images antialiased and depth by nearest neighbour. With `network_input` sharp the network reads
    the sharp images. `stored`: whether the renderings are read; None: unless the network reads
    sharp images. Where they are not, sharp images stand in for them if the network reads these;
    otherwise no frame is resized: a sampler renders at full size and resizes afterwards. `exposed`:
    the stored renderings get the noise and the compression of their camera once, as validation
    needs; otherwise a sampler adds them to each crop.

    `streams`: frames are read from the stores each time, instead of once into memory; what is read
    is the same.

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
        streams: bool = False,
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
        self.streams = streams
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
        self._scenes, self._exposed = scenes, exposed
        size = (size_px, size_px) if self.stored and geometry == "resize" else (height, width)
        count = len(self.indices)
        self.shots: list[Shot] = []
        for store, table, sensor in zip(defocused, tables, sensors, strict=read):
            lenses, flat = stored_lenses(store), np.concatenate(table)
            bounds = np.cumsum([0, *map(len, table)]).tolist()
            images = Streamed(partial(self._image, store, flat, sensor), (len(flat), *size, 3))
            self.shots.append(
                Shot(
                    images,
                    [range(first, last) for first, last in pairwise(bounds)],
                    None if lenses is None else lenses[torch.from_numpy(flat)],
                    IDEAL if exposed else sensor,
                )
            )
        self.sharp: Tensor | Streamed = Streamed(self._sharp, (count, *size, 3))
        # a sample that is rendered anew needs its depth more than once
        self.depth_m: Tensor | Streamed = Streamed(self._depth, (count, *size), remember=anew)
        self.bytes = math.prod(size) * (3 + 4 + 3 * len(self.shots))
        if not streams:
            self._load()
        self.host_depth_m = self.blur_depth_m = self.depth_m
        if anew:
            self.blur_depth_m = self._without_holes()
        if self.reads_sharp and not self.shots:
            self.shots = [Shot(self.sharp, [range(i, i + 1) for i in range(count)], None)]

    def _sharp(self, i: int) -> NDArray[np.uint8]:
        rgb = self._scenes.read("rgb", int(self.indices[i]))
        return self.resize(rgb) if self.stored else rgb

    def _depth(self, i: int) -> NDArray[np.float32]:
        depth_m = self._scenes.read("depth", int(self.indices[i]))
        return self.resize(depth_m) if self.stored else depth_m

    def _image(self, store: Store, flat: NDArray, sensor: Sensor, place: int) -> NDArray[np.uint8]:
        """Return the rendering at a place of those of the frames."""
        row = int(flat[place])
        image = store.read("defocused", row)
        if self._exposed and not sensor.ideal:
            rng = sensor_rng(store.attributes["camera"]["name"], 0, row)
            image = sensor.expose(image / np.float32(255), rng)
        return self.resize(image)

    def _load(self) -> None:
        """Read everything into memory."""
        count = len(self.indices)
        kept = [torch.empty(s.images.shape, dtype=torch.uint8) for s in self.shots]
        sharp = torch.empty(self.sharp.shape, dtype=torch.uint8)
        depth_m = torch.empty(self.depth_m.shape, dtype=torch.float32)
        for i in progress(range(count), desc="load frames", unit="frame", disable=count < 100):
            sharp[i], depth_m[i] = self.sharp[i], self.depth_m[i]
            for shot, images in zip(self.shots, kept, strict=True):
                for place in shot.rows[i]:
                    images[place] = shot.images[place]
        for shot, images in zip(self.shots, kept, strict=True):
            shot.images = images
        self.sharp, self.depth_m = sharp, depth_m

    def _without_holes(self) -> Tensor | Streamed:
        """Return the depth by which images are blurred."""
        depth_m = self.depth_m
        if isinstance(depth_m, Streamed):
            fetch = depth_m.fetch
            return Streamed(lambda i: fill_holes(fetch(i)), depth_m.shape, remember=True)
        if not any((depth <= 0).any() for depth in depth_m):
            return depth_m
        filled = torch.empty_like(depth_m)
        for whole, depth in zip(filled, depth_m, strict=True):
            whole.copy_(torch.from_numpy(fill_holes(depth.numpy())))
        return filled

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
        sharp, depth_m = self.sharp, self.depth_m
        if isinstance(sharp, Streamed) or isinstance(depth_m, Streamed) or device.type != "cuda":
            return False
        if not self.stored and self.geometry == "resize":
            return False
        if not all(shot.sensor.ideal for shot in self.shots):
            return False  # noise is added on the host
        images = [shot.images for shot in self.shots if shot.images is not sharp]
        tensors = [sharp, depth_m, *(image for image in images if isinstance(image, Tensor))]
        needed = sum(t.numel() * t.element_size() for t in tensors)
        if needed > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            return False
        self.sharp, self.depth_m = sharp.to(device), depth_m.to(device)
        for shot in self.shots:
            if isinstance(shot.images, Tensor):
                shot.images = self.sharp if shot.images is sharp else shot.images.to(device)
        return True


def resident_bytes(
    scenes: Store, defocused: Sequence[Store], count: int, size: tuple[int, int] | None = None
) -> int:
    """Return the memory [bytes] of so many frames with their renderings.

    size: that of the frames in memory; None is their own. Without renderings, frames have a second
    depth, by which they are blurred.
    """
    height, width = size or scenes.arrays["rgb"].shape[1:3]
    renderings = sum(len(store) / max(1, len(scenes)) for store in defocused)
    return round(count * height * width * (3 + 4 + (3 * renderings if defocused else 4)))


def _rows(defocused: Store, indices: NDArray) -> list[NDArray[np.intp]]:
    """Return the rows of each frame's renderings in a store."""
    frame_of = defocused.frames["frame_index"].to_numpy()
    order = np.argsort(frame_of, kind="stable")
    ends = (
        np.searchsorted(frame_of[order], indices, "left"),
        np.searchsorted(frame_of[order], indices, "right"),
    )
    return [order[first:last] for first, last in zip(*ends, strict=True)]


def stored_lenses(defocused: Store) -> Tensor | None:
    """Return the lens of every rendering in a store, (M, 6) float32; None where it has none."""
    camera = defocused.attributes["camera"]
    lenses = [recorded_lens(camera, row) for row in defocused.frames.to_dict("records")]
    rows = [lens.row() for lens in lenses if lens is not None]
    return torch.tensor(rows, dtype=torch.float32) if len(rows) == len(lenses) else None
