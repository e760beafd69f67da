"""Streets of the embedded sample: houses, trees, cars and ramps under a sky, 2 to 80 m deep.

World axes: x right, y forward, z up, metres; the camera is near (0, 0), and the ground may slope.
Objects are placed at random. A layout is accepted if its depth, computed at low resolution, is
within the range, has a plausible share of sky, and has a median close to one drawn before (5 to
30 m).
"""

import colorsys
import itertools
import math

import numpy as np

from hded.sample.raycast import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    Camera,
    Placer,
    Scene,
    SceneBuilder,
    camera,
    cast_depth,
)
from hded.sample.textures import (
    BRICKS,
    FACADE,
    FOLIAGE,
    PLAIN,
    PLANKS,
    ROAD,
    SPOTS,
    STRIPES,
    TILES,
    Color,
    color,
    shade,
)

NEAR_M, FAR_M = 2.0, 80.0
WIDTH, HEIGHT = 1704, 2272
FOCAL_PX = 2640.0
MEDIANS_M = (5.0, 30.0)
END_M = 110.0  # nothing is placed beyond
Rng = np.random.Generator


def build_street(sequence: np.random.SeedSequence) -> tuple[Scene, Camera]:
    """Return the street of a seed."""
    rng = np.random.default_rng(sequence)
    target = math.exp(rng.uniform(*np.log(MEDIANS_M)))
    attempt = 0
    while True:
        attempt += 1
        scene, view = _layout(rng, target)
        depth = cast_depth(scene, view, WIDTH // 24, HEIGHT // 24)
        tolerance = 0.15 + 0.01 * attempt  # grows, so that the search ends for rare targets, too
        off = abs(np.median(np.minimum(depth, FAR_M)) / target - 1)
        sky = np.mean(depth > FAR_M)
        if depth.min() > 1.1 * NEAR_M and off < tolerance and 0.02 - attempt / 1e3 < sky < 0.45:
            return scene, view


class _Street:
    """A street under construction: its ground, its random generator, and occupied places."""

    def __init__(self, rng: Rng, half: float) -> None:
        self.rng, self.half = rng, half  # half the width between the kerbs
        self.build = SceneBuilder()
        self.slope = float(rng.choice([0.0, rng.uniform(-0.03, 0.12)]))
        self.taken: list[tuple[float, float, float]] = []

    def at(self, x: float, y: float, turn: float = 0.0) -> Placer:
        """Return a placer at a position on the ground."""
        return Placer(self.build, x, y, turn, self.slope * y)

    def free(self, x: float, y: float, radius: float) -> bool:
        """Occupy a place if it is free; return whether it was."""
        if any(math.hypot(x - a, y - b) < radius + c for a, b, c in self.taken):
            return False
        self.taken.append((x, y, radius))
        return True

    def paint(self, pattern: int, first: Color, second: Color, size_m: float, **rest: float) -> int:
        """Add a material with a new texture seed and return its number."""
        seed = int(self.rng.integers(1 << 20))
        return self.build.paint(pattern, first, second, size_m, seed, **rest)

    def plain(self, saturation=(0.05, 0.5), value=(0.35, 0.9), contrast: float = 0.25) -> int:
        first = color(self.rng, saturation, value)
        return self.paint(PLAIN, first, first, 1.0, contrast=contrast)

    def wood(self) -> int:
        first = colorsys.hsv_to_rgb(self.rng.uniform(0.05, 0.1), 0.5, self.rng.uniform(0.35, 0.7))
        return self.paint(PLANKS, first, shade(first, 0.6), 0.14, contrast=0.22)

    def leaves(self) -> int:
        leaf = colorsys.hsv_to_rgb(self.rng.uniform(0.17, 0.36), self.rng.uniform(0.4, 0.75), 0.62)
        size = self.rng.uniform(0.3, 0.7)
        return self.paint(FOLIAGE, shade(leaf, 0.3), leaf, size, contrast=0.4)


def _layout(rng: Rng, median: float) -> tuple[Scene, Camera]:
    street = _Street(rng, rng.uniform(2.0, 3.0 + 0.25 * median))
    _ground(street)
    for side in (-1, 1):
        if rng.uniform() < 0.85:
            _row(street, side, rng.uniform(0.5, 6.0))
        else:
            _park(street, side)
    if rng.uniform() < 0.6:  # the street ends at a house
        y = min(END_M, median * rng.uniform(1.3, 3.5) + 4)
        _house(street, rng.uniform(-6, 6), y + 6, rng.uniform(-0.5, 0.5), 9.0)
    _things(street, median)
    elevation, azimuth = rng.uniform(0.5, 1.1), rng.uniform(-2.6, 2.6) + math.pi
    sun = np.array([
        math.cos(elevation) * math.sin(azimuth),
        math.cos(elevation) * math.cos(azimuth),
        math.sin(elevation),
    ])  # fmt: skip
    blue = rng.uniform(0.3, 0.7)
    light = np.array([
        sun,
        (1.75, 1.62, 1.4),
        (0.55, 0.62, 0.75),
        (0.34, 0.31, 0.27),
        (0.62, 0.74, 0.88),
        (0.32 - 0.25 * blue, 0.42 - 0.2 * blue, 0.75),
    ])  # fmt: skip
    scene = street.build.build(
        light, lamp_m=-1.0, haze_m=rng.uniform(400, 1500), clouds=int(rng.integers(1 << 20))
    )
    tangents = (WIDTH / 2 / FOCAL_PX, HEIGHT / 2 / FOCAL_PX)
    place = (rng.uniform(-0.6, 0.6) * street.half, 0.0, rng.uniform(1.4, 2.2))
    yaw, pitch = rng.uniform(-0.25, 0.25), rng.uniform(-0.12, 0.06) + 0.6 * street.slope
    return scene, camera(place, yaw, pitch, *tangents)


def _ground(street: _Street) -> None:
    rng, tilt = street.rng, -math.atan(street.slope)
    grey = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.12), rng.uniform(0.35, 0.7))
    kind = rng.uniform()
    if kind < 0.4:
        road = street.paint(ROAD, grey, (0.92, 0.9, 0.85), 0.85 * street.half, contrast=0.3)
    elif kind < 0.7:
        red = colorsys.hsv_to_rgb(rng.uniform(0.0, 0.1), rng.uniform(0.1, 0.4), 0.65)
        road = street.paint(BRICKS, red, shade(red, 0.6), rng.uniform(0.25, 0.6), aspect=0.5)
    else:
        checker = float(rng.choice([1.0, 2.0]))
        road = street.paint(TILES, grey, shade(grey, 0.75), rng.uniform(0.4, 1.2), aspect=checker)
    street.build.add(BOX, (0, 0, -1.0), (300, 300, 1.0), road, tilt=tilt)
    flags = street.paint(TILES, shade(grey, 1.35), grey, rng.uniform(0.4, 0.8), contrast=0.25)
    if rng.uniform() < 0.3:
        grass = colorsys.hsv_to_rgb(rng.uniform(0.2, 0.32), 0.55, 0.6)
        flags = street.paint(FOLIAGE, shade(grass, 0.45), grass, 0.3, contrast=0.35)
    for side in (-1, 1):
        x = side * (street.half + 50)
        street.build.add(BOX, (x, 0, -0.9), (50, 300, 1.05), flags, tilt=tilt)


