"""A small ray-caster: boxes, ellipsoids and cylinders, textured, lit, and exact in depth.

World axes: x right, y forward, z up, metres. A ray's direction has length one *along the optical
axis*, so the parameter t at which it meets a surface is the z-depth itself: the distance along the
optical axis that a Kinect reports and a thin lens blurs by, not the length of the ray.

`render` takes several rays a pixel, `cast_depth` one through each pixel's centre. Rows are shared
among the cores and each pixel is computed on its own, without fastmath: the result does not depend
on the number of threads.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from hded.datasets.textures import Paint, albedo, detail

BOX, ROOM, ELLIPSOID, CYLINDER = range(4)
_SIDE = 3  # a "face" beside a box's axes 0, 1, 2: the curved side of an ellipsoid or a cylinder
_EPS = 1e-4


class Camera(NamedTuple):
    """A pinhole: position (3,), axes (3, 3) with rows right, down, forward; half-angle tangents."""

    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    tan_x: float
    tan_y: float


class Scene(NamedTuple):
    """What the compiled code reads; `SceneBuilder` makes it.

    kind (P,). shape (P, 16): centre, three axes (rows), half sizes, squared bounding radius.
    surface (P, 3): the paint of each axis' two faces, of which curved sides have the first.
    paint (M, 12). light (6, 3): lamp position or direction to the sun, its colour, ambient from
    above and below, the sky's colour at the horizon and overhead. lamp_m: edge of a square lamp;
    below 0, the light is the sun. haze_m: distance over which the air takes 1/e; 0 for none.
    """

    kind: NDArray[np.int64]
    shape: NDArray[np.float64]
    surface: NDArray[np.int64]
    paint: NDArray[np.float64]
    light: NDArray[np.float64]
    lamp_m: float
    haze_m: float


def camera(
    position: tuple[float, float, float], yaw: float, pitch: float, tan_x: float, tan_y: float
) -> Camera:
    """Look along +y, turned right by yaw and up by pitch [rad]."""
    forward = np.array(
        [math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch), math.sin(pitch)]
    )
    right = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
    axes = np.stack([right, np.cross(forward, right), forward])
    return Camera(np.array(position, np.float64), axes, tan_x, tan_y)


class SceneBuilder:
    """Collects primitives and paints; `build` packs them."""

    def __init__(self) -> None:
        self._kinds: list[int] = []
        self._shapes: list[NDArray[np.float64]] = []
        self._surfaces: list[tuple[int, int, int]] = []
        self._paints: list[NDArray[np.float64]] = []

    def paint(self, paint: Paint) -> int:
        """Register a material and give its number."""
        self._paints.append(paint.row())
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
        bound = np.inf if kind == ROOM else float(size @ size)
        row = np.concatenate([np.array(center), axes.ravel(), size, np.array([bound])])
        self._kinds.append(kind)
        self._shapes.append(row)
        self._surfaces.append(paint if isinstance(paint, tuple) else (paint, paint, paint))

    def build(self, light: NDArray[np.float64], *, lamp_m: float, haze_m: float) -> Scene:
        """Pack; see `Scene` for the arguments."""
        return Scene(
            np.array(self._kinds, np.int64),
            np.array(self._shapes, np.float64),
            np.array(self._surfaces, np.int64),
            np.array(self._paints, np.float64),
            np.ascontiguousarray(light, np.float64),
            float(lamp_m),
            float(haze_m),
        )


def render(scene: Scene, view: Camera, width: int, height: int, samples: int) -> NDArray:
    """Linear rgb, float32 (height, width, 3), >= 0; samples x samples rays a pixel."""
    out = np.empty((height, width, 3), np.float32)
    _render(scene, view, samples, out)
    return out


def cast_depth(scene: Scene, view: Camera, width: int, height: int) -> NDArray[np.float64]:
    """Z-depth [m] through the pixels' centres, (height, width); infinite where nothing is hit.

    The pixels share the camera's field of view and need not be square.
    """
    out = np.empty((height, width), np.float64)
    _cast(scene, view, out)
    return out


@numba.njit(cache=True)
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@numba.njit(cache=True)
def _along(a, t, b):
    return (a[0] + t * b[0], a[1] + t * b[1], a[2] + t * b[2])


@numba.njit(cache=True)
def _axis(shape, i, k):
    return (shape[i, 3 + 3 * k], shape[i, 4 + 3 * k], shape[i, 5 + 3 * k])


@numba.njit(cache=True)
def _local(shape, i, v):
    return (_dot(_axis(shape, i, 0), v), _dot(_axis(shape, i, 1), v), _dot(_axis(shape, i, 2), v))


@numba.njit(cache=True)
def _slabs(o, d, half):
    """Where a ray enters and leaves a box, and the axes of those faces."""
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
def _hit(scene, i, origin, d):
    """Meet primitive i -> (t, face), t infinite where the ray misses it."""
    shape = scene.shape
    to = (shape[i, 0] - origin[0], shape[i, 1] - origin[1], shape[i, 2] - origin[2])
    dd, along = _dot(d, d), _dot(to, d)
    # the ray passes the bounding sphere, or its origin is beyond it
    if _dot(to, to) - along * along / dd > shape[i, 15]:
        return np.inf, 0
    if along < 0 and _dot(to, to) > shape[i, 15]:
        return np.inf, 0
    kind = scene.kind[i]
    half = (shape[i, 12], shape[i, 13], shape[i, 14])
    o = _local(shape, i, (-to[0], -to[1], -to[2]))
    d = _local(shape, i, d)
    if kind == BOX or kind == ROOM:
        near, far, near_axis, far_axis = _slabs(o, d, half)
        if kind == ROOM:
            return (far, far_axis) if far > _EPS else (np.inf, 0)
        return (near, near_axis) if _EPS < near <= far else (np.inf, 0)
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
    if t > _EPS and (kind == ELLIPSOID or abs(o[2] + t * d[2]) <= 1):
        return t, _SIDE
    if kind == CYLINDER and abs(o[2]) > 1 and o[2] * d[2] < 0:
        t = (abs(o[2]) - 1) / abs(d[2])
        x, y = o[0] + t * d[0], o[1] + t * d[1]
        if t > _EPS and x * x + y * y <= 1:
            return t, 2
    return np.inf, 0


@numba.njit(cache=True)
def _trace(scene, origin, d):
    """Find the nearest hit -> (t, primitive, face)."""
    best, which, where = np.inf, -1, 0
    for i in range(scene.kind.shape[0]):
        t, face = _hit(scene, i, origin, d)
        if t < best:
            best, which, where = t, i, face
    return best, which, where


@numba.njit(cache=True)
def _shadowed(scene, origin, d, reach):
    for i in range(scene.kind.shape[0]):
        if scene.kind[i] != ROOM and _hit(scene, i, origin, d)[0] < reach:
            return True
    return False


@numba.njit(cache=True)
def _surface(scene, i, face, point):
    """Give the outward normal, texture coordinates [m] and their directions at a hit point."""
    shape = scene.shape
    centre = (shape[i, 0], shape[i, 1], shape[i, 2])
    p = _local(shape, i, _along(point, -1.0, centre))
    x, y, z = _axis(shape, i, 0), _axis(shape, i, 1), _axis(shape, i, 2)
    if face == 0:
        return x, p[1], p[2], y, z
    if face == 1:
        return y, p[0], p[2], x, z
    if face == 2:
        return z, p[0], p[1], x, y
    half = (shape[i, 12], shape[i, 13], shape[i, 14])
    n = (p[0] / half[0] ** 2, p[1] / half[1] ** 2, 0.0)
    if scene.kind[i] == ELLIPSOID:
        n = (n[0], n[1], p[2] / half[2] ** 2)
    size = math.sqrt(_dot(n, n))
    n = (n[0] / size, n[1] / size, n[2] / size)
    normal = (
        n[0] * x[0] + n[1] * y[0] + n[2] * z[0],
        n[0] * x[1] + n[1] * y[1] + n[2] * z[1],
        n[0] * x[2] + n[1] * y[2] + n[2] * z[2],
    )
    side = (n[0] * y[0] - n[1] * x[0], n[0] * y[1] - n[1] * x[1], n[0] * y[2] - n[1] * x[2])
    length = max(math.hypot(n[0], n[1]), 1e-6)
    side = (side[0] / length, side[1] / length, side[2] / length)
    if scene.kind[i] == CYLINDER:
        return normal, math.atan2(p[0], -p[1]) * half[0], p[2], side, z
    up = (
        normal[1] * side[2] - normal[2] * side[1],
        normal[2] * side[0] - normal[0] * side[2],
        normal[0] * side[1] - normal[1] * side[0],
    )
    # azimuthal equidistant about -y, which faces the camera: no seam in sight, little stretch
    angle = math.acos(min(1.0, max(-1.0, -n[1])))
    stretch = half[0] * angle / max(math.hypot(n[0], n[2]), 1e-6)
    return normal, stretch * n[0], stretch * n[2], side, up


@numba.njit(cache=True)
def _sky(scene, d):
    """Give the sky's colour in a direction: a gradient and clouds on a plane far up."""
    length = math.sqrt(_dot(d, d))
    up = max(d[2] / length, 0.0)
    high = max(up, 0.03)
    clouds = detail(d[0] / length / high, d[1] / length / high, 0.01 / high, 4.0, 5)
    cloud = min(1.0, max(0.0, 0.25 + 0.35 * clouds)) * min(1.0, 6 * up)
    mix = up**0.6
    r = scene.light[4, 0] * (1 - mix) + scene.light[5, 0] * mix
    g = scene.light[4, 1] * (1 - mix) + scene.light[5, 1] * mix
    b = scene.light[4, 2] * (1 - mix) + scene.light[5, 2] * mix
    return (r + cloud * (1.1 - r), g + cloud * (1.1 - g), b + cloud * (1.15 - b))


