"""A small ray caster with exact depth: textured, lit boxes, ellipsoids and cylinders.

World axes: x right, y forward, z up, metres. A ray's direction has unit length along the optical
axis, so the parameter t of a hit is the z-depth: the distance along the optical axis, as a Kinect
reports it and a thin lens needs it, not the length of the ray.

`cast_depth` casts one ray through each pixel's centre; `hded.sample.shading` adds colours. Both
work in tiles and first list, by bounding spheres, the primitives that a tile's rays may hit. Pixels
are independent and there is no fastmath, so the result does not depend on the number of threads.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from hded.sample.textures import Color, Paint

BOX, ROOM, ELLIPSOID, CYLINDER = range(4)
SIDE = 3  # face index of a curved side; 0, 1, 2 are faces across a primitive's axes
EPS = 1e-4
TILE = 16  # px


class Camera(NamedTuple):
    """A pinhole camera: position (3,), axes (3, 3) with rows right, down, forward.

    tan_x, tan_y: tangents of half the field of view.
    """

    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    tan_x: float
    tan_y: float


class Scene(NamedTuple):
    """A scene as the compiled code reads it, built by `SceneBuilder`.

    It has few arrays, because each argument of a compiled function costs time. primitives (P, 20):
    centre, three axes (rows), half sizes, bounding radius, kind, and the material of each axis's
    two faces; curved sides have the first one. paints (M, 12): materials. light (7, 3): lamp
    position or direction to the sun, its colour, ambient light from above and from below, the sky's
    colour at the horizon and at the zenith; the last row has the edge of the square lamp [m]
    (negative for the sun), the haze's 1/e distance [m] (0 for none), and the clouds' seed.
    """

    primitives: NDArray[np.float64]
    paints: NDArray[np.float64]
    light: NDArray[np.float64]


def camera(
    position: tuple[float, float, float], yaw: float, pitch: float, tan_x: float, tan_y: float
) -> Camera:
    """Return a camera that looks along +y, turned right by yaw and up by pitch [rad]."""
    forward = np.array(
        [math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch), math.sin(pitch)]
    )
    right = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
    axes = np.stack([right, np.cross(forward, right), forward])
    return Camera(np.array(position, np.float64), axes, tan_x, tan_y)


class SceneBuilder:
    """A scene under construction: primitives and materials."""

    def __init__(self) -> None:
        self._primitives: list[NDArray[np.float64]] = []
        self._paints: list[NDArray[np.float64]] = []

    def paint(
        self, pattern: int, first: Color, second: Color, size_m: float, seed: int, **rest: float
    ) -> int:
        """Register a `Paint` and return its number."""
        self._paints.append(Paint(pattern, first, second, size_m, seed, **rest).row())
        return len(self._paints) - 1

    def add(
        self,
        kind: int,
        center: tuple[float, float, float],
        half: tuple[float, float, float],
        paint: int | tuple[int, int, int],
        *,
        turn: float = 0.0,
        tilt: float = 0.0,
    ) -> None:
        """Add a primitive, tilted back about its x axis, then turned about z [rad].

        half: half sizes along its own axes. A cylinder stands along its z axis; the seam of its
        texture is on its +y side, and so is an ellipsoid's.
        """
        c, s = math.cos(turn), math.sin(turn)
        about_z = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        c, s = math.cos(tilt), math.sin(tilt)
        about_x = np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
        axes = about_x @ about_z
        size = np.array(half, np.float64)
        bound = np.inf if kind == ROOM else math.sqrt(size @ size)
        faces = paint if isinstance(paint, tuple) else (paint, paint, paint)
        row = np.array([*center, *axes.ravel(), *half, bound, kind, *faces], np.float64)
        self._primitives.append(row)

    def build(
        self, light: NDArray[np.float64], *, lamp_m: float, haze_m: float = 0.0, clouds: int = 0
    ) -> Scene:
        """Return the scene, with the first six rows of `Scene.light`."""
        rows = np.vstack([light, [[lamp_m, haze_m, clouds]]])
        return Scene(np.array(self._primitives), np.array(self._paints), rows)


class Placer:
    """An object's own coordinates: origin (x, y, z), its front (-y) turned by `turn`."""

    def __init__(self, builder: SceneBuilder, x: float, y: float, turn: float, z: float = 0.0):
        self._builder, self._x, self._y, self._turn, self._z = builder, x, y, turn, z

    def add(
        self,
        kind: int,
        center: tuple[float, float, float],
        half: tuple[float, float, float],
        paint: int | tuple[int, int, int],
        *,
        turn: float = 0.0,
        tilt: float = 0.0,
    ) -> None:
        """Add one primitive as `SceneBuilder.add` does, in the object's coordinates."""
        c, s = math.cos(self._turn), math.sin(self._turn)
        x, y, z = center
        world = (self._x + c * x - s * y, self._y + s * x + c * y, self._z + z)
        self._builder.add(kind, world, half, paint, turn=self._turn + turn, tilt=tilt)