def _row(street: _Street, side: int, pavement: float) -> None:
    """Add houses along one side."""
    rng, y = street.rng, street.rng.uniform(-6, 8)
    while y < END_M:
        deep = rng.uniform(3.5, 7.0)
        x = side * (street.half + 1.2 + pavement + rng.uniform(0, 1.5))
        _house(street, x, y + deep, rng.normal(0, 0.04) - side * math.pi / 2, deep)
        y += 2 * deep + float(rng.choice([0.0, rng.uniform(1, 9)]))


def _house(street: _Street, x: float, y: float, turn: float, half: float) -> None:
    """Add a house whose front, `half` to either side, is at (x, y)."""
    rng = street.rng
    storey, storeys = rng.uniform(2.8, 3.8), int(rng.integers(1, 6))
    value = rng.uniform(0.5, 0.95)
    wall = colorsys.hsv_to_rgb(rng.uniform(0.0, 0.16), rng.uniform(0.1, 0.55), value)
    glass = colorsys.hsv_to_rgb(rng.uniform(0.5, 0.65), 0.35, rng.uniform(0.15, 0.45))
    bays = rng.uniform(0.9, 1.6)
    face = street.paint(FACADE, wall, glass, storey, aspect=bays, contrast=0.2)
    at = street.at(x, y, turn)
    # texture heights start at the box's centre: put it at a floor's level, its base below ground
    middle = (storeys - 1) // 2 * storey
    up = storeys * storey - middle
    at.add(BOX, (0, 5, middle), (half, 5, up), face)
    roof = street.plain((0.1, 0.6), (0.3, 0.7))
    top = storeys * storey
    if storeys <= 3 and rng.uniform() < 0.6:  # a slanted roof
        tiles = colorsys.hsv_to_rgb(rng.uniform(0.0, 0.08), rng.uniform(0.2, 0.7), 0.6)
        roof = street.paint(BRICKS, tiles, shade(tiles, 0.5), 0.5, aspect=0.7)
        at.add(BOX, (0, 2.3, top + 1.4), (half + 0.4, 0.12, 3.2), roof, tilt=1.05)
    else:
        at.add(BOX, (0, 5, top), (half + 0.25, 5.25, 0.25), roof)
    at.add(BOX, (0, -0.03, 0.3), (half, 0.08, 0.35), roof)
    if rng.uniform() < 0.5:  # an awning
        stripes = street.paint(STRIPES, color(rng, (0.4, 0.8), (0.5, 0.9)), (0.95, 0.93, 0.9), 0.4)
        place = (rng.uniform(-0.4, 0.4) * half, -0.7, 2.75)
        at.add(BOX, place, (2.0, 0.03, 0.9), stripes, tilt=1.0)