@numba.njit(cache=True)
def _color(scene, origin, d, right, down, lamp_x, lamp_y):
    """Linear colour along a ray; right and down are the steps of d from pixel to pixel."""
    t, i, face = _trace(scene, origin, d)
    if i < 0:
        return _sky(scene, d)
    point = _along(origin, t, d)
    normal, u, v, u_axis, v_axis = _surface(scene, i, face, point)
    facing = _dot(d, normal)
    if facing > 0:
        normal = (-normal[0], -normal[1], -normal[2])
        facing = -facing
    facing = min(facing, -0.02 * math.sqrt(_dot(d, d)))
    # the pixel's footprint on the tangent plane (ray differentials)
    step_x = _along(right, -_dot(right, normal) / facing, d)
    step_y = _along(down, -_dot(down, normal) / facing, d)
    fu = t * (abs(_dot(step_x, u_axis)) + abs(_dot(step_y, u_axis)))
    fv = t * (abs(_dot(step_x, v_axis)) + abs(_dot(step_y, v_axis)))
    paint = scene.paint[scene.surface[i, face if face < 3 else 0]]
    red, green, blue = albedo(paint, u, v, fu, fv)
    start = _along(point, 10 * _EPS, normal)
    light = scene.light
    lamp = (light[0, 0], light[0, 1], light[0, 2])
    if scene.lamp_m < 0:
        strength = max(0.0, _dot(normal, lamp))
        if strength > 0 and _shadowed(scene, start, lamp, np.inf):
            strength = 0.0
    else:
        lamp = (lamp[0] + lamp_x - start[0], lamp[1] + lamp_y - start[1], lamp[2] - start[2])
        square = _dot(lamp, lamp)
        strength = max(0.0, _dot(normal, lamp)) / math.sqrt(square) * 6 / (3 + square)
        if strength > 0 and _shadowed(scene, start, lamp, 1.0):
            strength = 0.0
    above = 0.5 + 0.5 * normal[2]
    # corners and feet of things get less light
    near = 1 - 0.35 * math.exp(-max(point[2], 0.0) / 0.15) * (1 - abs(normal[2]))
    air = math.exp(-t / scene.haze_m) if scene.haze_m > 0 else 1.0
    sr = near * (light[3, 0] + above * (light[2, 0] - light[3, 0])) + strength * light[1, 0]
    sg = near * (light[3, 1] + above * (light[2, 1] - light[3, 1])) + strength * light[1, 1]
    sb = near * (light[3, 2] + above * (light[2, 2] - light[3, 2])) + strength * light[1, 2]
    return (
        air * red * sr + (1 - air) * light[4, 0],
        air * green * sg + (1 - air) * light[4, 1],
        air * blue * sb + (1 - air) * light[4, 2],
    )