def cast_depth(scene: Scene, view: Camera, width: int, height: int) -> NDArray[np.float64]:
    """Return z-depth [m] at the pixels' centres, (height, width), infinite where nothing is hit.

    The pixels share the camera's field of view and need not be square.
    """
    out = np.empty((height, width), np.float64)
    _cast(scene.primitives, view, out)
    return out


@numba.njit(cache=True)
def dot(a, b):
    """Return the scalar product of two vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@numba.njit(cache=True)
def advance(a, t, b):
    """Return a + t b."""
    return (a[0] + t * b[0], a[1] + t * b[1], a[2] + t * b[2])


@numba.njit(cache=True)
def axis(prims, i, k):
    """Return a primitive's axis k in world coordinates."""
    return (prims[i, 3 + 3 * k], prims[i, 4 + 3 * k], prims[i, 5 + 3 * k])


@numba.njit(cache=True)
def local(prims, i, v):
    """Return a vector of the world in a primitive's own axes."""
    return (dot(axis(prims, i, 0), v), dot(axis(prims, i, 1), v), dot(axis(prims, i, 2), v))


@numba.njit(cache=True)
def _slabs(o, d, half):
    """Return where a ray enters and leaves a box, and the axes of those faces."""
    near, far, near_axis, far_axis = -np.inf, np.inf, 0, 0
    for k in range(3):
        step = d[k] if abs(d[k]) > 1e-12 else 1e-12
        middle, reach = -o[k] / step, half[k] / abs(step)
        if middle - reach > near:
            near, near_axis = middle - reach, k
        if middle + reach < far:
            far, far_axis = middle + reach, k
    return near, far, near_axis, far_axis


@numba.njit(cache=True)
def _hit(prims, i, origin, d):
    """Intersect primitive i -> (t, face), t infinite where the ray misses it."""
    to = (prims[i, 0] - origin[0], prims[i, 1] - origin[1], prims[i, 2] - origin[2])
    ahead = dot(to, d)
    outside = dot(to, to) - prims[i, 15] * prims[i, 15]
    # the ray passes the bounding sphere, or points away from it
    if outside > 0 and (ahead < 0 or outside * dot(d, d) > ahead * ahead):
        return np.inf, 0
    kind = int(prims[i, 16])
    half = (prims[i, 12], prims[i, 13], prims[i, 14])
    o = local(prims, i, (-to[0], -to[1], -to[2]))
    d = local(prims, i, d)
    if kind == BOX or kind == ROOM:
        near, far, near_axis, far_axis = _slabs(o, d, half)
        if kind == ROOM:
            return (far, far_axis) if far > EPS else (np.inf, 0)
        return (near, near_axis) if EPS < near <= far else (np.inf, 0)
    o = (o[0] / half[0], o[1] / half[1], o[2] / half[2])
    d = (d[0] / half[0], d[1] / half[1], d[2] / half[2])
    upright = 0.0 if kind == CYLINDER else 1.0
    a = d[0] * d[0] + d[1] * d[1] + upright * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + upright * o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + upright * o[2] * o[2] - 1
    root = b * b - a * c
    if root < 0:
        return np.inf, 0
    t = (-b - math.sqrt(root)) / max(a, 1e-12)
    if t > EPS and (kind == ELLIPSOID or abs(o[2] + t * d[2]) <= 1):
        return t, SIDE
    if kind == CYLINDER and abs(o[2]) > 1 and o[2] * d[2] < 0:
        t = (abs(o[2]) - 1) / abs(d[2])
        x, y = o[0] + t * d[0], o[1] + t * d[1]
        if t > EPS and x * x + y * y <= 1:
            return t, 2
    return np.inf, 0


