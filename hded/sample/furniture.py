"""Furniture of the sample's rooms, built from boxes, ellipsoids and cylinders [m].

Each function builds one object around (0, 0) on the floor, with its front towards -y.
"""

import colorsys
import itertools
import math
from collections.abc import Callable

import numpy as np

from hded.sample.raycast import BOX, CYLINDER, ELLIPSOID, Placer, SceneBuilder
from hded.sample.textures import (
    BRICKS,
    FOLIAGE,
    PICTURE,
    PLAID,
    PLAIN,
    PLANKS,
    SHELF,
    SPOTS,
    STRIPES,
    TILES,
    Color,
    color,
    shade,
)

Rng = np.random.Generator


class Materials:
    """Random materials for one room."""

    def __init__(self, builder: SceneBuilder, rng: Rng) -> None:
        self._builder, self._rng = builder, rng

    def add(self, pattern: int, first: Color, second: Color, size_m: float, **rest: float) -> int:
        """Add a material with a new texture seed and return its number."""
        seed = int(self._rng.integers(1 << 20))
        return self._builder.paint(pattern, first, second, size_m, seed, **rest)

    def wood(self) -> int:
        """Return a material of boards."""
        hue, value = self._rng.uniform(0.05, 0.1), self._rng.uniform(0.35, 0.85)
        first = colorsys.hsv_to_rgb(hue, self._rng.uniform(0.3, 0.65), value)
        size = self._rng.uniform(0.08, 0.2)
        return self.add(PLANKS, first, shade(first, 0.6), size, contrast=0.18)

    def plain(
        self, saturation: tuple[float, float] = (0.2, 0.7), value: tuple[float, float] = (0.4, 0.95)
    ) -> int:
        """Return a material of one colour."""
        first = color(self._rng, saturation, value)
        return self.add(PLAIN, first, first, 1.0, contrast=self._rng.uniform(0.18, 0.3))

    def fabric(self) -> int:
        """Return a cloth, with a pattern or of one colour."""
        rng = self._rng
        pattern = int(rng.choice([STRIPES, PLAID, SPOTS, PLAIN]))
        first, second = color(rng, (0.25, 0.75), (0.35, 0.95)), color(rng, (0.2, 0.8), (0.3, 0.95))
        return self.add(pattern, first, second, rng.uniform(0.05, 0.2), contrast=0.25)

    def wall(self) -> int:
        """Return a wall: plaster, bricks, panels, tiles or wallpaper."""
        rng = self._rng
        first = color(rng, (0.02, 0.3), (0.6, 0.98))
        kind = rng.uniform()
        if kind < 0.4:
            return self.add(
                PLAIN, first, first, 1.0, contrast=rng.uniform(0.15, 0.22), coarsest_m=0.3
            )
        if kind < 0.55:
            brick = colorsys.hsv_to_rgb(rng.uniform(0, 0.1), rng.uniform(0.2, 0.65), 0.75)
            grout = (0.78, 0.75, 0.7)
            return self.add(BRICKS, brick, grout, rng.uniform(0.2, 0.3), aspect=0.33)
        if kind < 0.7:
            return self.add(PLANKS, first, shade(first, 0.8), rng.uniform(0.1, 0.2), contrast=0.15)
        if kind < 0.8:
            return self.add(TILES, first, shade(first, 0.7), rng.uniform(0.15, 0.4), contrast=0.15)
        pattern = int(rng.choice([STRIPES, SPOTS, PLAID]))
        size, second = rng.uniform(0.08, 0.3), shade(first, rng.uniform(0.65, 0.85))
        return self.add(pattern, first, second, size, contrast=0.16)

    def ceiling(self) -> int:
        """Return white plaster."""
        white = color(self._rng, (0.0, 0.12), (0.8, 0.98))
        return self.add(PLAIN, white, white, 1.0, contrast=0.18, coarsest_m=0.3)

    def floor(self) -> int:
        """Return a floor: boards, tiles or carpet."""
        rng = self._rng
        if rng.uniform() < 0.5:
            return self.wood()
        first = color(rng, (0.0, 0.25), (0.45, 0.9))
        if rng.uniform() < 0.7:
            second = shade(first, rng.uniform(0.35, 0.8))
            checker = float(rng.choice([1.0, 2.0]))
            return self.add(TILES, first, second, rng.uniform(0.25, 0.5), aspect=checker)
        return self.add(PLAIN, first, first, 1.0, contrast=0.3, coarsest_m=0.1)

    def picture(self, half_width: float, half_height: float) -> int:
        """Return a framed picture that fills a face of these half sizes [m]."""
        rng = self._rng
        frame = color(rng, (0.2, 0.7), (0.15, 0.6))
        aspect = half_height / half_width
        return self.add(PICTURE, (0.9, 0.88, 0.82), frame, half_width, aspect=aspect)


