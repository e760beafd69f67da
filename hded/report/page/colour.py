"""Images as data URIs: rgb images as JPEG, maps in a colour scale, and the scale's bar.

- Colour maps are perceptually uniform and increase in lightness, so they work in greyscale print.
- Pixels without a value are hatched, because any plain grey could be mistaken for a value.
"""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

LEVELS = 200  # colours of a map's palette; two more follow for the hatching
HATCH = ((0x8A, 0x8A, 0x8A), (0xE2, 0xE2, 0xE2))
HATCH_PX = 4
LOG_RATIO = 10  # a wider range of depth is coloured on a logarithmic scale


@dataclass(frozen=True, slots=True)
class Inlined:
    """An image as a data URI, with its displayed size in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A colour bar: its gradient, and ticks as (position in percent, label)."""

    gradient: str
    ticks: tuple[tuple[float, str], ...]


def photograph(rgb: NDArray[np.uint8], side_px: int, quality: int) -> Inlined:
    """Return rgb (H, W, 3) uint8 as a data URI, its longest side at most `side_px`."""
    height, width = _fit(rgb.shape, side_px)
    if (height, width) != rgb.shape[:2]:
        small = Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS)
        rgb = np.asarray(small)
    return Inlined(_jpeg(rgb, quality), width, height)


@dataclass(frozen=True, slots=True)
class Scale:
    """A colour scale: its lowest and highest value, linear or logarithmic."""

    low: float
    high: float
    unit: str
    colours: str
    intervals: int  # between ticks
    log: bool = False
    open_end: bool = False  # the last colour also stands for larger values

    @classmethod
    def from_zero(cls, values: NDArray, unit: str, colours: str, intervals: int) -> "Scale":
        """Return a scale from 0 to a round number at or above 99% of the finite values."""
        finite = values[np.isfinite(values)]
        top = float(np.percentile(finite, 99)) if finite.size else 0.0
        high = _round_up(top) if top > 0 else 1.0
        open_end = bool(finite.size and finite.max() > high)
        return cls(0.0, high, unit, colours, intervals, open_end=open_end)

    @classmethod
    def of_depth(cls, depth_m: NDArray, intervals: int) -> "Scale":
        """Return a scale over 99% of the depths, so that outliers do not compress the others."""
        if not depth_m.size:
            return cls(0.0, 1.0, "m", "viridis", intervals)
        low, high = (float(v) for v in np.percentile(depth_m, (0.5, 99.5)))
        if high - low < 0.1:  # a flat scene
            low, high = max(low - 0.05, 0.01), high + 0.05
        log = low > 0 and high / low > LOG_RATIO
        return cls(low, high, "m", "viridis", intervals, log=log)

    @property
    def _forward(self) -> Callable[[NDArray], NDArray]:
        return np.log if self.log else np.asarray

    def position(self, values: NDArray) -> NDArray[np.float64]:
        """Return values as places on the scale, 0 to 1; NaN stays NaN."""
        low, high = (float(self._forward(np.asarray(v))) for v in (self.low, self.high))
        values = np.clip(values, self.low, self.high)
        return (self._forward(values) - low) / (high - low)

    @property
    def bar(self) -> Bar:
        """The colour bar of this scale."""
        if self.log:
            ticks = LogLocator(subs=(1, 2, 5), numticks=9).tick_values(self.low, self.high)
        elif self.low == 0:
            ticks = np.linspace(0, self.high, self.intervals + 1)
        else:
            ticks = MaxNLocator(self.intervals).tick_values(self.low, self.high)
        ticks = [float(t) for t in ticks if self.low <= t <= self.high]
        places = [round(100 * float(self.position(np.asarray(t))), 2) for t in ticks]
        labels = [f"{t:.4g}" for t in ticks]
        labels[-1] = f"{'≥ ' if self.open_end else ''}{labels[-1]} {self.unit}".rstrip()
        levels = np.linspace(0, LEVELS - 1, 256).round().astype(np.uint8)[None]
        return Bar(
            gradient=_png(levels, self.colours),
            ticks=tuple(zip(places, labels, strict=True)),
        )

    def draw(self, values: NDArray, side_px: int, quality: int) -> Inlined:
        """Return a map (H, W) in colour, NaN hatched, its longest side at most `side_px`."""
        values = np.asarray(values, np.float64)
        height, width = _fit(values.shape, side_px)
        # nearest neighbour: no value is interpolated across an edge or a hole
        rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(int)
        place = self.position(values[rows[:, None], columns])
        known = np.isfinite(place)
        stripes = np.add.outer(np.arange(height), np.arange(width)) // HATCH_PX % 2
        levels = np.where(known, np.where(known, place, 0) * (LEVELS - 1) + 0.5, LEVELS + stripes)
        levels = levels.astype(np.uint8)
        exact, compact = _png(levels, self.colours), _jpeg(_palette(self.colours)[levels], quality)
        return Inlined(min(exact, compact, key=len), width, height)


def _round_up(value: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(value))
    return next(s * magnitude for s in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if s * magnitude >= value)


def _fit(shape: Sequence[int], side_px: int) -> tuple[int, int]:
    scale = min(1.0, side_px / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _jpeg(rgb: NDArray[np.uint8], quality: int) -> str:
    buffer = BytesIO()
    # no chroma subsampling, which would blur the images that the reader compares; no `optimize`,
    # whose buffer is too small for a noisy map
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=0)
    return _uri("jpeg", buffer)


def _png(levels: NDArray[np.uint8], colours: str) -> str:
    image = Image.fromarray(levels)
    image.putpalette(_palette(colours).tobytes())
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _uri("png", buffer)


def _palette(colours: str) -> NDArray[np.uint8]:
    """Return levels 0 to LEVELS - 1 of the colour map, then the two colours of the hatching."""
    table = mpl.colormaps[colours](np.linspace(0, 1, LEVELS))[:, :3]
    return np.vstack([np.rint(255 * table), HATCH]).astype(np.uint8)


def _uri(kind: str, buffer: BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
