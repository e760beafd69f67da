"""Shading of the embedded sample's scenes: textures, one light with shadows, sky and haze.

Lambertian reflection under one square lamp or the sun, with ambient light from above and below that
is weaker near the floor. Values are linear; `hded.sample.write` exposes and encodes them.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from hded.sample.raycast import (
    CYLINDER,
    ELLIPSOID,
    EPS,
    ROOM,
    SIDE,
    TILE,
    Camera,
    Scene,
    advance,
    axis,
    direction,
    dot,
    in_sight,
    local,
    shadowed,
    trace,
)
from hded.sample.textures import albedo, detail


def render(
    scene: Scene, view: Camera, width: int, height: int, samples: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return linear rgb (height, width, 3), >= 0, and the z-depth [m] at the pixels' centres.

    A pixel whose neighbours show the same face needs one ray, because textures are filtered; a
    pixel at an edge gets samples x samples rays. A lamp is sampled at samples x samples points.
    """
    rgb = np.empty((height, width, 3), np.float32)
    depth = np.empty((height, width), np.float64)
    _render(*scene, view, samples, rgb, depth)
    return rgb, depth


@numba.njit(cache=True)
def _surface(prims, i, face, point):
    """Return the outward normal, texture coordinates [m] and their directions at a hit point."""
    centre = (prims[i, 0], prims[i, 1], prims[i, 2])
    p = local(prims, i, advance(point, -1.0, centre))
    x, y, z = axis(prims, i, 0), axis(prims, i, 1), axis(prims, i, 2)
    if face == 0:
        return x, p[1], p[2], y, z
    if face == 1:
        return y, p[0], p[2], x, z
    if face == 2:
        return z, p[0], p[1], x, y
    half = (prims[i, 12], prims[i, 13], prims[i, 14])
    n = (p[0] / half[0] ** 2, p[1] / half[1] ** 2, 0.0)
    if prims[i, 16] == ELLIPSOID:
        n = (n[0], n[1], p[2] / half[2] ** 2)
    size = math.sqrt(dot(n, n))
    n = (n[0] / size, n[1] / size, n[2] / size)
    normal = (
        n[0] * x[0] + n[1] * y[0] + n[2] * z[0],
        n[0] * x[1] + n[1] * y[1] + n[2] * z[1],
        n[0] * x[2] + n[1] * y[2] + n[2] * z[2],
    )
    side = (n[0] * y[0] - n[1] * x[0], n[0] * y[1] - n[1] * x[1], n[0] * y[2] - n[1] * x[2])
    length = max(math.hypot(n[0], n[1]), 1e-6)
    side = (side[0] / length, side[1] / length, side[2] / length)
    if prims[i, 16] == CYLINDER:
        return normal, math.atan2(p[0], -p[1]) * half[0], p[2], side, z
    up = (
        normal[1] * side[2] - normal[2] * side[1],
        normal[2] * side[0] - normal[0] * side[2],
        normal[0] * side[1] - normal[1] * side[0],
    )
    # azimuthal equidistant projection about -y, which faces the camera: no visible seam
    angle = math.acos(min(1.0, max(-1.0, -n[1])))
    stretch = half[0] * angle / max(math.hypot(n[0], n[2]), 1e-6)
    return normal, stretch * n[0], stretch * n[2], side, up


@numba.njit(cache=True)
def _sky(light, d):
    """Return the sky's colour in a direction: a gradient, and clouds on a plane at a height."""
    length = math.sqrt(dot(d, d))
    up = max(d[2] / length, 0.0)
    high = max(up, 0.03)
    clouds = detail(d[0] / length / high, d[1] / length / high, 0.01 / high, 4.0, int(light[6, 2]))
    cloud = min(1.0, max(0.0, 0.25 + 0.35 * clouds)) * min(1.0, 6 * up)
    mix = up**0.6
    r = light[4, 0] * (1 - mix) + light[5, 0] * mix
    g = light[4, 1] * (1 - mix) + light[5, 1] * mix
    b = light[4, 2] * (1 - mix) + light[5, 2] * mix
    return (r + cloud * (1.1 - r), g + cloud * (1.1 - g), b + cloud * (1.15 - b))


@numba.njit(cache=True)
def _towards_light(light, start, lamp_x, lamp_y):
    """Return the direction to the lamp's point or the sun, and the distance that casts shadow."""
    if light[6, 0] < 0:
        return (light[0, 0], light[0, 1], light[0, 2]), np.inf
    lamp = (light[0, 0] + lamp_x, light[0, 1] + lamp_y, light[0, 2])
    return advance(lamp, -1.0, start), 1.0


