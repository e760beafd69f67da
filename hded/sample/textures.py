"""Procedural textures of the embedded sample: colour at a surface point, filtered to a pixel.

- Texture coordinates are metres on the surface, so that textures have correct perspective.
- `detail` is noise with equal strength in each octave (1/f, as in natural images), from about one
  pixel to about fifty pixels. Surfaces at any distance have texture in the image, so that defocus
  is visible everywhere and at every blur size.
- Regular patterns (bricks, planks, windows, books) are averaged over the pixel's footprint [m], in
  closed form along u and v, which avoids aliasing at a distance.
"""

import colorsys
import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

PLAIN, BRICKS, TILES, PLANKS, STRIPES, PLAID, SPOTS, PICTURE, SHELF, FACADE, FOLIAGE, ROAD = range(
    12
)
OCTAVES = 6  # of `detail`
Color = tuple[float, float, float]  # sRGB in 0..1
_MASK = 0xFFFFFFFF


def color(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> Color:
    """Return a random colour."""
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))


def shade(rgb: Color, factor: float) -> Color:
    """Return a lighter or darker colour."""
    return (min(1.0, rgb[0] * factor), min(1.0, rgb[1] * factor), min(1.0, rgb[2] * factor))


class Paint(NamedTuple):
    """One material: a pattern of two colours.

    size_m: size of the pattern's unit (brick length, tile, plank width, stripe period, shelf or
    storey height; a picture's half width). aspect: the unit's height divided by its width.
    contrast: approximate standard deviation of the log of the linear colour. coarsest_m: longer
    wavelengths of `detail` are attenuated.
    """

    pattern: int
    first: Color
    second: Color
    size_m: float
    seed: int
    aspect: float = 1.0
    contrast: float = 0.25
    coarsest_m: float = 1.0

    def row(self) -> NDArray[np.float64]:
        """Return the material for the compiled code, with linear colours: (12,)."""
        linear = [channel**2.2 for channel in (*self.first, *self.second)]
        rest = (self.size_m, self.aspect, self.contrast, self.coarsest_m, self.seed)
        return np.array([self.pattern, *linear, *rest], np.float64)


@numba.njit(cache=True)
def hash01(x, y, seed):
    """Return a pseudo-random number in [0, 1) of two integers and a seed."""
    h = (x * 0x9E3779B1 ^ y * 0x85EBCA77 ^ seed * 0xC2B2AE3D) & _MASK
    h = ((h ^ (h >> 15)) * 0x2C1B3C6D) & _MASK
    h = ((h ^ (h >> 13)) * 0x297A2D39) & _MASK
    return (h ^ (h >> 15)) / 4294967296.0


@numba.njit(cache=True)
def noise(x, y, seed):
    """Return value noise in [-1, 1] on the integer lattice, twice differentiable."""
    fx, fy = math.floor(x), math.floor(y)
    i, j = int(fx), int(fy)
    a, b = x - fx, y - fy
    a = a * a * a * (a * (6 * a - 15) + 10)
    b = b * b * b * (b * (6 * b - 15) + 10)
    top = hash01(i, j, seed) * (1 - a) + hash01(i + 1, j, seed) * a
    bottom = hash01(i, j + 1, seed) * (1 - a) + hash01(i + 1, j + 1, seed) * a
    return 2 * (top * (1 - b) + bottom * b) - 1


@numba.njit(cache=True)
def detail(u, v, footprint, coarsest, seed):
    """Return a sum of octaves of noise, about unit variance, from the pixel's footprint upwards."""
    level = math.log2(footprint)
    first = math.floor(level)
    part = level - first
    wavelength = math.exp2(first + 1)
    total = 0.0
    for i in range(OCTAVES):
        octave = int(first) + 1 + i
        # octaves are faded in and out, so that there is no seam where the finest octave changes
        weight = 1 - part if i == 0 else (part if i == OCTAVES - 1 else 1.0)
        if wavelength > coarsest:
            weight *= coarsest / wavelength
        x, y = u / wavelength, v / wavelength
        if octave % 2:  # rotate every other lattice, which hides their axes
            x, y = 0.8 * x - 0.6 * y, 0.6 * x + 0.8 * y
        total += weight * noise(x, y, seed + 31 * octave)
        wavelength *= 2
    return total


@numba.njit(cache=True)
def line(x, period, width, footprint):
    """Return the share of the footprint at x covered by lines of `width`, one per `period`."""
    a, b = (x - footprint / 2) / period, (x + footprint / 2) / period
    w = width / period
    whole_a, whole_b = math.floor(a), math.floor(b)
    return ((whole_b - whole_a) * w + min(b - whole_b, w) - min(a - whole_a, w)) / (b - a)