@numba.njit(cache=True)
def _direction(view, x, y):
    """The ray through (x, y) in -1..1, with length one along the optical axis."""
    a, x, y = view.axes, x * view.tan_x, y * view.tan_y
    return (
        a[2, 0] + x * a[0, 0] + y * a[1, 0],
        a[2, 1] + x * a[0, 1] + y * a[1, 1],
        a[2, 2] + x * a[0, 2] + y * a[1, 2],
    )


@numba.njit(cache=True, parallel=True)
def _render(scene, view, samples, out):
    height, width = out.shape[0], out.shape[1]
    origin = (view.position[0], view.position[1], view.position[2])
    a = view.axes
    sx, sy = 2 * view.tan_x / width, 2 * view.tan_y / height
    right = (sx * a[0, 0], sx * a[0, 1], sx * a[0, 2])
    down = (sy * a[1, 0], sy * a[1, 1], sy * a[1, 2])
    share = 1.0 / (samples * samples)
    for row in numba.prange(height):
        for column in range(width):
            red, green, blue = 0.0, 0.0, 0.0
            for j in range(samples):
                for i in range(samples):
                    fx, fy = (i + 0.5) / samples, (j + 0.5) / samples
                    d = _direction(view, 2 * (column + fx) / width - 1, 2 * (row + fy) / height - 1)
                    # each sample sees its own part of the lamp: soft shadows
                    r, g, b = _color(
                        scene, origin, d, right, down,
                        (fx - 0.5) * scene.lamp_m, (fy - 0.5) * scene.lamp_m,
                    )  # fmt: skip
                    red += r
                    green += g
                    blue += b
            out[row, column, 0] = share * red
            out[row, column, 1] = share * green
            out[row, column, 2] = share * blue


@numba.njit(cache=True, parallel=True)
def _cast(scene, view, out):
    height, width = out.shape
    origin = (view.position[0], view.position[1], view.position[2])
    for row in numba.prange(height):
        for column in range(width):
            d = _direction(view, (2 * column + 1) / width - 1, (2 * row + 1) / height - 1)
            out[row, column] = _trace(scene, origin, d)[0]
