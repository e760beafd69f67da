"""The per-pixel Gaussian blur on a GPU, forward and backward: Triton kernels without atomics.

- A program is one warp on a tile of 32 columns and 4 rows; each thread handles the 4 pixels of a
  column, so that a loaded value serves all 4. The tile's largest support bounds the loops.
- Four rows of the image are processed at a time: a column weight is computed once for 4 rows and
  both sides, and a row's weights once for all columns. Two columns at the same distance are added
  before they are weighted. The rows in use are a few kilobytes and stay in the L1 cache.
- The image's gradient is a gather too: each tile of source pixels loops over the outputs that they
  contribute to; a first pass over the supports bounds that loop. The order of sums is fixed.
- Offsets of images in a batch are 64-bit, because a batch may have more than 2^31 values.

Cost estimate from the instructions that Triton 3.7 generates for an H100 (sm_90); not yet timed.
One tap is one neighbour of a pixel, all three colours. For 32 taps in a warp, the innermost loops
take: forward 4.4 instructions (0.75 loads), gradient of sigma 5.1 (0.75), of the image 15.6 (1.25).
The forward pass over a 427 x 561 image with depth edges (mean sigma 2.7 px, 404 taps per pixel)
takes 24 million instructions with all overhead of the tiles (7.9 for 32 taps) and 3.5 million loads
from L1. At 10,000 such images per second that is 26 % of an H100's issue slots (132 x 4 at
1.755 GHz), 15 % of its L1 bandwidth at one line per clock (30 % if a load across two lines takes
two), and, at 13 MB per image, 4 % of its 3.35 TB/s. If sigma varies randomly from pixel to pixel,
instructions double, because each tile uses its largest support.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hded.blur.support import MIN_SIGMA_PX, SUPPORT_SIGMAS

ROWS = tl.constexpr(4)  # tile height: pixels of one column per thread
COLUMNS = tl.constexpr(32)  # tile width: one warp
STEP = tl.constexpr(4)  # rows of the image processed at a time
PAIRS = tl.constexpr(2)  # column distances per iteration of the innermost loop

MIN_SIGMA = tl.constexpr(MIN_SIGMA_PX)
SIGMAS = tl.constexpr(SUPPORT_SIGMAS)
TWO_LN2 = tl.constexpr(2 * math.log(2))  # exp(-d^2 / (2 s^2)) = 2^(-d^2 / (TWO_LN2 s^2))

# sizes change from call to call and no load depends on their alignment: compile once for all sizes
SIZES = ("height", "width", "pad")


def forward(padded: Tensor, sigma: Tensor) -> Tensor:
    """Blur padded (B, 3, H + 2 pad, W + 2 pad) by sigma (B, H, W) -> (B, 3, H, W).

    Both are contiguous and of one floating dtype. `pad` is a multiple of PAIRS; supports end at it.
    """
    batch, height, width = sigma.shape
    out = padded.new_empty(batch, 3, height, width)
    grid, sizes = _launch(padded, sigma, height, width)
    forward_kernel[grid](padded, sigma, out, **sizes)
    return out


def sigma_gradient(grad: Tensor, padded: Tensor, sigma: Tensor, out: Tensor) -> Tensor:
    """Return the gradient (B, H, W) with respect to sigma; grad, out: (B, 3, H, W), contiguous."""
    result = torch.empty_like(sigma)
    grid, sizes = _launch(padded, sigma, *sigma.shape[1:])
    sigma_gradient_kernel[grid](grad, padded, sigma, out, result, **sizes)
    return result


def image_gradient(grad: Tensor, padded: Tensor, sigma: Tensor) -> Tensor:
    """Return the gradient with respect to `padded`, of its shape; grad: (B, 3, H, W)."""
    scaled, decay, radius = (torch.empty_like(x) for x in (grad, sigma, sigma))
    grid, sizes = _launch(padded, sigma, *sigma.shape[1:])
    sources_kernel[grid](grad, sigma, scaled, decay, radius, **sizes)
    result = torch.empty_like(padded)
    grid, sizes = _launch(padded, sigma, *padded.shape[2:])
    image_gradient_kernel[grid](scaled, decay, radius, result, **sizes)
    return result


def _launch(padded: Tensor, sigma: Tensor, tiled_height: int, tiled_width: int):
    """Return the grid, one program per tile of (B, tiled_height, tiled_width), and the arguments.

    The arguments are those that all kernels share.
    """
    batch, height, width = sigma.shape
    pad = (padded.shape[3] - width) // 2
    tiles = triton.cdiv(tiled_height, ROWS.value) * triton.cdiv(tiled_width, COLUMNS.value)
    return (batch * tiles,), {"height": height, "width": width, "pad": pad, "num_warps": 1}


@triton.jit
def _tile(height, width):
    """Return this program's image index (64-bit), and the first row and column of its tile."""
    across = (width + COLUMNS - 1) // COLUMNS
    count = across * ((height + ROWS - 1) // ROWS)
    tile = tl.program_id(0)
    image = tile // count
    tile -= image * count
    row = tile // across
    return image.to(tl.int64), row * ROWS, (tile - row * across) * COLUMNS


@triton.jit
def _support(sigma, pad):
    """Return the exponent per squared distance, the radius (float32), and sigma (1 if no blur)."""
    single = sigma.to(tl.float32)
    radius = tl.ceil(single.to(tl.float64) * SIGMAS).to(tl.float32)
    radius = tl.where(single >= MIN_SIGMA, tl.minimum(radius, pad * 1.0), 0.0)
    sigma = tl.where(single < MIN_SIGMA, 1.0, sigma)  # a NaN stays NaN
    return -1.0 / (sigma * sigma * TWO_LN2), radius, sigma


@triton.jit
def _weight(decay, radius, distance, square):
    return tl.where(distance <= radius, tl.exp2(decay * square), 0.0)


@triton.jit
def _sums(decay, radius):
    """Return the sum of an axis's weights, half the sum of weight * distance^2, and max radius."""
    reach = tl.max(radius).to(tl.int32)
    norm = tl.full(decay.shape, 1.0, decay.dtype)
    moment = tl.full(decay.shape, 0.0, decay.dtype)
    for distance in range(1, reach + 1):
        d = distance * 1.0
        weight = _weight(decay, radius, d, d * d)
        norm += 2.0 * weight
        moment += weight * (d * d)
    return norm, moment, reach


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(padded, sigma, out, height, width, pad):
    """Fill out (B, 3, H, W) from padded (B, 3, H + 2 pad, W + 2 pad) and sigma (B, H, W)."""
    image, top, left = _tile(height, width)  # pyright: ignore[reportGeneralTypeIssues]
    pitch = width + 2 * pad
    plane = (height + 2 * pad).to(tl.int64) * pitch
    area = height.to(tl.int64) * width
    y = (top + tl.arange(0, ROWS))[None, :, None]
    x = (left + tl.arange(0, COLUMNS))[None, None, :]
    inside = (y < height) & (x < width)
    x = tl.minimum(x, width - 1)  # lanes beyond the image repeat its last column
    decay, radius, _ = _support(tl.load(sigma + image * area + y * width + x, y < height, 0.0), pad)
    norm, _, reach = _sums(decay, radius)
    red = tl.full(decay.shape, 0.0, decay.dtype)
    green = red
    blue = red
    first = padded + 3 * image * plane + (x + pad)
    for start in range(top - reach, top + ROWS + reach, STEP):
        row = start + tl.arange(0, STEP)[:, None, None]
        dy = tl.abs(row - y) * 1.0
        down = _weight(decay, radius, dy, dy * dy)
        centre = first + (tl.minimum(row, height - 1 + pad) + pad) * pitch
        red += tl.sum(down * tl.load(centre), 0, keep_dims=True)
        green += tl.sum(down * tl.load(centre + plane), 0, keep_dims=True)
        blue += tl.sum(down * tl.load(centre + 2 * plane), 0, keep_dims=True)
        for near in range(1, reach + 1, PAIRS):
            before = centre - near
            after = centre + near
            for k in tl.static_range(PAIRS):
                dx = (near + k) * 1.0
                weight = _weight(decay, radius, dx, dx * dx)
                r = tl.load(before - k) + tl.load(after + k)
                g = tl.load(before + plane - k) + tl.load(after + plane + k)
                b = tl.load(before + 2 * plane - k) + tl.load(after + 2 * plane + k)
                red += weight * tl.sum(down * r, 0, keep_dims=True)
                green += weight * tl.sum(down * g, 0, keep_dims=True)
                blue += weight * tl.sum(down * b, 0, keep_dims=True)
    scale = 1.0 / (norm * norm)
    target = out + 3 * image * area + y * width + x
    tl.store(target, red * scale, inside)
    tl.store(target + area, green * scale, inside)
    tl.store(target + 2 * area, blue * scale, inside)


@triton.jit(do_not_specialize=SIZES)
def sigma_gradient_kernel(grad, padded, sigma, out, result, height, width, pad):
    """Fill result (B, H, W) from grad and out (B, 3, H, W), and the forward kernel's arguments.

    Let N be the weighted sum and Z the sum of one axis's weights, so that out = N / Z^2. With
    w_d' = w_d d^2 / s^3, out' = N' / Z^2 - 2 out Z' / Z, which is multiplied by `grad` and summed
    over the colours.
    """
    image, top, left = _tile(height, width)  # pyright: ignore[reportGeneralTypeIssues]
    pitch = width + 2 * pad
    plane = (height + 2 * pad).to(tl.int64) * pitch
    area = height.to(tl.int64) * width
    y = (top + tl.arange(0, ROWS))[None, :, None]
    x = (left + tl.arange(0, COLUMNS))[None, None, :]
    inside = (y < height) & (x < width)
    x = tl.minimum(x, width - 1)
    place = image * area + y * width + x
    decay, radius, width_px = _support(tl.load(sigma + place, y < height, 0.0), pad)
    norm, moment, reach = _sums(decay, radius)
    colour = place + 2 * image * area
    red = tl.load(grad + colour, y < height, 0.0)
    green = tl.load(grad + colour + area, y < height, 0.0)
    blue = tl.load(grad + colour + 2 * area, y < height, 0.0)
    level = red * tl.load(out + colour, y < height, 0.0)
    level += green * tl.load(out + colour + area, y < height, 0.0)
    level += blue * tl.load(out + colour + 2 * area, y < height, 0.0)
    total = tl.full(decay.shape, 0.0, decay.dtype)
    first = padded + 3 * image * plane + (x + pad)
    for start in range(top - reach, top + ROWS + reach, STEP):
        row = start + tl.arange(0, STEP)[:, None, None]
        dy = tl.abs(row - y) * 1.0
        down = _weight(decay, radius, dy, dy * dy)
        far = down * (dy * dy)
        centre = first + (tl.minimum(row, height - 1 + pad) + pad) * pitch
        dot = red * tl.load(centre)
        dot += green * tl.load(centre + plane)
        dot += blue * tl.load(centre + 2 * plane)
        total += tl.sum(far * dot, 0, keep_dims=True)
        for near in range(1, reach + 1, PAIRS):
            before = centre - near
            after = centre + near
            for k in tl.static_range(PAIRS):
                dx = (near + k) * 1.0
                weight = _weight(decay, radius, dx, dx * dx)
                dot = red * (tl.load(before - k) + tl.load(after + k))
                dot += green * (tl.load(before + plane - k) + tl.load(after + plane + k))
                dot += blue * (tl.load(before + 2 * plane - k) + tl.load(after + 2 * plane + k))
                total += weight * tl.sum((far + (dx * dx) * down) * dot, 0, keep_dims=True)
    change = (total / norm - 4.0 * level * moment) / norm / (width_px * width_px * width_px)
    tl.store(result + place, change, inside)


@triton.jit(do_not_specialize=SIZES)
def sources_kernel(grad, sigma, scaled, decays, radii, height, width, pad):
    """What the image's gradient needs of each output: grad / Z^2, its exponent and its radius."""
    image, top, left = _tile(height, width)  # pyright: ignore[reportGeneralTypeIssues]
    area = height.to(tl.int64) * width
    y = (top + tl.arange(0, ROWS))[:, None]
    x = (left + tl.arange(0, COLUMNS))[None, :]
    inside = (y < height) & (x < width)
    place = image * area + y * width + x
    decay, radius, _ = _support(tl.load(sigma + place, inside, 0.0), pad)
    norm, _, _ = _sums(decay, radius)
    tl.store(decays + place, decay, inside)
    tl.store(radii + place, radius, inside)
    scale = 1.0 / (norm * norm)
    for colour in tl.static_range(3):
        value = place + (2 * image + colour) * area
        tl.store(scaled + value, tl.load(grad + value, inside) * scale, inside)


@triton.jit(do_not_specialize=SIZES)
def image_gradient_kernel(scaled, decays, radii, result, height, width, pad):
    """Fill result (B, 3, H + 2 pad, W + 2 pad) from what `sources_kernel` made of each output."""
    image, top, left = _tile(height + 2 * pad, width + 2 * pad)  # pyright: ignore[reportGeneralTypeIssues]
    # places are counted in the unpadded image, the tile's from -pad on
    top -= pad
    left -= pad
    area = height.to(tl.int64) * width
    y = (top + tl.arange(0, ROWS))[None, :, None]
    x = (left + tl.arange(0, COLUMNS))[None, None, :]
    bottom = top + ROWS - 1
    right = left + COLUMNS - 1
    low = tl.maximum(left - pad, 0)
    high = tl.minimum(right + pad, width - 1)
    red = tl.full([1, ROWS, COLUMNS], 0.0, scaled.dtype.element_ty)
    green = red
    blue = red
    scaled += 3 * image * area
    decays += image * area
    radii += image * area
    for start in range(tl.maximum(top - pad, 0), tl.minimum(bottom + pad, height - 1) + 1, STEP):
        row = start + tl.arange(0, STEP)[:, None, None]
        # the largest support in these rows that reaches into the tile; -1 if none does
        furthest = tl.full([STEP, 1, COLUMNS], -1.0, radii.dtype.element_ty)
        for begin in range(low, high + 1, COLUMNS):
            column = begin + tl.arange(0, COLUMNS)[None, None, :]
            known = (row < height) & (column <= high)
            radius = tl.load(radii + row * width + column, known, -1.0)
            gap = tl.maximum(tl.maximum(left - column, column - right), 0)
            gap = tl.maximum(tl.maximum(top - row, row - bottom), gap)
            furthest = tl.maximum(furthest, tl.where(radius >= gap * 1.0, radius, -1.0))
        reach = tl.max(furthest).to(tl.int32)
        dy = tl.abs(row - y) * 1.0
        nearest = tl.maximum(-reach, low - right)
        for shift in range(nearest, tl.minimum(reach, high - left) + 1, PAIRS):
            column = x + shift
            source = row * width + column
            decay_at = decays + source
            radius_at = radii + source
            red_at = scaled + source
            green_at = red_at + area
            blue_at = green_at + area
            for k in tl.static_range(PAIRS):
                known = (row < height) & (column + k >= 0) & (column + k < width)
                dx = tl.abs((shift + k) * 1.0)
                decay = tl.load(decay_at + k, known, 0.0)
                radius = tl.load(radius_at + k, known, -1.0)
                weight = _weight(decay, radius, tl.maximum(dy, dx), dy * dy + dx * dx)
                red += tl.sum(weight * tl.load(red_at + k, known, 0.0), 0, keep_dims=True)
                green += tl.sum(weight * tl.load(green_at + k, known, 0.0), 0, keep_dims=True)
                blue += tl.sum(weight * tl.load(blue_at + k, known, 0.0), 0, keep_dims=True)
    pitch = width + 2 * pad
    plane = (height + 2 * pad).to(tl.int64) * pitch
    target = result + 3 * image * plane + (y + pad) * pitch + (x + pad)
    inside = (y < height + pad) & (x < width + pad)
    tl.store(target, red, inside)
    tl.store(target + plane, green, inside)
    tl.store(target + 2 * plane, blue, inside)
