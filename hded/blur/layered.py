"""A blur that respects occlusion: light spreads from each pixel, nearer layers cover farther ones.

A gather averages all neighbours whatever their depth, so colours bleed over depth edges: a sharp
object leaks into the blurred background, and a blurred object keeps a hard outline. This renderer
follows SYNDOF (Lee et al. 2019), which composites 200 to 350 depth layers back to front:

- each pixel scatters its light with a Gaussian of its own sigma, normalised to energy 1;
- every pixel belongs to one depth layer; the layers are uniform in signed CoC;
- the background that a blurred pixel hides is inpainted: a second pixel behind it gets the mean
  colour of the farther pixels within its support, weighted towards the closest;
- layers are composited by coverage: a layer is visible as far as nearer layers leave it uncovered.

SYNDOF composites every layer over all farther ones. On a slanted surface, neighbouring layers then
cover each other although they lie side by side, which biases the blur towards the nearer depth.
Here a layer covers only layers whose CoC differs by more than a quarter, and only within reach of a
CoC discontinuity; elsewhere layers belong to one surface and their light is added. Surfaces of
almost equal CoC need no order, because compositing and adding them look the same.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_cdt, maximum_filter

from hded.blur.support import border_indices, check_image, radii_px
from hded.common.errors import HDEDError

LAYERS = 256
GAP = 0.25  # relative to the larger |CoC|; a smaller difference belongs to one surface
JUMP_PX = 1.0  # CoC difference of neighbouring pixels at an edge; steeper than any floor


def layered_blur(rgb: NDArray, coc_px: NDArray, sigma_px: NDArray) -> NDArray[np.float32]:
    """Blur rgb (H, W, 3), uint8 or floats in [0, 1], layer by layer -> float32 in [0, 1].

    coc_px: (H, W), signed, negative nearer than the focus distance, so that it orders pixels by
    depth; sigma_px: (H, W). Equals the gather where the CoC is constant.
    Raises HDEDError for shapes or dtypes that do not fit, and for NaN or infinite values.
    """
    rgb, sigma = check_image(rgb, sigma_px, 0)
    coc = np.asarray(coc_px, np.float32)
    if coc.shape != sigma.shape or not np.isfinite(coc).all():
        raise HDEDError(
            f"blur: coc has shape {coc.shape}, the image {sigma.shape}; coc must have the image's "
            "shape and finite values"
        )
    image = rgb.astype(np.float32) * np.float32(1 / 255 if rgb.dtype == np.uint8 else 1)
    radius = radii_px(sigma)
    pad = int(radius.max())
    layer, first_open = _layers(coc)
    to_edge = _distance_to_edge(coc)
    hidden, behind = np.zeros_like(image), np.full(sigma.shape, -1)
    _fill_hidden(image, coc, np.where(to_edge <= radius, radius, 0), hidden, behind)
    has_hidden = behind >= 0
    hidden_layer = np.where(has_hidden, layer.ravel()[behind], -1)
    hidden_radius = np.where(has_hidden, radius.ravel()[behind], -1)
    hidden_sigma = sigma.ravel()[behind]
    rows, columns = (border_indices(n, 0, pad) for n in sigma.shape)
    window = rows[:, None], columns
    # the distance from which light may reach a pixel
    reach = maximum_filter(np.maximum(radius, hidden_radius), 2 * pad + 1)
    out = np.empty_like(image)
    _compose(
        image[window],
        layer[window],
        radius[window],
        _weights(sigma[window], radius[window], pad),
        hidden[window],
        hidden_layer[window],
        hidden_radius[window],
        _weights(hidden_sigma[window], hidden_radius[window], pad),
        first_open,
        reach,
        # a hidden pixel lies up to one radius behind the edge, and its light spreads one radius
        to_edge <= 2 * reach,
        pad,
        out,
    )
    return out


def _layers(coc: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each pixel's layer, nearest first, and the number of layers that cover each layer."""
    nearest, farthest = float(coc.min()), float(coc.max())
    step = max((farthest - nearest) / LAYERS, 1e-6)
    layer = np.minimum((coc - nearest) / step, LAYERS - 1).astype(np.int64)
    middle = nearest + step * (np.arange(LAYERS) + 0.5)
    difference = middle[None, :] - middle[:, None]  # [nearer, farther]
    covers = difference > GAP * np.maximum(np.abs(middle[None, :]), np.abs(middle[:, None]))
    return layer, covers.sum(0)


