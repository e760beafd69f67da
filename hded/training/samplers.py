"""Random training samples: which rendering or lens, which crop, flipped or not.

A sample depends on (seed, epoch, frame) alone: neither the order of loading, nor the number of
devices, nor a restart changes it. Its defocused image is a stored rendering, or is rendered anew.
Both give the same bytes for the same lens: stored renderings were blurred as whole frames, and
crops that are rendered anew take the pixels around them into account.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hded.blur.render import SENSOR_STREAM, render_defocused
from hded.blur.support import border_indices, radius_px
from hded.common.threads import ahead
from hded.network.normalize import copy_to_tensor
from hded.optics import Camera, ThinLens, sigma_of_coc
from hded.training.batch import Batch, Exposure, SharpBatch, expose, to_batch
from hded.training.frames import TrainingFrames
from hded.training.stream import THREADS, Part, Streamed, batches_ahead, ready

T = TypeVar("T")
WHOLE = slice(None), slice(None)
BLOCK_FRAMES, WINDOW_FRAMES = 64, 8192


@dataclass(frozen=True, slots=True)
class Draw(Generic[T]):
    """The random choices of one sample.

    `sources`: for each camera a row of its renderings, or a lens. `size`: the (height, width) to
    which the frame is reduced; None: it is not. The crop `window` is one of the reduced frame.
    """

    frame: int
    sources: tuple[T, ...]
    size: tuple[int, int] | None
    window: tuple[slice, slice]
    flipped: bool
    exposure: Exposure


class Sampler(ABC, Generic[T]):
    """Batches of random samples of the training frames, epoch by epoch.

    `reduce`: the least and the largest factor of size by which a frame is reduced before it is
    cropped; its shorter side keeps at least the crop's size.
    """

    def __init__(self, frames: TrainingFrames, reduce: tuple[float, float] = (1.0, 1.0)) -> None:
        self.frames, self.reduce = frames, reduce

    def __len__(self) -> int:
        return len(self.frames)

    def steps(self, batch_size: int, devices: int = 1) -> int:
        """Return the number of batches of an epoch."""
        return len(self._batch_bounds(batch_size, devices))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        hflip: float,
        start: int = 0,
        rank: int = 0,
        devices: int = 1,
    ) -> Iterator[Batch | SharpBatch]:
        """Yield one epoch in random order: random crops, each flipped with probability `hflip`.

        The first `start` batches are left out, without changing the others. With several `devices`
        each batch is split evenly between them, and this is the share of `rank`; of the last batch
        up to devices - 1 samples are then left out, others in each epoch.
        """
        order = epoch_order(len(self), seed, epoch)
        shares = []
        for first, size in self._batch_bounds(batch_size, devices)[start:]:
            share = size // devices
            shares.append(order[first + rank * share : first + (rank + 1) * share])

        def draw(chosen: NDArray[np.intp]) -> list[Draw[T]]:
            return [self._draw(int(i), seed, epoch, hflip) for i in chosen]

        if not self.frames.streams:
            yield from map(self._load, map(draw, shares))
            return

        def read(chosen: NDArray[np.intp]) -> tuple[list[Draw[T]], list[Any]]:
            draws = draw(chosen)
            parts = {(id(a), row): (a, row) for d in draws for a, row in self._parts(d)}
            return draws, [(array, row, array.fetch(row)) for array, row in parts.values()]

        count = batches_ahead(batch_size * self.frames.bytes)
        for draws, parts in ahead(read, shares, count, THREADS):
            ready(parts)
            yield self._load(draws)

    def _batch_bounds(self, batch_size: int, devices: int) -> list[tuple[int, int]]:
        """Return each batch's first place in the epoch's order and its size."""
        places = range(0, len(self), batch_size)
        sizes = [min(batch_size, len(self) - first) // devices * devices for first in places]
        return [(first, size) for first, size in zip(places, sizes, strict=True) if size]

    def _draw(self, i: int, seed: int, epoch: int, hflip: float) -> Draw[T]:
        frames = self.frames
        rng = np.random.default_rng([seed, epoch, int(frames.indices[i])])
        sources = self._choose(i, rng)
        window, size = WHOLE, None
        height, width = frames.sharp.shape[1:3]
        if self.reduce[0] < 1:
            factor = max(rng.uniform(*self.reduce), frames.size_px / min(height, width))
            size = height, width = round(factor * height), round(factor * width)
        if frames.geometry == "crop":
            top = int(rng.integers(height - frames.size_px + 1))
            left = int(rng.integers(width - frames.size_px + 1))
            window = slice(top, top + frames.size_px), slice(left, left + frames.size_px)
        flipped = bool(rng.random() < hflip)
        top, left = window[0].start or 0, window[1].start or 0
        if flipped and window is not WHOLE:  # the crop of a mirrored image
            left = width - window[1].stop
        exposure = Exposure((seed, epoch, int(frames.indices[i])), (top, left))
        return Draw(i, sources, size, window, flipped, exposure)

    @abstractmethod
    def _choose(self, i: int, rng: np.random.Generator) -> tuple[T, ...]:
        """Return what frame i is seen through, for each camera: a rendering's row, or a lens."""

    @abstractmethod
    def _parts(self, draw: Draw[T]) -> list[Part]:
        """Return what `_load` reads for one sample, where frames are streamed."""

    @abstractmethod
    def _load(self, draws: Sequence[Draw[T]]) -> Batch | SharpBatch:
        """Return the batch of these samples."""

    def _indices(self, draws: Sequence[Draw[T]]) -> tuple[int, ...]:
        return tuple(int(self.frames.indices[d.frame]) for d in draws)


