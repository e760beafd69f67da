"""The pictures of controls: test frames as a network was not trained to see them."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hded.blur.render import list_renderings, render_defocused
from hded.optics import NOT_DEFOCUSED, Camera, describe_cameras
from hded.store import Store


class Pictures(Protocol):
    """What a network is tested on: a store of `defocused` and `coc`, or what stands in for one."""

    @property
    def frames(self) -> pd.DataFrame:
        """The table of copies, as `list_renderings` makes it."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any]:
        """`camera`: what took the pictures."""
        ...

    def indices(self, split: str) -> NDArray[np.int64]:
        """Give the rows of a split."""
        ...

    def read(self, name: str, index: int) -> NDArray:
        """Give `defocused` (H, W, 3) uint8 or `coc` (H, W) [px] of a row."""
        ...


class ControlRenderings:
    """RawFrames taken anew through `camera` as they are asked for; without one, all in focus."""

    def __init__(self, scenes: Store, camera: Camera | None, renderer: str = "gather") -> None:
        self.scenes, self.camera, self.renderer = scenes, camera, renderer
        self._last: tuple[int, dict[str, NDArray]] = (-1, {})
        width_px = scenes.attributes["image_width_px"]
        if camera is None:
            table = scenes.frames[["frame", "split", "scene"]]
            table = table.assign(frame_index=np.arange(len(table)), camera_index=0)
            facts: dict[str, Any] = {"name": NOT_DEFOCUSED, "max_coc_px": 1.0}
        else:
            table = list_renderings(scenes.frames, [camera])
            facts = {**describe_cameras([camera], width_px), "renderer": renderer}
        self.frames = table
        self.attributes = {"camera": facts}

    def indices(self, split: str) -> NDArray[np.int64]:
        """Give the rows of a split."""
        return np.flatnonzero(self.frames["split"].to_numpy() == split)

    def read(self, name: str, index: int) -> NDArray:
        """Give `defocused` (H, W, 3) uint8 or `coc` (H, W) [px] of a row."""
        if self._last[0] != index:
            self._last = index, self._take(index)
        return self._last[1][name]

    def _take(self, index: int) -> dict[str, NDArray]:
        scene = self.frames["frame_index"].iloc[index]
        rgb, depth_m = self.scenes.read("rgb", scene), self.scenes.read("depth", scene)
        if self.camera is None:
            return {"defocused": rgb, "coc": np.zeros(depth_m.shape, np.float32)}
        width_px = self.scenes.attributes["image_width_px"]
        lens = self.camera.lens(depth_m, width_px, np.random.default_rng(scene))
        image, coc = render_defocused(rgb, depth_m, lens, self.renderer)
        return {"defocused": image, "coc": coc}