@numba.njit(cache=True)
def _in_the_way(prims, light, low, high, among):
    """Fill `among` with the primitives that may cast shadows into a box; return how many."""
    middle = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
    d, reach = _towards_light(light, middle, 0.0, 0.0)
    width = math.sqrt((high[0] - low[0]) ** 2 + (high[1] - low[1]) ** 2 + (high[2] - low[2]) ** 2)
    width = max(width / 2, light[6, 0]) + 20 * EPS
    square = dot(d, d)
    count = 0
    for i in range(prims.shape[0]):
        if prims[i, 16] == ROOM:
            continue
        centre = (prims[i, 0], prims[i, 1], prims[i, 2])
        to = advance(centre, -1.0, middle)
        along = min(max(dot(to, d) / square, 0.0), reach)
        gap = advance(to, -along, d)
        # does the bounding sphere touch the bundle of rays from the box to the light?
        if math.sqrt(dot(gap, gap)) <= width + prims[i, 15]:
            among[count] = i
            count += 1
    return count


@numba.njit(cache=True)
def _facing(normal, d):
    """Return the normal that points towards the viewer."""
    if dot(d, normal) > 0:
        return (-normal[0], -normal[1], -normal[2])
    return normal


@numba.njit(cache=True)
def _light(prims, light, among, count, start, normal, k, lamps):
    """Return the irradiance of the k-th of the lamp's lamps x lamps points, or of the sun."""
    lamp_x = ((k % lamps + 0.5) / lamps - 0.5) * light[6, 0]
    lamp_y = ((k // lamps + 0.5) / lamps - 0.5) * light[6, 0]
    way, reach = _towards_light(light, start, lamp_x, lamp_y)
    facing = dot(normal, way)
    if facing <= 0 or shadowed(prims, among, count, start, way, reach):
        return 0.0
    square = dot(way, way)
    fall = 6 / (3 + square) if light[6, 0] >= 0 else 1.0
    return facing / math.sqrt(square) * fall


@numba.njit(cache=True)
def _shade(prims, paints, light, among, count, origin, d, hit, step_x, step_y, lamps):
    """Return the colour at a hit: texture, light from lamps x lamps points, and haze.

    step_x, step_y: change of the direction d to the next pixel.
    """
    t, i, face = hit
    if i < 0:
        return _sky(light, d)
    point = advance(origin, t, d)
    normal, u, v, u_axis, v_axis = _surface(prims, i, face, point)
    normal = _facing(normal, d)
    # the pixel's footprint on the tangent plane (ray differentials)
    slope = min(dot(d, normal), -0.02 * math.sqrt(dot(d, d)))
    along_x = advance(step_x, -dot(step_x, normal) / slope, d)
    along_y = advance(step_y, -dot(step_y, normal) / slope, d)
    fu = t * (abs(dot(along_x, u_axis)) + abs(dot(along_y, u_axis)))
    fv = t * (abs(dot(along_x, v_axis)) + abs(dot(along_y, v_axis)))
    paint = int(prims[i, 17 + (face if face < SIDE else 0)])
    red, green, blue = albedo(paints, paint, u, v, fu, fv)
    start = advance(point, 10 * EPS, normal)
    parts = lamps * lamps
    strength = _light(prims, light, among, count, start, normal, 0, lamps)
    if lamps > 1:
        last = _light(prims, light, among, count, start, normal, parts - 1, lamps)
        if (strength > 0) == (last > 0):
            strength = (strength + last) / 2
        else:  # penumbra: sample the other points of the lamp, too
            strength += last
            for k in range(1, parts - 1):
                strength += _light(prims, light, among, count, start, normal, k, lamps)
            strength /= parts
    above = 0.5 + 0.5 * normal[2]
    # less ambient light near the floor
    near = 1 - 0.35 * math.exp(-max(point[2], 0.0) / 0.15) * (1 - abs(normal[2]))
    sr = near * (light[3, 0] + above * (light[2, 0] - light[3, 0])) + strength * light[1, 0]
    sg = near * (light[3, 1] + above * (light[2, 1] - light[3, 1])) + strength * light[1, 1]
    sb = near * (light[3, 2] + above * (light[2, 2] - light[3, 2])) + strength * light[1, 2]
    air = math.exp(-t / light[6, 1]) if light[6, 1] > 0 else 1.0
    return (
        air * red * sr + (1 - air) * light[4, 0],
        air * green * sg + (1 - air) * light[4, 1],
        air * blue * sb + (1 - air) * light[4, 2],
    )


@numba.njit(cache=True)
def _one_face(owner, j, i):
    here = owner[j, i]
    across = owner[j, i - 1] == here and owner[j, i + 1] == here
    return across and owner[j - 1, i] == here and owner[j + 1, i] == here


@numba.njit(cache=True)
def _sample(view, x, y, px, py, k, fine):
    """Return the ray through the k-th of a pixel's fine x fine samples."""
    x += (k % fine + 0.5) / fine
    y += (k // fine + 0.5) / fine
    return direction(view, x * px - 1, y * py - 1)


@numba.njit(cache=True)
def _share(faces, k, count):
    """Return the share of samples on the face of sample k; 0 if an earlier sample has that face."""
    same = 0
    for m in range(count):
        if faces[m] == faces[k]:
            if m < k:
                return 0.0
            same += 1
    return same / count


@numba.njit(cache=True)
def _look(prims, view, among, count, px, py, x0, y0, near, owner):
    """Fill near (z-depth) and owner (4 primitive + face) from (x0, y0) on.

    Returns the corners of the bounding box of all hit points.
    """
    eye = (view.position[0], view.position[1], view.position[2])
    low, high = (np.inf, np.inf, np.inf), (-np.inf, -np.inf, -np.inf)
    for j in range(near.shape[0]):
        for i in range(near.shape[1]):
            d = direction(view, (x0 + i + 0.5) * px - 1, (y0 + j + 0.5) * py - 1)
            t, which, face = trace(prims, among, count, eye, d)
            near[j, i], owner[j, i] = t, 4 * which + face
            if which >= 0:
                p = advance(eye, t, d)
                low = (min(low[0], p[0]), min(low[1], p[1]), min(low[2], p[2]))
                high = (max(high[0], p[0]), max(high[1], p[1]), max(high[2], p[2]))
    return low, high


@numba.njit(cache=True)
def _band(prims, paints, light, view, samples, y0, rgb, depth):
    """Render the tiles whose first row is y0."""
    height, width = depth.shape
    eye = (view.position[0], view.position[1], view.position[2])
    a, px, py = view.axes, 2 / width, 2 / height
    wide, tall = px * view.tan_x, py * view.tan_y
    step_x = (wide * a[0, 0], wide * a[0, 1], wide * a[0, 2])
    step_y = (tall * a[1, 0], tall * a[1, 1], tall * a[1, 2])
    lamps = samples if light[6, 0] >= 0 else 1  # the sun is a point
    seen = np.empty(prims.shape[0], np.int64)  # primitives that the tile's rays may hit
    shading = np.empty(prims.shape[0], np.int64)  # primitives that may cast shadows into it
    near = np.empty((TILE + 2, TILE + 2))  # the tile with a margin of one pixel
    owner = np.empty((TILE + 2, TILE + 2), np.int64)
    t, faces = np.empty(samples * samples), np.empty(samples * samples, np.int64)
    for x0 in range(0, width, TILE):
        count = in_sight(
            prims, view, (x0 - 1) * px - 1, (x0 + TILE + 1) * px - 1,
            (y0 - 1) * py - 1, (y0 + TILE + 1) * py - 1, seen,
        )  # fmt: skip
        low, high = _look(prims, view, seen, count, px, py, x0 - 1, y0 - 1, near, owner)
        shades = _in_the_way(prims, light, low, high, shading) if low[0] <= high[0] else 0
        for y in range(y0, min(y0 + TILE, height)):
            for x in range(x0, min(x0 + TILE, width)):
                j, i = y - y0 + 1, x - x0 + 1
                depth[y, x] = near[j, i]
                t[0], faces[0] = near[j, i], owner[j, i]
                fine = 1 if _one_face(owner, j, i) else samples
                for k in range(fine * fine if fine > 1 else 0):
                    d = _sample(view, x, y, px, py, k, fine)
                    t[k], which, face = trace(prims, seen, count, eye, d)
                    faces[k] = 4 * which + face
                color = (0.0, 0.0, 0.0)
                for k in range(fine * fine):
                    share = _share(faces, k, fine * fine)
                    if share > 0:
                        d = _sample(view, x, y, px, py, k, fine)
                        hit = (t[k], faces[k] // 4, faces[k] % 4)
                        one = _shade(
                            prims, paints, light, shading, shades, eye, d, hit,
                            step_x, step_y, lamps,
                        )  # fmt: skip
                        color = advance(color, share, one)
                rgb[y, x, 0], rgb[y, x, 1], rgb[y, x, 2] = color


# a separate function, because numba's `parallel` takes seconds to compile a long one
@numba.njit(cache=True, parallel=True)
def _render(prims, paints, light, view, samples, rgb, depth):
    for band in numba.prange((depth.shape[0] + TILE - 1) // TILE):
        _band(prims, paints, light, view, samples, band * TILE, rgb, depth)
