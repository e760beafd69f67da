"""Scenes as pictures inside the page: photographs as JPEG, maps as palette PNG, bars with ticks.

- Truth and estimate share one bar in metres; every error map has its own, from 0.
- Colour maps are perceptually uniform and rise in lightness, so they survive greyscale print.
- Pixels without ground truth are hatched: no grey could be told from a value.
"""

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from hded.errors import HDEDError
from hded.progress import progress
from hded.report.files import REPAIR
from hded.report.runs import Run, Scene

COC_ZERO, COC_STEPS_PER_PX = 32768, 256  # coc.png: 16 bit, signed px
MM_PER_M = 1000
LEVELS = 200  # of a map's palette, before the two of the hatching
HATCH = ((0x8A, 0x8A, 0x8A), (0xE2, 0xE2, 0xE2))
HATCH_PX = 4
LOG_RATIO = 20  # a wider range of depth is coloured on a logarithmic scale
# longest side [px] and JPEG quality: the largest that fits is taken
SIZES = ((640, 90), (560, 88), (480, 85), (400, 82), (320, 80), (240, 76), (160, 72))
ROLES = ("best", "median", "worst", "fixed")


@dataclass(frozen=True, slots=True)
class Inlined:
    """An image as a data URI, with its displayed size in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A colour bar: its gradient, and ticks as (per cent along it, label)."""

    gradient: str
    ticks: tuple[tuple[float, str], ...]
    unit: str
    at_most: bool  # the last colour also stands for larger values


@dataclass(frozen=True, slots=True)
class SceneView:
    """What the page shows of one scene; what its network cannot give is None."""

    scene: Scene
    sharp: Inlined
    defocused: Inlined
    restored: Inlined | None
    depth_gt: Inlined
    depth_pred: Inlined | None
    depth_bar: Bar
    depth_error: Inlined | None
    depth_error_bar: Bar | None
    defocused_error: Inlined
    restored_error: Inlined | None
    image_error_bar: Bar
    coc: Inlined
    coc_bar: Bar

    @property
    def characters(self) -> int:
        """Length of all data URIs."""
        values = (getattr(self, name) for name in self.__dataclass_fields__)
        return sum(len(v.uri) for v in values if isinstance(v, Inlined))


@dataclass(frozen=True, slots=True)
class Gallery:
    """Each run's scenes, and how many were left out to keep the page small."""

    views: dict[str, list[SceneView]]  # by Run.name
    left_out: int


def build_gallery(runs: Sequence[Run], budget: int) -> Gallery:
    """Inline the scenes of `runs` (the most important first) within `budget` characters.

    Pictures shrink first; then scenes that are neither best, median nor worst go; then the runs at
    the end of the list.
    """
    every = [(run, scene) for run in runs for scene in _ordered(run.scenes)]
    chosen, views = every, _encode(every, SIZES[-1])
    if _characters(views) > budget:
        chosen = [(run, scene) for run, scene in every if scene.role != "fixed"]
        views = _encode(chosen, SIZES[-1])
        while len({run.name for run, _ in chosen}) > 1 and _characters(views) > budget:
            last = chosen[-1][0].name
            kept = sum(run.name != last for run, _ in chosen)
            chosen, views = chosen[:kept], views[:kept]
    # sizes grow about with the area: skip those that cannot fit, then look
    smallest = max(1, _characters(views))
    for size in SIZES[:-1]:
        if smallest * (size[0] / SIZES[-1][0]) ** 1.2 > 2 * budget:
            continue
        larger = _encode(chosen, size)
        if _characters(larger) <= budget:
            views = larger
            break
    grouped: dict[str, list[SceneView]] = {}
    for (run, _), view in zip(chosen, views, strict=True):
        grouped.setdefault(run.name, []).append(view)
    return Gallery(grouped, len(every) - len(chosen))


def _encode(scenes: Sequence[tuple[Run, Scene]], size: tuple[int, int]) -> list[SceneView]:
    bar = progress(scenes, desc=f"pictures at {size[0]} px", unit="scene", leave=False)
    return [view_scene(run, scene, *size) for run, scene in bar]


def _characters(views: Iterable[SceneView]) -> int:
    return sum(view.characters for view in views)


def _ordered(scenes: Sequence[Scene]) -> list[Scene]:
    return sorted(scenes, key=lambda s: ROLES.index(s.role) if s.role in ROLES else len(ROLES))