def _distance_to_edge(coc: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the chessboard distance [px] to the nearest discontinuity of the CoC."""
    edge = np.zeros(coc.shape, bool)
    down, across = _jumps(coc[:-1], coc[1:]), _jumps(coc[:, :-1], coc[:, 1:])
    edge[:-1] |= down
    edge[1:] |= down
    edge[:, :-1] |= across
    edge[:, 1:] |= across
    if not edge.any():
        return np.full(coc.shape, np.iinfo(np.int64).max)
    return np.asarray(distance_transform_cdt(~edge, "chessboard"), np.int64)


def _jumps(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.bool_]:
    limit = np.maximum(JUMP_PX, GAP * np.maximum(np.abs(before), np.abs(after)))
    return np.abs(after - before) > limit


@numba.njit(parallel=True, cache=True)
def _fill_hidden(image, coc, radius, hidden, behind):
    """Fill in what blurred pixels hide: its colour, and the index of its nearest visible pixel.

    image, hidden: (H, W, 3); the others: (H, W). The colour is the mean of the pixels within
    `radius` that the pixel covers, weighted by their inverse squared distance; `behind` is the flat
    index of the closest of them.
    """
    height, width = coc.shape
    for y in numba.prange(height):
        for x in range(width):
            r, near = radius[y, x], coc[y, x]
            if r == 0:
                continue
            total, closest = 0.0, (r + 1) ** 2 * 2
            red, green, blue = 0.0, 0.0, 0.0
            for j in range(max(0, y - r), min(height, y + r + 1)):
                for i in range(max(0, x - r), min(width, x + r + 1)):
                    far = coc[j, i]
                    if far - near > GAP * max(abs(near), abs(far)):
                        distance = (j - y) ** 2 + (i - x) ** 2
                        w = 1.0 / distance
                        total += w
                        red += w * image[j, i, 0]
                        green += w * image[j, i, 1]
                        blue += w * image[j, i, 2]
                        if distance < closest:
                            closest = distance
                            behind[y, x] = j * width + i
            if total > 0:
                hidden[y, x, 0] = red / total
                hidden[y, x, 1] = green / total
                hidden[y, x, 2] = blue / total


@numba.njit(parallel=True, cache=True)
def _weights(sigma, radius, pad):
    """Return weights (H, W, pad + 1) by distance along one axis; both sides together sum to 1."""
    height, width = sigma.shape
    table = np.zeros((height, width, pad + 1), np.float32)
    for y in numba.prange(height):
        for x in range(width):
            r = radius[y, x]
            if r < 0:
                continue
            table[y, x, 0] = 1
            if r == 0:
                continue
            k = -0.5 / np.float64(sigma[y, x]) ** 2
            total = 1.0
            for d in range(1, r + 1):
                w = math.exp(k * d * d)
                table[y, x, d] = w
                total += 2 * w
            for d in range(r + 1):
                table[y, x, d] /= total
    return table


@numba.njit(parallel=True, cache=True)
def _compose(
    image, layer, radius, weight, hidden, hidden_layer, hidden_radius, hidden_weight,
    first_open, reach, near_edge, pad, out,
):  # fmt: skip
    """Fill `out` (H, W, 3): gather the light of each layer, then compose it, nearest layer first.

    first_open (LAYERS,): how many of the nearest layers cover each layer. reach (H, W): the largest
    distance from which light arrives. near_edge (H, W): whether layers cover each other there. All
    others are padded by `pad` on every side.
    """
    height, width = reach.shape
    for y in numba.prange(height):
        light = np.zeros((LAYERS, 4), np.float32)  # colour and coverage
        for x in range(width):
            r = reach[y, x]
            low, high = LAYERS, -1
            for dy in range(-r, r + 1):
                j, ady = y + pad + dy, abs(dy)
                for dx in range(-r, r + 1):
                    i, adx = x + pad + dx, abs(dx)
                    distance = max(ady, adx)
                    if radius[j, i] >= distance:
                        w = weight[j, i, ady] * weight[j, i, adx]
                        k = layer[j, i]
                        low, high = min(low, k), max(high, k)
                        light[k, 0] += w * image[j, i, 0]
                        light[k, 1] += w * image[j, i, 1]
                        light[k, 2] += w * image[j, i, 2]
                        light[k, 3] += w
                    if hidden_radius[j, i] >= distance:
                        w = hidden_weight[j, i, ady] * hidden_weight[j, i, adx]
                        k = hidden_layer[j, i]
                        low, high = min(low, k), max(high, k)
                        light[k, 0] += w * hidden[j, i, 0]
                        light[k, 1] += w * hidden[j, i, 1]
                        light[k, 2] += w * hidden[j, i, 2]
                        light[k, 3] += w
            covered, following = np.float32(0), low
            total = red = green = blue = np.float32(0)
            for k in range(low, high + 1):
                if light[k, 3] == 0:
                    continue
                while near_edge[y, x] and following < first_open[k]:
                    covered += light[following, 3]
                    following += 1
                seen = max(np.float32(0), np.float32(1) - covered)
                red += seen * light[k, 0]
                green += seen * light[k, 1]
                blue += seen * light[k, 2]
                total += seen * light[k, 3]
            light[low : high + 1] = 0
            out[y, x, 0] = red / total
            out[y, x, 1] = green / total
            out[y, x, 2] = blue / total