def _trinket(at: Placer, draw: Materials, rng: Rng, x: float, y: float, z: float) -> None:
    kind = rng.integers(4)
    r = rng.uniform(0.05, 0.1)
    if kind == 0:  # a vase
        at.add(ELLIPSOID, (x, y, z + 1.3 * r), (r, r, 1.3 * r), draw.fabric())
        at.add(CYLINDER, (x, y, z + 2.7 * r), (0.4 * r, 0.4 * r, 0.4 * r), draw.plain())
    elif kind == 1:  # books
        for i in range(3):
            half = (rng.uniform(0.08, 0.12), rng.uniform(0.06, 0.09), 0.018)
            turn = rng.uniform(-0.5, 0.5)
            at.add(BOX, (x, y, z + 0.018 + 0.036 * i), half, draw.plain(), turn=turn)
    elif kind == 2:
        at.add(ELLIPSOID, (x, y, z + r), (r, r, r), draw.fabric())
    else:  # a lamp
        at.add(CYLINDER, (x, y, z + 0.12), (0.015, 0.015, 0.12), draw.plain((0, 0.2), (0.3, 0.9)))
        at.add(CYLINDER, (x, y, z + 0.31), (0.11, 0.11, 0.09), draw.plain((0.1, 0.5), (0.85, 1.0)))


def _cabinet(at: Placer, draw: Materials, rng: Rng) -> None:
    wood, front, knob = draw.wood(), draw.wood(), draw.plain((0, 0.3), (0.7, 0.95))
    w, d, h = rng.uniform(0.3, 0.6), 0.22, rng.uniform(0.3, 0.55)
    at.add(BOX, (0, 0, h), (w, d, h), wood)
    rows = int(rng.integers(2, 4))
    for i in range(rows):
        z, half = (2 * i + 1) * h / rows, 0.85 * h / rows
        at.add(BOX, (0, -d, z), (0.93 * w, 0.015, half), front)
        at.add(ELLIPSOID, (0, -d - 0.03, z), (0.025, 0.025, 0.025), knob)
    for x in (-0.5 * w, 0.4 * w):
        _trinket(at, draw, rng, x, 0, 2 * h)


def _bookcase(at: Placer, draw: Materials, rng: Rng) -> None:
    w, h = rng.uniform(0.4, 0.75), rng.uniform(0.7, 1.05)
    wood = draw.wood()
    books = draw.add(SHELF, (0.5, 0.5, 0.5), (0.5, 0.36, 0.22), rng.uniform(0.26, 0.36))
    at.add(BOX, (0, 0, h), (w, 0.14, h), (wood, books, wood))
    for x in (-w, w):
        at.add(BOX, (x, 0, h), (0.03, 0.18, h + 0.03), wood)
    at.add(BOX, (0, 0, 2 * h), (w, 0.18, 0.03), wood)


def _table(at: Placer, draw: Materials, rng: Rng) -> None:
    wood, h = draw.wood(), rng.uniform(0.5, 0.75)
    w, d = rng.uniform(0.4, 0.65), rng.uniform(0.3, 0.45)
    at.add(BOX, (0, 0, h), (w, d, 0.025), wood)
    for x, y in itertools.product((-0.9 * w, 0.9 * w), (-0.85 * d, 0.85 * d)):
        at.add(CYLINDER, (x, y, h / 2), (0.03, 0.03, h / 2), wood)
    for x in (-0.5 * w, 0.1 * w, 0.6 * w):
        _trinket(at, draw, rng, x, rng.uniform(-0.4, 0.4) * d, h + 0.025)


def _chair(at: Placer, draw: Materials, rng: Rng) -> None:
    wood, seat = draw.wood(), draw.fabric()
    at.add(BOX, (0, 0, 0.43), (0.21, 0.21, 0.03), seat)
    at.add(BOX, (0, 0.22, 0.72), (0.2, 0.02, 0.16), seat, tilt=rng.uniform(0.1, 0.3))
    for x, y in itertools.product((-0.19, 0.19), (-0.19, 0.19)):
        at.add(CYLINDER, (x, y, 0.21), (0.02, 0.02, 0.21), wood)
    for x in (-0.18, 0.18):
        at.add(CYLINDER, (x, 0.21, 0.6), (0.02, 0.02, 0.2), wood)


def _sofa(at: Placer, draw: Materials, rng: Rng) -> None:
    cloth, cushion = draw.fabric(), draw.fabric()
    w = rng.uniform(0.5, 0.85)
    at.add(BOX, (0, 0, 0.2), (w, 0.4, 0.2), cloth)
    at.add(BOX, (0, 0.36, 0.55), (w, 0.1, 0.32), cloth, tilt=0.15)
    for x in (-w, w):
        at.add(BOX, (x, 0, 0.3), (0.09, 0.42, 0.3), cloth)
        at.add(BOX, (0.6 * x, 0.12, 0.56), (0.2, 0.07, 0.18), cushion, turn=-0.3 * x, tilt=0.45)