@numba.njit(cache=True)
def _ramp(x, low, high):
    return min(1.0, max(0.0, (x - low) / (high - low)))


@numba.njit(cache=True)
def _resolved(footprint, size):
    """Return 1 where a pixel is small compared with `size`, falling to 0 where it covers it."""
    return 1 - _ramp(footprint, 0.5 * size, size)


@numba.njit(cache=True)
def _masonry(u, v, fu, fv, length, height, joint, seed):
    """Return (share of joint, tone) of masonry whose courses are shifted by half a unit."""
    course = math.floor(v / height)
    u += 0.5 * length * (int(course) % 2)
    unit = hash01(math.floor(u / length), int(course), seed)
    joints = 1 - (1 - line(u, length, joint, fu)) * (1 - line(v, height, joint, fv))
    return joints, 1 + 0.7 * (unit - 0.5) * _resolved(max(fu, fv), height)


@numba.njit(cache=True)
def _picture(u, v, fu, fv, half_width, half_height, seed):
    """Return (mix, tone, hue) of a frame, a mount, and bands of colour."""
    edge = min(half_width - abs(u), half_height - abs(v))
    frame = 0.14 * min(half_width, half_height)
    if edge < frame:
        return 1.0, 0.7 + 0.6 * _ramp(edge, 0.0, frame), -1.0
    if edge < 2 * frame:
        return 0.0, 1.1, -1.0
    scale = 3.0 / min(half_width, half_height)
    wave = noise(u * scale, v * scale, seed) + 0.5 * noise(2.3 * u * scale, 2.3 * v * scale, seed)
    band = math.floor(3.5 * wave)
    hue = hash01(int(band), 0, seed)
    return 0.0, 0.35 + 1.1 * hash01(int(band), 1, seed), hue


@numba.njit(cache=True)
def _shelf(u, v, fu, fv, height, seed):
    """Return (mix, tone, hue) of rows of books on boards."""
    board = line(v, height, 0.09 * height, fv)
    row = math.floor(v / height)
    thickness = height * (0.11 + 0.05 * hash01(row, 5, seed))
    slot = math.floor(u / thickness)
    up = v / height - row
    top = 0.62 + 0.3 * hash01(slot, row, seed)
    sharp = max(fv / height, 1e-3)
    gone = max(_ramp(up, top - sharp / 2, top + sharp / 2), 0.8 * line(u, thickness, 0.004, fu))
    tone = 0.35 + 0.9 * hash01(slot, row, seed + 1)
    label = 0.2 + 0.3 * hash01(slot, row, seed + 2)
    if abs(up - label) < 0.05:
        tone *= 1.6
    hue = hash01(slot, row, seed + 3)
    return board, (tone * (1 - gone) + 0.06 * gone) * (1 - board) + board, hue


@numba.njit(cache=True)
def _facade(u, v, fu, fv, storey, aspect, seed):
    """Return (mix, tone) of storeys of windows, with frames and sills, in masonry."""
    bay = storey / aspect
    width, height, bar = 0.52 * bay, 0.56 * storey, 0.05
    opening = line(u - 0.24 * bay, bay, width, fu) * line(v - 0.27 * storey, storey, height, fv)
    glass = line(u - 0.24 * bay - bar, bay, width - 2 * bar, fu)
    glass *= line(v - 0.27 * storey - bar, storey, height - 2 * bar, fv)
    glass *= 1 - line(u - 0.5 * bay + bar / 2, bay, bar, fu)
    glass *= 1 - line(v - 0.62 * storey, storey, bar, fv)
    sill = line(v - 0.22 * storey, storey, 0.05 * storey, fv)
    pane = hash01(math.floor(u / bay), math.floor(v / storey), seed)
    joints, tone = _masonry(u, v, fu, fv, 0.5, 0.17, 0.02, seed)
    wall = tone * (1 - 0.3 * joints) + 0.35 * sill
    frames = opening - glass
    return glass, wall * (1 - opening) + 1.5 * frames + (0.5 + pane) * glass