@numba.njit(cache=True)
def trace(prims, among, count, origin, d):
    """Return (t, primitive, face) of the nearest hit with the first `count` of `among`."""
    best, which, where = np.inf, -1, 0
    for k in range(count):
        t, face = _hit(prims, among[k], origin, d)
        if t < best:
            best, which, where = t, among[k], face
    return best, which, where


@numba.njit(cache=True)
def shadowed(prims, among, count, origin, d, reach):
    """Return whether the ray hits one of `among` at t below `reach`."""
    for k in range(count):
        if _hit(prims, among[k], origin, d)[0] < reach:
            return True
    return False


@numba.njit(cache=True)
def direction(view, x, y):
    """Return the ray through (x, y) in -1..1, of length 1 along the optical axis."""
    a, x, y = view.axes, x * view.tan_x, y * view.tan_y
    return (
        a[2, 0] + x * a[0, 0] + y * a[1, 0],
        a[2, 1] + x * a[0, 1] + y * a[1, 1],
        a[2, 2] + x * a[0, 2] + y * a[1, 2],
    )


@numba.njit(cache=True)
def in_sight(prims, view, x0, x1, y0, y1, among):
    """Fill `among` with the primitives that an image window (in -1..1) may show; return how many.

    The test is conservative: it uses bounding spheres.
    """
    d = direction(view, (x0 + x1) / 2, (y0 + y1) / 2)
    size = math.sqrt(dot(d, d))
    d = (d[0] / size, d[1] / size, d[2] / size)
    cos = 1.0
    for x in (x0, x1):
        for y in (y0, y1):
            corner = direction(view, x, y)
            cos = min(cos, dot(corner, d) / math.sqrt(dot(corner, corner)))
    tan = math.sqrt(1 - min(cos * cos, 1.0)) / cos
    count = 0
    for i in range(prims.shape[0]):
        eye = (view.position[0], view.position[1], view.position[2])
        to = advance((prims[i, 0], prims[i, 1], prims[i, 2]), -1.0, eye)
        ahead, radius = dot(to, d), prims[i, 15]
        aside = math.sqrt(max(dot(to, to) - ahead * ahead, 0.0))
        # does the bounding sphere touch the cone around the window?
        if ahead > -radius and aside <= max(ahead, 0.0) * tan + radius / cos + EPS:
            among[count] = i
            count += 1
    return count


@numba.njit(cache=True)
def _cast(prims, view, out):
    height, width = out.shape
    eye = (view.position[0], view.position[1], view.position[2])
    among = np.empty(prims.shape[0], np.int64)
    for y0 in range(0, height, TILE):
        for x0 in range(0, width, TILE):
            y1, x1 = min(y0 + TILE, height), min(x0 + TILE, width)
            count = in_sight(
                prims, view, 2 * x0 / width - 1, 2 * x1 / width - 1,
                2 * y0 / height - 1, 2 * y1 / height - 1, among,
            )  # fmt: skip
            for y in range(y0, y1):
                for x in range(x0, x1):
                    d = direction(view, (2 * x + 1) / width - 1, (2 * y + 1) / height - 1)
                    out[y, x] = trace(prims, among, count, eye, d)[0]