def _bed(at: Placer, draw: Materials, rng: Rng) -> None:
    wood, sheet = draw.wood(), draw.plain((0.0, 0.2), (0.85, 1.0))
    w = rng.uniform(0.5, 0.75)
    at.add(BOX, (0, 0, 0.15), (w, 0.95, 0.15), wood)
    at.add(BOX, (0, 0, 0.4), (w - 0.02, 0.93, 0.12), draw.fabric())
    at.add(BOX, (0, 0.97, 0.5), (w, 0.04, 0.5), wood)
    for x in (-0.45 * w, 0.45 * w):
        at.add(ELLIPSOID, (x, 0.65, 0.57), (0.4 * w, 0.2, 0.1), sheet)


def _plant(at: Placer, draw: Materials, rng: Rng) -> None:
    at.add(CYLINDER, (0, 0, 0.18), (0.17, 0.17, 0.18), draw.plain((0.3, 0.7), (0.4, 0.8)))
    leaf = colorsys.hsv_to_rgb(rng.uniform(0.22, 0.38), 0.6, 0.6)
    leaves = draw.add(FOLIAGE, shade(leaf, 0.35), leaf, 0.12, contrast=0.3)
    for _ in range(6):
        x, y, z = rng.uniform(-0.17, 0.17), rng.uniform(-0.17, 0.17), rng.uniform(0.45, 0.95)
        half = (rng.uniform(0.1, 0.22), rng.uniform(0.1, 0.22), rng.uniform(0.12, 0.3))
        at.add(ELLIPSOID, (x, y, z), half, leaves)


def _floor_lamp(at: Placer, draw: Materials, rng: Rng) -> None:
    metal, tall = draw.plain((0, 0.2), (0.2, 0.8)), rng.uniform(1.2, 1.6)
    at.add(CYLINDER, (0, 0, 0.02), (0.16, 0.16, 0.02), metal)
    at.add(CYLINDER, (0, 0, tall / 2), (0.02, 0.02, tall / 2), metal)
    at.add(CYLINDER, (0, 0, tall), (0.19, 0.19, 0.14), draw.plain((0.1, 0.5), (0.85, 1.0)))


def _panel(at: Placer, draw: Materials, rng: Rng) -> None:
    """Add a picture or a board that leans back: a slanted plane."""
    w, h, tilt = rng.uniform(0.3, 0.55), rng.uniform(0.4, 0.75), rng.uniform(0.2, 0.7)
    face = draw.picture(w, h) if rng.uniform() < 0.5 else draw.fabric()
    at.add(BOX, (0, 0, h * math.cos(tilt)), (w, 0.02, h), face, tilt=tilt)


def _crates(at: Placer, draw: Materials, rng: Rng) -> None:
    z = 0.0
    for i in range(int(rng.integers(2, 4))):
        half = (rng.uniform(0.16, 0.28), rng.uniform(0.16, 0.28), rng.uniform(0.12, 0.22))
        paint = draw.wood() if rng.uniform() < 0.5 else draw.fabric()
        at.add(BOX, (0.03 * i, 0, z + half[2]), half, paint, turn=rng.uniform(-0.4, 0.4))
        z += 2 * half[2]
    _trinket(at, draw, rng, 0.0, 0.0, z)


def _ball(at: Placer, draw: Materials, rng: Rng) -> None:
    r = rng.uniform(0.18, 0.3)
    at.add(ELLIPSOID, (0, 0, r), (r, r, r), draw.fabric())


def _column(at: Placer, draw: Materials, rng: Rng) -> None:
    r = rng.uniform(0.1, 0.18)
    at.add(CYLINDER, (0, 0, 2.5), (r, r, 2.5), draw.wall())
    at.add(BOX, (0, 0, 0.1), (1.4 * r, 1.4 * r, 0.1), draw.plain((0, 0.3), (0.6, 0.95)))


# the objects: function, radius on the floor [m], and whether the object is placed at a wall
THINGS: list[tuple[Callable[[Placer, Materials, Rng], None], float, bool]] = [
    (_cabinet, 0.6, True),
    (_bookcase, 0.6, True),
    (_bookcase, 0.6, False),
    (_table, 0.7, False),
    (_chair, 0.35, False),
    (_sofa, 0.8, False),
    (_bed, 1.0, True),
    (_plant, 0.4, False),
    (_floor_lamp, 0.3, False),
    (_panel, 0.5, False),
    (_crates, 0.4, False),
    (_ball, 0.3, False),
    (_column, 0.25, False),
]