def _park(street: _Street, side: int) -> None:
    """Add trees and hedges instead of houses."""
    rng = street.rng
    leaves = street.leaves()
    for y in np.arange(rng.uniform(6, 10), END_M, 7):
        x = side * (street.half + rng.uniform(1.5, 3.0))
        _tree(street, side * (street.half + rng.uniform(4, 14)), float(y))
        if rng.uniform() < 0.6:
            half = (rng.uniform(0.4, 0.8), rng.uniform(1.5, 3.0), rng.uniform(0.4, 0.9))
            street.at(x, float(y)).add(BOX, (0, 0, half[2]), half, leaves)


def _things(street: _Street, median: float) -> None:
    """Add trees and lamps along the kerbs; cars, planters, ramps and crates on the road."""
    rng = street.rng
    step = rng.uniform(6, 14)
    for side in (-1, 1):
        make = _tree if rng.uniform() < 0.6 else _lamp_post
        for y in np.arange(rng.uniform(5, 12), 60, step):
            x = side * (street.half + 0.7)
            if street.free(x, float(y), 1.0):
                make(street, x, float(y))
    makers = (_car, _car, _planter, _crates, _ramp, _bollards, _cylinder, _board)
    for i in rng.integers(len(makers), size=9):
        y = rng.uniform(3.6, 5 + 1.3 * median)
        reach = min(street.half, 0.28 * y + 0.6)
        x = rng.uniform(-reach, reach)
        if street.free(x, y, 1.2):
            makers[i](street, x, y)


def _tree(street: _Street, x: float, y: float) -> None:
    rng, at = street.rng, street.at(x, y)
    tall, r = rng.uniform(1.8, 3.2), rng.uniform(0.08, 0.2)
    at.add(CYLINDER, (0, 0, tall / 2), (r, r, tall / 2), street.wood())
    leaves, spread = street.leaves(), rng.uniform(0.6, 1.3)
    for i in range(7):  # the first sits on the trunk
        off = spread * rng.normal(0, 0.5 if i else 0.0, 2)
        center = (float(off[0]), float(off[1]), tall + rng.uniform(0.2, 1.5 if i else 0.4) * spread)
        half = spread * rng.uniform(0.5, 1.0, 3) * (1, 1, 0.8)
        at.add(ELLIPSOID, center, (float(half[0]), float(half[1]), float(half[2])), leaves)


def _lamp_post(street: _Street, x: float, y: float) -> None:
    at, metal = street.at(x, y), street.plain((0.0, 0.2), (0.15, 0.4))
    tall = street.rng.uniform(3.0, 4.5)
    at.add(CYLINDER, (0, 0, tall / 2), (0.06, 0.06, tall / 2), metal)
    at.add(CYLINDER, (0, 0, 0.3), (0.12, 0.12, 0.3), metal)
    at.add(ELLIPSOID, (0, 0, tall + 0.15), (0.2, 0.2, 0.22), street.plain((0, 0.1), (0.9, 1.0)))


