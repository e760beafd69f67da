"""The frames that a network is trained or validated on, held in memory.

They are one uint8 tensor for each kind of image and one float32 tensor of depth, so that they can
be moved to the device that trains.
"""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.common.resize import resize_nearest, resize_rgb
from hded.config.schema import Geometry, NetworkInput
from hded.network.normalize import copy_to_tensor
from hded.store import Store

RESIDENT_SHARE = 0.5  # of a GPU's free memory; the rest is left to the network


class TrainingFrames:
    """Frames of a dataset in memory, with their stored renderings.

    - `sharp`: (N, H, W, 3) uint8, all in focus
    - `depth_m`: (N, H, W) float32, 0 where unknown; `host_depth_m`: the same, never on a GPU
    - `defocused`: (M, H, W, 3) uint8; the rows `renderings[i]` are the renderings of frame i
    - `indices`: (N,) the frames' rows in the store

    With `geometry` crop frames keep their size; with resize they are resized to size_px x size_px,
    images antialiased and depth by nearest neighbour. With `network_input` sharp the sharp images
    stand in for the defocused ones. With `stored` False no rendering is read, and no frame is
    resized: a sampler renders at full size and resizes afterwards.

    Raises HDEDError where the frames are smaller than the crops.
    """

    def __init__(
        self,
        scenes: Store,
        defocused: Store,
        indices: NDArray[np.integer],
        geometry: Geometry,
        size_px: int,
        network_input: NetworkInput = "defocused",
        *,
        stored: bool = True,
    ) -> None:
        height, width = scenes.arrays["rgb"].shape[1:3]
        if geometry == "crop" and min(height, width) < size_px:
            raise HDEDError(
                f"train.size_px is {size_px}, the frames are {height}x{width}; crop no more "
                "than the shorter side, or use geometry: resize"
            )
        self.geometry, self.size_px, self.stored = geometry, size_px, stored
        self.indices = np.asarray(indices)
        self.image_width_px: int = scenes.attributes["image_width_px"]
        count = len(self.indices)
        rows: list[NDArray[np.intp]] = [np.empty(0, np.intp)] * count
        if stored and network_input == "defocused":
            frame_of = defocused.frames["frame_index"].to_numpy()
            rows = [np.flatnonzero(frame_of == index) for index in self.indices]
        bounds = np.cumsum([0, *map(len, rows)]).tolist()
        self.renderings = [range(first, last) for first, last in pairwise(bounds)]
        bar = progress(self.indices, desc="load frames", unit="frame", disable=count < 100)
        for i, index in enumerate(bar):
            sharp, depth_m = scenes.read("rgb", index), scenes.read("depth", index)
            if stored:
                sharp, depth_m = self.resize(sharp), self.resize(depth_m)
            if i == 0:
                size = sharp.shape[:2]
                self.sharp = torch.empty((count, *size, 3), dtype=torch.uint8)
                self.defocused = torch.empty((bounds[-1], *size, 3), dtype=torch.uint8)
                self.depth_m = torch.empty((count, *size), dtype=torch.float32)
                self.host_depth_m = self.depth_m
            self.sharp[i] = copy_to_tensor(sharp)
            self.depth_m[i] = copy_to_tensor(depth_m)
            for rendering, row in zip(self.renderings[i], rows[i], strict=True):
                image = self.resize(defocused.read("defocused", row))
                self.defocused[rendering] = copy_to_tensor(image)
        if network_input == "sharp":
            self.defocused = self.sharp
            self.renderings = [range(i, i + 1) for i in range(count)]

    def __len__(self) -> int:
        return len(self.indices)

    def resize(self, array: NDArray) -> NDArray:
        """Return an image (H, W, 3) or depth (H, W) at the training size; crops keep their own."""
        size = (self.size_px, self.size_px)
        if self.geometry == "crop" or array.shape[:2] == size:
            return array
        return resize_rgb(array, size) if array.ndim == 3 else resize_nearest(array, size)

    def move_to(self, device: torch.device) -> bool:
        """Move the frames to a GPU if they take less than half of its free memory.

        Returns whether they were moved. Frames that are rendered before they are resized stay on
        the host, where that is done.
        """
        if device.type != "cuda" or (not self.stored and self.geometry == "resize"):
            return False
        tensors: dict[str, Tensor] = {
            "sharp": self.sharp, "defocused": self.defocused, "depth_m": self.depth_m
        }  # fmt: skip
        needed = sum(t.numel() * t.element_size() for t in tensors.values())
        if needed > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            return False
        for name, tensor in tensors.items():
            setattr(self, name, tensor.to(device))
        return True