@numba.njit(cache=True)
def _pattern(kind, u, v, fu, fv, size, aspect, seed):
    """Return (weight of the second colour, tone, hue or -1) of a pattern at a point."""
    mix, tone, hue = 0.0, 1.0, -1.0
    wide = max(fu, fv)
    if kind == BRICKS:
        mix, tone = _masonry(u, v, fu, fv, size, size * aspect, 0.05 * size, seed)
    elif kind == TILES:
        x, y = math.floor(u / size), math.floor(v / size)
        seen = _resolved(wide, size)
        mix = 0.5 + ((x + y) % 2 - 0.5) * seen if aspect > 1 else 0.0
        tone = 1 + 0.25 * (hash01(x, y, seed) - 0.5) * seen
        joint = 0.04 * size
        tone *= 1 - 0.5 * (1 - (1 - line(u, size, joint, fu)) * (1 - line(v, size, joint, fv)))
    elif kind == PLANKS:
        row = math.floor(v / size)
        along = u + 9 * size * hash01(row, 7, seed)
        board = hash01(row, math.floor(along / (9 * size)), seed)
        ends = line(along, 9 * size, 0.03 * size, fu)
        gaps = 1 - (1 - ends) * (1 - line(v, size, 0.04 * size, fv))
        grain = detail(0.07 * u + 3 * board, v, wide, 0.5 * size, seed)
        mix = _ramp(0.35 + 0.25 * grain, 0, 1)
        tone = (1 + 0.6 * (board - 0.5) * _resolved(fv, size)) * (1 - 0.75 * gaps)
    elif kind == STRIPES:
        mix = line(u, size, 0.45 * size, fu)
        tone = 1 - 0.35 * line(u - 0.6 * size, size, 0.12 * size, fu)
    elif kind == PLAID:
        across, up = line(u, size, 0.4 * size, fu), line(v, size, 0.4 * size, fv)
        mix = 0.5 * (across + up)
        thin = line(u - 0.66 * size, size, 0.08 * size, fu)
        tone = 1 - 0.4 * max(thin, line(v - 0.66 * size, size, 0.08 * size, fv))
    elif kind == SPOTS:
        x, y = math.floor(u / size), math.floor(v / size)
        radius = size * (0.16 + 0.16 * hash01(int(x), int(y), seed))
        cx = (x + 0.35 + 0.3 * hash01(int(x), int(y), seed + 1)) * size
        cy = (y + 0.35 + 0.3 * hash01(int(x), int(y), seed + 2)) * size
        away = math.sqrt((u - cx) ** 2 + (v - cy) ** 2)
        seen = _resolved(wide, size)
        mix = seen * (1 - _ramp(away, radius - wide / 2, radius + wide / 2)) + 0.18 * (1 - seen)
    elif kind == PICTURE:
        mix, tone, hue = _picture(u, v, fu, fv, size, size * aspect, seed)
    elif kind == SHELF:
        mix, tone, hue = _shelf(u, v, fu, fv, size, seed)
    elif kind == FACADE:
        mix, tone = _facade(u, v, fu, fv, size, aspect, seed)
    elif kind == FOLIAGE:
        leaves = detail(u + 0.4 * v, v, math.sqrt(fu * fv), size, seed + 9)
        mix, tone = _ramp(leaves, -0.6, 1.2), 0.35 + 1.1 * _ramp(leaves, -1.2, 1.2)
    elif kind == ROAD:  # u is across; a dashed line in the middle, solid ones at the sides
        dashes = line(v, 4.0, 2.0, fv) * line(u + 0.07, 1e4, 0.14, fu)
        sides = line(u - size, 1e4, 0.12, fu) + line(u + size, 1e4, 0.12, fu)
        mix = min(1.0, dashes + sides)
    return mix, tone, hue


@numba.njit(cache=True)
def albedo(paints, k, u, v, fu, fv):
    """Return linear rgb of row k of paints (M, 12) at (u, v) [m], for a pixel of fu x fv [m]."""
    fu, fv = max(fu, 1e-5), max(fv, 1e-5)
    seed = int(paints[k, 11])
    mix, tone, hue = _pattern(int(paints[k, 0]), u, v, fu, fv, paints[k, 7], paints[k, 8], seed)
    tone *= math.exp(paints[k, 9] * detail(u, v, math.sqrt(fu * fv), paints[k, 10], seed))
    r, g, b = paints[k, 1], paints[k, 2], paints[k, 3]
    if hue >= 0:
        r = 0.3 + 0.25 * math.cos(6.2832 * hue)
        g = 0.3 + 0.25 * math.cos(6.2832 * (hue - 0.3))
        b = 0.3 + 0.25 * math.cos(6.2832 * (hue - 0.6))
    return (
        tone * (r + mix * (paints[k, 4] - r)),
        tone * (g + mix * (paints[k, 5] - g)),
        tone * (b + mix * (paints[k, 6] - b)),
    )