def _car(street: _Street, x: float, y: float) -> None:
    rng = street.rng
    at = street.at(x, y, float(rng.choice([0.0, math.pi, rng.uniform(-0.6, 0.6)])))
    body, glass = street.plain((0.1, 0.85), (0.25, 0.95), 0.15), street.plain((0, 0.3), (0.15, 0.3))
    rubber = street.plain((0, 0.1), (0.1, 0.2))
    at.add(BOX, (0, 0, 0.58), (0.85, 2.0, 0.33), body)
    at.add(BOX, (0, 0.1, 1.1), (0.72, 1.1, 0.25), (glass, glass, body))
    at.add(BOX, (0, 0.1, 1.36), (0.74, 1.0, 0.03), body)
    for dx, dy in itertools.product((-0.8, 0.8), (-1.25, 1.25)):
        at.add(CYLINDER, (dx, dy, 0.32), (0.32, 0.32, 0.12), rubber, turn=math.pi / 2,
               tilt=math.pi / 2)  # fmt: skip
    for dx in (-0.6, 0.6):
        at.add(BOX, (dx, -2.0, 0.65), (0.14, 0.02, 0.07), street.plain((0, 0.9), (0.8, 1.0)))


def _planter(street: _Street, x: float, y: float) -> None:
    rng, at = street.rng, street.at(x, y, street.rng.uniform(-0.5, 0.5))
    half = (rng.uniform(0.4, 0.9), 0.3, rng.uniform(0.2, 0.35))
    at.add(BOX, (0, 0, half[2]), half, street.wood() if rng.uniform() < 0.5 else street.plain())
    leaves = street.leaves()
    for dx in (-0.6, 0.0, 0.6):
        size = (0.3, 0.28, rng.uniform(0.2, 0.5))
        at.add(ELLIPSOID, (dx * half[0], 0, 2 * half[2] + 0.15), size, leaves)


def _crates(street: _Street, x: float, y: float) -> None:
    rng, at, z = street.rng, street.at(x, y), 0.0
    for _ in range(int(rng.integers(2, 5))):
        half = (rng.uniform(0.25, 0.5), rng.uniform(0.25, 0.5), rng.uniform(0.2, 0.4))
        at.add(BOX, (0, 0, z + half[2]), half, street.wood(), turn=rng.uniform(-0.5, 0.5))
        z += 2 * half[2]


def _ramp(street: _Street, x: float, y: float) -> None:
    """Add a slanted slab on two supports."""
    rng, at = street.rng, street.at(x, y, street.rng.uniform(-0.8, 0.8))
    rise = rng.uniform(0.25, 0.6)
    face = street.paint(SPOTS, color(rng, (0.2, 0.6), (0.4, 0.9)), (0.9, 0.9, 0.85), 0.3)
    length = rng.uniform(1.0, 1.8)
    at.add(BOX, (0, 0, length * math.sin(rise)), (0.8, length, 0.04), face, tilt=-rise)
    for dx in (-0.6, 0.6):
        tall = length * math.sin(rise) * 0.8
        at.add(BOX, (dx, 0.6 * length, tall), (0.06, 0.06, tall), street.wood())


def _bollards(street: _Street, x: float, y: float) -> None:
    paint = street.paint(STRIPES, (0.8, 0.2, 0.15), (0.95, 0.95, 0.92), 0.25, contrast=0.2)
    for i in range(4):
        at = street.at(x + 0.9 * (i - 1.5), y)
        at.add(CYLINDER, (0, 0, 0.42), (0.09, 0.09, 0.42), paint)
        at.add(ELLIPSOID, (0, 0, 0.86), (0.11, 0.11, 0.11), paint)


def _cylinder(street: _Street, x: float, y: float) -> None:
    """Add an advertising column."""
    rng, at, r = street.rng, street.at(x, y), street.rng.uniform(0.35, 0.6)
    first, second = color(rng, (0.2, 0.6), (0.5, 0.9)), color(rng, (0.2, 0.6), (0.4, 0.9))
    face = street.paint(TILES, first, second, 0.45, aspect=2.0, contrast=0.3)
    at.add(CYLINDER, (0, 0, 1.2), (r, r, 1.2), face)
    at.add(ELLIPSOID, (0, 0, 2.4), (1.15 * r, 1.15 * r, 0.35), street.plain())


def _board(street: _Street, x: float, y: float) -> None:
    """Add a leaning board."""
    rng, at = street.rng, street.at(x, y, street.rng.uniform(-0.6, 0.6))
    tilt, h = rng.uniform(0.2, 0.7), rng.uniform(0.5, 0.9)
    face = street.paint(STRIPES, color(rng, (0.3, 0.8), (0.5, 0.9)), (0.95, 0.93, 0.88), 0.3)
    at.add(BOX, (0, 0, h * math.cos(tilt)), (rng.uniform(0.4, 0.7), 0.03, h), face, tilt=tilt)
