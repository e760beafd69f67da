"""Rooms of the embedded sample: furniture, wall pictures and leaning panels, 0.7 to 10 m deep.

World axes: x right, y forward, z up, metres; the camera is near (0, 0). Objects are placed at
random. A layout is accepted if its depth, computed at low resolution, is within the range and has a
median close to one drawn before, between 1.6 and 7.8 m, so that no constant depth is a good
estimate for all rooms.
"""

import math

import numpy as np

from hded.sample.furniture import THINGS, Materials
from hded.sample.raycast import (
    BOX,
    ELLIPSOID,
    ROOM,
    Camera,
    Placer,
    Scene,
    SceneBuilder,
    camera,
    cast_depth,
)

NEAR_M, FAR_M = 0.7, 10.0
FOCAL_PX, WIDTH, HEIGHT = 519.0, 640, 480  # the Kinect's colour camera
VIEWS = 2  # frames of one room, as consecutive NYU frames often show one room
MEDIANS_M = (1.6, 7.8)
Rng = np.random.Generator


def furnish(sequence: np.random.SeedSequence) -> tuple[Scene, list[Camera]]:
    """Return the room of a seed, and its `VIEWS` cameras."""
    rng = np.random.default_rng(sequence)
    target = rng.uniform(*MEDIANS_M)
    attempt = 0
    while True:
        attempt += 1
        scene, views = _layout(rng, target)
        depths = [cast_depth(scene, view, WIDTH // 8, HEIGHT // 8) for view in views]
        low, high = min(d.min() for d in depths), max(d.max() for d in depths)
        if low < NEAR_M + 0.06 or high > FAR_M - 0.3:
            continue
        tolerance = 0.1 + 0.01 * attempt  # grows, so that the search ends for rare targets, too
        off = abs(np.median(depths[0]) / target - 1)
        layers = min(np.quantile(d, 0.95) / np.quantile(d, 0.05) for d in depths)
        if off < tolerance and layers > 1.7 - tolerance:
            return scene, views


def _layout(rng: Rng, median: float) -> tuple[Scene, list[Camera]]:
    build = SceneBuilder()
    draw = Materials(build, rng)
    length = min(median * rng.uniform(1.1, 1.5), rng.uniform(9.2, 9.7))
    height = rng.uniform(2.4, 2.9) + max(0.0, 0.15 * (length - 4))
    left, right = (rng.uniform(max(1.3, 0.3 * length), 1.6 + 0.5 * length) for _ in range(2))
    center, half = (right - left) / 2, (right + left) / 2
    walls, ceiling = (draw.wall(), draw.wall()), draw.ceiling()
    middle = (length - 2.0) / 2
    build.add(ROOM, (center, middle, height / 2), (half, length - middle, height / 2),
              (walls[0], walls[1], ceiling))  # fmt: skip
    build.add(BOX, (center, middle, -0.02), (half, length - middle, 0.021), draw.floor())
    skirting = draw.plain((0.0, 0.3), (0.5, 0.95))
    build.add(BOX, (center, length, 0.06), (half, 0.02, 0.06), skirting)
    build.add(BOX, (-left, middle, 0.06), (0.02, length - middle, 0.06), skirting)
    build.add(BOX, (right, middle, 0.06), (0.02, length - middle, 0.06), skirting)
    if rng.uniform() < 0.3:  # a sloping ceiling at the far wall
        low = rng.uniform(0.6, 1.4) * (height - 1.9)
        build.add(BOX, (center, length, height), (half, low, 0.04), draw.wood(), tilt=-math.pi / 4)
    _hang(build, draw, rng, (-left, right, length, height))
    _place(build, draw, rng, (-left, right, length, height))
    lamp = (rng.uniform(-0.6, 0.6), rng.uniform(0.25, 0.6) * length, height - 0.12)
    warm = rng.uniform(0.8, 1.0)
    ambient = rng.uniform(0.25, 0.45)
    light = np.array([
        lamp,
        (1.3, 1.15 + 0.15 * warm, 0.9 + 0.4 * warm),
        (0.9 * ambient, 0.95 * ambient, 1.05 * ambient),
        (0.8 * ambient, 0.75 * ambient, 0.7 * ambient),
        (0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0),
    ])  # fmt: skip
    scene = build.build(light, lamp_m=rng.uniform(0.3, 0.8))
    return scene, _views(rng, median)


def _views(rng: Rng, median: float) -> list[Camera]:
    x, y, z = 0.0, 0.0, rng.uniform(1.1, 1.7)
    ease = 1 - median / 10  # in deep rooms the camera must look straight ahead to see far
    yaw, pitch = rng.uniform(-0.5, 0.5) * ease, 0.03 - rng.uniform(0.0, 0.4) * ease
    tangents = (WIDTH / 2 / FOCAL_PX, HEIGHT / 2 / FOCAL_PX)
    views = [camera((x, y, z), yaw, pitch, *tangents)]
    for _ in range(VIEWS - 1):
        aside = float(rng.choice([-1, 1]))
        place = (x + aside * rng.uniform(0.2, 0.5), y + rng.uniform(-0.3, 0.3), z)
        turn = yaw - aside * rng.uniform(0.05, 0.35)
        views.append(camera(place, turn, pitch + rng.uniform(-0.06, 0.06), *tangents))
    return views


def _hang(
    build: SceneBuilder, draw: Materials, rng: Rng, room: tuple[float, float, float, float]
) -> None:
    """Hang pictures, and perhaps a door, on the far wall and the side walls."""
    left, right, length, height = room
    at = left + rng.uniform(0.3, 0.8)
    while at < right - 0.4:
        w, h = rng.uniform(0.15, 0.45), rng.uniform(0.15, 0.4)
        if rng.uniform() < 0.15:
            door = draw.wood()
            build.add(BOX, (at + 0.42, length, 1.02), (0.42, 0.04, 1.02), door)
            build.add(ELLIPSOID, (at + 0.76, length - 0.07, 1.0), (0.035, 0.035, 0.035), door)
            at += 1.1
            continue
        z = rng.uniform(1.3, max(1.4, min(height, 2.4) - h - 0.1))
        build.add(BOX, (at + w, length, z), (w, 0.03, h), draw.picture(w, h))
        at += 2 * w + rng.uniform(0.15, 1.0)
    for wall in (left, right):
        for y in np.arange(rng.uniform(1.0, 2.0), length - 0.5, rng.uniform(1.0, 2.0)):
            w, h = rng.uniform(0.2, 0.45), rng.uniform(0.2, 0.4)
            build.add(BOX, (wall, float(y), 1.55), (0.03, w, h), draw.picture(w, h))


def _place(
    build: SceneBuilder, draw: Materials, rng: Rng, room: tuple[float, float, float, float]
) -> None:
    """Place objects on the floor, in view and apart from each other."""
    left, right, length, _ = room
    taken: list[tuple[float, float, float]] = []
    if rng.uniform() < 0.6:
        y = rng.uniform(0.5, 0.8) * length
        size = (rng.uniform(0.6, 1.2), rng.uniform(0.5, 1.0), 0.012)
        build.add(BOX, (0.0, y, 0.005), size, draw.fabric(), turn=rng.uniform(-0.3, 0.3))
    for make, radius, at_wall in (THINGS[i] for i in rng.integers(len(THINGS), size=14)):
        y = length - radius if at_wall else rng.uniform(0.9, max(1.0, length - radius))
        reach = 0.75 * y + 0.2
        x = rng.uniform(max(left + radius, -reach), min(right - radius, reach))
        if y < 0.75 + radius or left + radius > right - radius:
            continue
        if any(math.hypot(x - a, y - b) < radius + c for a, b, c in taken):
            continue
        facing = rng.normal(0, 0.06) if at_wall else math.atan2(-x, y) + rng.normal(0, 0.5)
        make(Placer(build, x, y, facing), draw, rng)
        taken.append((x, y, radius))
        if len(taken) == 8:
            break