def view_scene(run: Run, scene: Scene, side_px: int, quality: int) -> SceneView:
    """Read one scene's files and inline them, the longest side at most `side_px`.

    Raises HDEDError for a file that is missing or no image, or of another size than the rest.
    """
    folder = scene.folder
    sharp, defocused = _rgb(folder / "sharp.png"), _rgb(folder / "input.png")
    gt = _counts(folder / "depth_gt.png") / MM_PER_M
    coc_px = (_counts(folder / "coc.png") - COC_ZERO) / COC_STEPS_PER_PX
    has_depth, has_image = "depth" in run.heads, "all_in_focus" in run.heads
    restored = _rgb(folder / "restored.png") if has_image else None
    pred = _counts(folder / "depth_pred.png") / MM_PER_M if has_depth else None
    for array in (defocused, restored, gt, pred, coc_px):
        if array is not None and array.shape[:2] != sharp.shape[:2]:
            raise HDEDError(f"{folder}: its images differ in size; {REPAIR}")

    def photo(rgb: NDArray[np.uint8]) -> Inlined:
        return _jpeg(rgb, side_px, quality)

    valid = gt > 0
    scale = _depth_scale(gt[valid])
    depth_error = None if pred is None else np.where(valid, np.abs(pred - gt), np.nan)
    error_scale = None if depth_error is None else Scale.from_zero(depth_error, "m", "magma")
    image_errors = [
        None if image is None else np.abs(image.astype(float) - sharp).mean(2)
        for image in (defocused, restored)
    ]
    image_scale = Scale.from_zero(
        np.stack([e for e in image_errors if e is not None]), "of 255", "magma"
    )
    coc_scale = Scale.from_zero(np.abs(coc_px), "px", "cividis")
    return SceneView(
        scene=scene,
        sharp=photo(sharp),
        defocused=photo(defocused),
        restored=None if restored is None else photo(restored),
        depth_gt=scale.draw(np.where(valid, gt, np.nan), side_px),
        depth_pred=None if pred is None else scale.draw(pred, side_px),
        depth_bar=scale.bar,
        depth_error=error_scale and error_scale.draw(depth_error, side_px),
        depth_error_bar=error_scale and error_scale.bar,
        defocused_error=image_scale.draw(image_errors[0], side_px),
        restored_error=None if restored is None else image_scale.draw(image_errors[1], side_px),
        image_error_bar=image_scale.bar,
        coc=coc_scale.draw(np.abs(coc_px), side_px),
        coc_bar=coc_scale.bar,
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to colours: low and high end, linear or logarithmic."""

    low: float
    high: float
    unit: str
    colours: str
    log: bool = False
    at_most: bool = False

    @classmethod
    def from_zero(cls, values: NDArray | None, unit: str, colours: str) -> "Scale":
        """Reach from 0 to a round number at or above 99% of the finite values."""
        finite = np.empty(0) if values is None else values[np.isfinite(values)]
        top = float(np.percentile(finite, 99)) if finite.size else 0.0
        high = _round_up(top) if top > 0 else 1.0
        return cls(0.0, high, unit, colours, at_most=bool(finite.size and finite.max() > high))

    @property
    def _forward(self) -> Callable[[NDArray], NDArray]:
        return np.log if self.log else np.asarray

    def position(self, values: NDArray) -> NDArray[np.float64]:
        """Place values on the scale, 0 to 1; NaN stays."""
        low, high = (float(self._forward(np.asarray(v))) for v in (self.low, self.high))
        values = np.clip(values, self.low, self.high)
        return (self._forward(values) - low) / (high - low)

    @property
    def bar(self) -> Bar:
        """The bar that belongs to pictures on this scale."""
        locator = LogLocator(subs=(1, 2, 5), numticks=9) if self.log else MaxNLocator(5)
        ticks = [t for t in locator.tick_values(self.low, self.high) if self.low <= t <= self.high]
        places = [100 * float(self.position(np.asarray(t))) for t in ticks]
        levels = np.linspace(0, LEVELS - 1, 256).round().astype(np.uint8)[None]
        return Bar(
            gradient=_png(levels, self.colours),
            ticks=tuple((round(p, 2), f"{t:g}") for p, t in zip(places, ticks, strict=True)),
            unit=self.unit,
            at_most=self.at_most,
        )

    def draw(self, values: NDArray | None, side_px: int) -> Inlined:
        """Draw a map (H, W), NaN hatched, the longest side at most `side_px`."""
        values = np.asarray(values, np.float64)
        height, width = _fit(values.shape, side_px)
        # nearest: no value is invented across an edge or a hole
        rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(int)
        place = self.position(values[rows[:, None], columns])
        known = np.isfinite(place)
        stripes = np.add.outer(np.arange(height), np.arange(width)) // HATCH_PX % 2
        levels = np.where(known, np.where(known, place, 0) * (LEVELS - 1) + 0.5, LEVELS + stripes)
        return Inlined(_png(levels.astype(np.uint8), self.colours), width, height)


def _depth_scale(depth_m: NDArray) -> Scale:
    if not depth_m.size:
        return Scale(0.0, 1.0, "m", "viridis")
    low, high = float(depth_m.min()), float(depth_m.max())
    if high - low < 0.1:  # a flat scene
        low, high = max(low - 0.05, 0.01), high + 0.05
    log = low > 0 and high / low > LOG_RATIO
    return Scale(low, high, "m", "viridis", log=log)


def _round_up(value: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(value))
    return next(s * magnitude for s in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if s * magnitude >= value)


def _fit(shape: Sequence[int], side_px: int) -> tuple[int, int]:
    scale = min(1.0, side_px / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _jpeg(rgb: NDArray[np.uint8], side_px: int, quality: int) -> Inlined:
    height, width = _fit(rgb.shape, side_px)
    image = Image.fromarray(rgb)
    if (height, width) != rgb.shape[:2]:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    # no chroma subsampling: it would blur what the reader is to judge
    image.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return Inlined(_uri("jpeg", buffer), width, height)


def _png(levels: NDArray[np.uint8], colours: str) -> str:
    """Levels (h, w): 0 to LEVELS - 1 the colour map, then the two of the hatching."""
    table = mpl.colormaps[colours](np.linspace(0, 1, LEVELS))[:, :3]
    palette = np.vstack([np.rint(255 * table), HATCH]).astype(np.uint8)
    image = Image.fromarray(levels)
    image.putpalette(palette.tobytes())
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _uri("png", buffer)


def _uri(kind: str, buffer: BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _rgb(path: Path) -> NDArray[np.uint8]:
    return _read(path, "RGB")


def _counts(path: Path) -> NDArray[np.float64]:
    return _read(path, None).astype(np.float64)


def _read(path: Path, mode: str | None) -> NDArray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except FileNotFoundError:
        raise HDEDError(f"{path}: is missing; {REPAIR}") from None
    except OSError as error:
        reason = " ".join(str(error).split())
        raise HDEDError(f"{path}: cannot be read as an image ({reason}); {REPAIR}") from error