class StoredSampler(Sampler[int]):
    """Samples of the stored renderings, by each camera one of its frame's for each sample."""

    def _choose(self, i: int, rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(_pick(shot.rows[i], rng) for shot in self.frames.shots)

    def _parts(self, draw: Draw[int]) -> list[Part]:
        frames = self.frames
        parts = [(frames.sharp, draw.frame), (frames.depth_m, draw.frame)]
        parts += zip((shot.images for shot in frames.shots), draw.sources, strict=True)
        return [(array, row) for array, row in parts if isinstance(array, Streamed)]

    def _load(self, draws: Sequence[Draw[int]]) -> Batch:
        frames = self.frames
        exposures = [d.exposure for d in draws]
        shots = []
        for s, shot in enumerate(frames.shots):
            images = _stack([shot.images[d.sources[s]][d.window] for d in draws], draws)
            if not shot.sensor.ideal:
                images = expose(images / 255, shot.sensor, exposures, s)
            shots.append(images)
        return to_batch(
            shots,
            _stack([frames.sharp[d.frame][d.window] for d in draws], draws),
            _stack([frames.depth_m[d.frame][d.window] for d in draws], draws),
            self._indices(draws),
            frames.lenses([d.sources for d in draws]),
            reads_sharp=frames.reads_sharp,
        )


class LensSampler(Sampler[ThinLens]):
    """Samples that are rendered anew.

    cameras: for each image of the network's input one camera, or several that differ in focus
    distance, of which each sample has one.
    """

    def __init__(
        self,
        frames: TrainingFrames,
        cameras: Sequence[Sequence[Camera]],
        reduce: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__(frames, reduce)
        self.cameras = tuple(map(tuple, cameras))
        self.sensors = tuple(foci[0].sensor for foci in self.cameras)
        self.max_sigma_px = max(
            float(sigma_of_coc(c.max_coc_px, c.sigma_rule, c.softness_px))
            for foci in cameras
            for c in foci
        )

    def _choose(self, i: int, rng: np.random.Generator) -> tuple[ThinLens, ...]:
        depth_m, width_px = self.frames.host_depth_m[i].numpy(), self.frames.image_width_px
        row = self.frames.rows[i]
        # the cameras draw alike, as they do for the stored renderings of a frame
        alike = [rng, *(deepcopy(rng) for _ in self.cameras[1:])]
        lenses = []
        for foci, of_camera in zip(self.cameras, alike, strict=True):
            camera = _pick(foci, of_camera).of_frame(row)
            lenses.append(camera.lens(depth_m, width_px, of_camera))
        return tuple(lenses)

    def _parts(self, draw: Draw[ThinLens]) -> list[Part]:
        frames = self.frames
        arrays = {id(a): a for a in (frames.sharp, frames.depth_m, frames.blur_depth_m)}.values()
        return [(array, draw.frame) for array in arrays if isinstance(array, Streamed)]

    def _lenses(self, draws: Sequence[Draw[ThinLens]]) -> Tensor:
        return torch.tensor([[lens.row() for lens in d.sources] for d in draws])


class CropLensSampler(LensSampler):
    """Crops at native size, rendered on the device that trains (see SharpBatch)."""

    def _load(self, draws: Sequence[Draw[ThinLens]]) -> SharpBatch:
        frames, margin = self.frames, radius_px(self.max_sigma_px)
        around, sigma, depth = [], [], []
        for d in draws:
            size = d.size or frames.depth_m.shape[1:]
            rows, columns = (
                torch.from_numpy(border_indices(n, 0, margin)[s.start : s.stop + 2 * margin])
                for n, s in zip(size, d.window, strict=True)
            )
            rows, columns = (i.to(frames.sharp.device, non_blocking=True) for i in (rows, columns))
            around.append(_reduced_rgb(frames.sharp[d.frame], size)[rows[:, None], columns])
            depth.append(_reduced_depth(frames.depth_m[d.frame], size)[d.window])
            lens_depth_m = _reduced_depth(frames.blur_depth_m[d.frame], size)[d.window].numpy()
            of_cameras = np.stack([lens.sigma_px(lens_depth_m) for lens in d.sources], -1)
            sigma.append(torch.from_numpy(of_cameras))
        depth_m = _stack(depth, draws)[:, None]
        return SharpBatch(
            _stack(around, draws), _stack(sigma, draws).movedim(-1, 1), depth_m,
            self._lenses(draws), self._indices(draws), self.max_sigma_px,
            self.sensors, [d.exposure for d in draws],
        )  # fmt: skip


class ResizeLensSampler(LensSampler):
    """Whole frames, rendered at native size and then resized to the training size."""

    def _load(self, draws: Sequence[Draw[ThinLens]]) -> Batch:
        frames, samples = self.frames, []
        for d in draws:
            sharp, depth_m = frames.sharp[d.frame].numpy(), frames.depth_m[d.frame].numpy()
            shots = []
            for s, (lens, sensor) in enumerate(zip(d.sources, self.sensors, strict=True)):
                rng = np.random.default_rng([*d.exposure.seed, s, SENSOR_STREAM])
                image, _ = render_defocused(sharp, depth_m, lens, "gather", sensor, rng)
                shots.append(image)
            arrays = *shots, sharp, depth_m
            samples.append([copy_to_tensor(frames.resize(array)) for array in arrays])
        *shots, sharp, depth_m = (_stack(each, draws) for each in zip(*samples, strict=True))
        return to_batch(shots, sharp, depth_m, self._indices(draws), self._lenses(draws))


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.intp]:
    """Return the frames (count,) in the random order of an epoch.

    Up to 8,192 frames any order may come. More are shuffled within windows of 8,192 frames, which
    are made of blocks of 64 neighbours from anywhere: reads stay close together on the disk.
    """
    rng = np.random.default_rng([seed, epoch])
    if count <= WINDOW_FRAMES:
        return rng.permutation(count)
    blocks = np.array_split(np.arange(count), np.arange(BLOCK_FRAMES, count, BLOCK_FRAMES))
    mixed = np.concatenate([blocks[b] for b in rng.permutation(len(blocks))])
    windows = np.array_split(mixed, np.arange(WINDOW_FRAMES, count, WINDOW_FRAMES))
    return np.concatenate([rng.permutation(window) for window in windows])


def build_sampler(
    frames: TrainingFrames,
    cameras: Sequence[Sequence[Camera]] = (),
    reduce: tuple[float, float] = (1.0, 1.0),
) -> Sampler:
    """Return the sampler of stored renderings, or, with `cameras`, one that renders anew.

    reduce: see `Sampler`; of crops that are rendered anew.
    """
    if not cameras:
        return StoredSampler(frames)
    if frames.geometry == "crop":
        return CropLensSampler(frames, cameras, reduce)
    return ResizeLensSampler(frames, cameras)


def _reduced_rgb(rgb: Tensor, size: Sequence[int]) -> Tensor:
    """Return an image (h, w, 3) uint8 at `size` (H, W), antialiased."""
    if rgb.shape[:2] == tuple(size):
        return rgb
    image = rgb.movedim(-1, 0)[None].float()
    small = F.interpolate(image, tuple(size), mode="bilinear", antialias=True)
    return small[0].movedim(0, -1).round().clamp(0, 255).to(torch.uint8)


def _reduced_depth(depth_m: Tensor, size: Sequence[int]) -> Tensor:
    """Return depth (h, w) at `size` (H, W), by nearest neighbour."""
    if depth_m.shape == tuple(size):
        return depth_m
    return F.interpolate(depth_m[None, None], tuple(size), mode="nearest-exact")[0, 0]


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    # a single option draws nothing: crops are then those of a camera without a list of distances
    return options[int(rng.integers(len(options))) if len(options) > 1 else 0]


def _stack(samples: Sequence[Tensor], draws: Sequence[Draw]) -> Tensor:
    """Return the (H, W, ...) samples as one tensor, those to be flipped mirrored."""
    return torch.stack([t.flip(1) if d.flipped else t for t, d in zip(samples, draws, strict=True)])
