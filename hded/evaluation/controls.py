"""The inputs of a network under test: the stored renderings, or others made for a control.

A control tests a network on inputs of another kind than those it was trained on: defocused by
another camera, or not defocused at all.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hded.blur.render import list_renderings, render_defocused, sensor_rng
from hded.optics import (
    NOT_DEFOCUSED,
    Camera,
    Renderer,
    ThinLens,
    describe_cameras,
    recorded_lens,
)
from hded.optics.camera import STATED
from hded.store import Store


class Renderings(Protocol):
    """The defocused versions of a dataset's frames: a `Store` of them, or `ControlRenderings`."""

    @property
    def frames(self) -> pd.DataFrame:
        """The table of renderings that `list_renderings` makes, one row each."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any]:
        """A mapping whose `camera` describes the camera."""
        ...

    def indices(self, split: str) -> NDArray[np.int64]:
        """Return the positions of a split's rows, ascending."""
        ...

    def read(self, name: str, index: int) -> NDArray:
        """Return `defocused` (H, W, 3) uint8 or `coc` (H, W) [px] of one row."""
        ...


class ControlRenderings:
    """`Renderings` by `camera`, made when they are read; without a camera, the frames themselves.

    frame_store: the dataset's frames, with `rgb` and `depth`. seed: that of the stage `defocus`, so
    that each frame has the lens and the noise that it has there.
    """

    def __init__(
        self,
        frame_store: Store,
        camera: Camera | None,
        renderer: Renderer = "gather",
        seed: int = 0,
    ) -> None:
        self._store, self._camera, self._seed = frame_store, camera, seed
        self._renderer: Renderer = renderer
        # `defocused` and `coc` of the row read last, since callers read them in turn
        self._last: tuple[int, dict[str, NDArray]] = (-1, {})
        if camera is None:
            table = frame_store.frames[["frame", "split", "scene"]]
            self.frames = table.assign(frame_index=np.arange(len(table)), camera_index=0)
            description: dict[str, Any] = {"name": NOT_DEFOCUSED, "max_coc_px": 1.0}
        else:
            self.frames = list_renderings(frame_store.frames, [camera])
            width_px = frame_store.attributes["image_width_px"]
            # the focus distance is the control's, not the frame's own
            columns = set(frame_store.frames.columns) - {STATED["focus_distance_m"]}
            description = {**describe_cameras([camera], width_px, columns), "renderer": renderer}
        self.attributes = {"camera": description}

    def indices(self, split: str) -> NDArray[np.int64]:
        """Return the positions of a split's rows, ascending."""
        return np.flatnonzero(self.frames["split"].to_numpy() == split)

    def read(self, name: str, index: int) -> NDArray:
        """Return `defocused` (H, W, 3) uint8 or `coc` (H, W) [px] of one row."""
        if self._last[0] != index:
            self._last = index, self._render(index)
        return self._last[1][name]

    def lens(self, index: int) -> ThinLens | None:
        """Return the lens of one row, which the camera may draw; None without a camera."""
        if self._camera is None:
            return None
        frame = int(self.frames["frame_index"].iloc[index])
        width_px = self._store.attributes["image_width_px"]
        depth_m = self._store.read("depth", frame)
        own = self._camera.of_frame(self.frames.iloc[index].to_dict())
        camera = replace(own, focus_distance_m=self._camera.focus_distance_m)
        return camera.lens(depth_m, width_px, np.random.default_rng([self._seed, frame]))

    def _render(self, index: int) -> dict[str, NDArray]:
        frame = int(self.frames["frame_index"].iloc[index])
        rgb, depth_m = self._store.read("rgb", frame), self._store.read("depth", frame)
        lens = self.lens(index)
        if self._camera is None or lens is None:
            return {"defocused": rgb, "coc": np.zeros(depth_m.shape, np.float32)}
        noise = sensor_rng(self._camera.name, self._seed, frame)
        image, coc = render_defocused(
            rgb, depth_m, lens, self._renderer, self._camera.sensor, noise
        )
        return {"defocused": image, "coc": coc}


def lens_of(renderings: Renderings, row: int) -> ThinLens | None:
    """Return the lens by which a row of `renderings` was defocused; None where it is not known."""
    if isinstance(renderings, ControlRenderings):
        return renderings.lens(row)
    record: dict[str, Any] = {str(k): v for k, v in renderings.frames.iloc[row].items()}
    return recorded_lens(renderings.attributes["camera"], record)
