"""Triton kernels of the per-pixel Gaussian and its gradients: float32, for tensors on a GPU.

- A program holds a tile of 8 x 32 pixels, whose largest support bounds its loops. A tile is small,
  so that depth and with it the support vary little within it; its rows are whole lines of memory.
- Weights are products of a row's and a column's; the taps at (+-dy, +-dx) share one, so four are
  added first. A tap costs three loads, about 2.25 additions and 0.75 multiply-adds; a frame of
  427x561 with 404 taps a pixel is 0.29 G loads and 0.29 GFMA-equivalents, but 8 MB of memory. So
  the bound is the first-level cache: at 128 bytes a clock, 132 processors at 1.7 GHz give 25,000
  such frames a second, less what unaligned lines and the tile's largest support take from it. This
  is a count, not a measurement: `make benchmark` times it where there is a GPU.
- Image gradients gather too: each pixel of the padded image looks for the pixels whose support
  holds it, so that no two programs write to one place and equal inputs give equal bits.

`reach` is each pixel's support in px, from torch, so that no kernel decides it by its own rounding.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_Y, TILE_X = 8, 32
HALF_LOG2_E = tl.constexpr(0.7213475204444817)


def gather(padded: Tensor, sigma: Tensor, reach: Tensor, radius: int) -> Tensor:
    """Padded (B, 3, H + 2 R, W + 2 R), sigma, reach int32 (B, H, W), R = radius -> (B, 3, H, W)."""
    batch, height, width = sigma.shape
    out = padded.new_empty((batch, 3, height, width))
    _gather[_grid(batch, height, width)](
        padded, sigma, reach, out, height, width, radius, TILE_Y, TILE_X
    )
    return out


def sigma_gradient(
    padded: Tensor, out: Tensor, grad: Tensor, sigma: Tensor, reach: Tensor, radius: int
) -> Tensor:
    """Give the gradient (B, H, W) of sigma from that of `out`, both (B, 3, H, W)."""
    batch, height, width = sigma.shape
    result = torch.empty_like(sigma)
    _sigma_gradient[_grid(batch, height, width)](
        padded, out, grad, sigma, reach, result, height, width, radius, TILE_Y, TILE_X
    )
    return result


def image_gradient(grad: Tensor, sigma: Tensor, reach: Tensor, radius: int) -> Tensor:
    """Give the gradient of the padded image (B, 3, H + 2 R, W + 2 R) from that of the output."""
    batch, height, width = sigma.shape
    result = grad.new_empty((batch, 3, height + 2 * radius, width + 2 * radius))
    scale = torch.empty_like(sigma)
    _inverse_norm[_grid(batch, height, width)](sigma, reach, scale, height, width, TILE_Y, TILE_X)
    _image_gradient[_grid(batch, *result.shape[2:])](
        (grad * scale[:, None]).contiguous(), sigma, reach, result, height, width, radius,
        TILE_Y, TILE_X,
    )  # fmt: skip
    return result


def _grid(batch: int, height: int, width: int) -> tuple[int, int, int]:
    # the batch last: of the axes that are limited to 65535 it is the one that stays small
    return triton.cdiv(width, TILE_X), triton.cdiv(height, TILE_Y), batch


@triton.jit
def _tile(height, width, tile_y: tl.constexpr, tile_x: tl.constexpr):
    """Rows (tile_y, 1), columns (1, tile_x) and which of them are inside; the batch's image."""
    y = tl.program_id(1) * tile_y + tl.arange(0, tile_y)[:, None]
    x = tl.program_id(0) * tile_x + tl.arange(0, tile_x)[None, :]
    return y, x, (y < height) & (x < width), tl.program_id(2).to(tl.int64)


@triton.jit
def _blur(sigma, reach, at, inside):
    """Each pixel's support and sigma (1 where it is left alone), and the tile's largest support."""
    r = tl.load(reach + at, mask=inside, other=0)
    s = tl.load(sigma + at, mask=inside, other=1.0)
    return r, tl.where(r > 0, s, 1.0), tl.max(tl.max(r, 1), 0)


@triton.jit
def _factor(s):
    """Factor f for which exp2(f d^2) is the weight at distance d."""
    return 0.0 - (1.0 / (s * s)) * HALF_LOG2_E


@triton.jit
def _weight(d, r, k):
    """Weight at distance d; half at 0, which is met from both sides."""
    step = tl.zeros((1, 1), tl.int32) + d
    w = tl.where(step <= r, tl.exp2(k * (step * step).to(tl.float32)), 0.0)
    return tl.where(step == 0, 0.5 * w, w)


@triton.jit
def _four(image, inside, up, down, dx):
    """Sum of the values at (+-dy, +-dx); up, down: offsets of the two rows."""
    above = tl.load(image + up - dx, mask=inside, other=0.0) + tl.load(
        image + up + dx, mask=inside, other=0.0
    )
    below = tl.load(image + down - dx, mask=inside, other=0.0) + tl.load(
        image + down + dx, mask=inside, other=0.0
    )
    return above + below


@triton.jit
def _gather(
    padded, sigma, reach, out, height, width, radius, tile_y: tl.constexpr, tile_x: tl.constexpr
):
    y, x, inside, image = _tile(height, width, tile_y, tile_x)
    plane, pitch = (height + 2 * radius) * (width + 2 * radius), width + 2 * radius
    at = image * height * width + y * width + x
    r, s, largest = _blur(sigma, reach, at, inside)
    k = _factor(s)
    red = padded + image * 3 * plane
    green, blue = red + plane, red + 2 * plane
    centre = (y + radius) * pitch + x + radius
    sum_r = tl.zeros((tile_y, tile_x), tl.float32)
    sum_g = tl.zeros((tile_y, tile_x), tl.float32)
    sum_b = tl.zeros((tile_y, tile_x), tl.float32)
    norm = tl.zeros((tile_y, tile_x), tl.float32)
    for dy in range(0, largest + 1):
        row_r = tl.zeros((tile_y, tile_x), tl.float32)
        row_g = tl.zeros((tile_y, tile_x), tl.float32)
        row_b = tl.zeros((tile_y, tile_x), tl.float32)
        up, down = centre - dy * pitch, centre + dy * pitch
        for dx in range(0, largest + 1):
            w = _weight(dx, r, k)
            row_r += w * _four(red, inside, up, down, dx)
            row_g += w * _four(green, inside, up, down, dx)
            row_b += w * _four(blue, inside, up, down, dx)
        w = _weight(dy, r, k)
        norm += 2 * w
        sum_r += w * row_r
        sum_g += w * row_g
        sum_b += w * row_b
    scale = 1.0 / (norm * norm)
    to = out + image * 3 * height * width + y * width + x
    tl.store(to, sum_r * scale, mask=inside)
    tl.store(to + height * width, sum_g * scale, mask=inside)
    tl.store(to + 2 * height * width, sum_b * scale, mask=inside)


@triton.jit
def _sigma_gradient(
    padded, out, grad, sigma, reach, result, height, width, radius,
    tile_y: tl.constexpr, tile_x: tl.constexpr,
):  # fmt: skip
    y, x, inside, image = _tile(height, width, tile_y, tile_x)
    plane, pitch = (height + 2 * radius) * (width + 2 * radius), width + 2 * radius
    at = image * height * width + y * width + x
    r, s, largest = _blur(sigma, reach, at, inside)
    k = _factor(s)
    centre = (y + radius) * pitch + x + radius
    cubed = s * s * s
    norm = tl.zeros((tile_y, tile_x), tl.float32)
    change = tl.zeros((tile_y, tile_x), tl.float32)
    for d in range(0, largest + 1):
        w = _weight(d, r, k)
        norm += 2 * w
        change += 2 * w * (d * d) / cubed
    total = tl.zeros((tile_y, tile_x), tl.float32)
    for c in tl.static_range(3):
        channel = padded + (image * 3 + c) * plane
        moved = tl.zeros((tile_y, tile_x), tl.float32)
        for dy in range(0, largest + 1):
            row = tl.zeros((tile_y, tile_x), tl.float32)
            row_moved = tl.zeros((tile_y, tile_x), tl.float32)
            up, down = centre - dy * pitch, centre + dy * pitch
            for dx in range(0, largest + 1):
                w = _weight(dx, r, k)
                four = _four(channel, inside, up, down, dx)
                row += w * four
                row_moved += w * (dx * dx) * four
            w = _weight(dy, r, k)
            moved += w * ((dy * dy) * row + row_moved)
        place = image * 3 * height * width + c * height * width + y * width + x
        blurred = tl.load(out + place, mask=inside, other=0.0)
        weight = tl.load(grad + place, mask=inside, other=0.0)
        total += weight * (moved / (cubed * norm * norm) - 2 * blurred * change / norm)
    tl.store(result + at, tl.where(r > 0, total, 0.0), mask=inside)


@triton.jit
def _inverse_norm(sigma, reach, scale, height, width, tile_y: tl.constexpr, tile_x: tl.constexpr):
    y, x, inside, image = _tile(height, width, tile_y, tile_x)
    at = image * height * width + y * width + x
    r, s, largest = _blur(sigma, reach, at, inside)
    k = _factor(s)
    norm = tl.zeros((tile_y, tile_x), tl.float32)
    for d in range(0, largest + 1):
        norm += 2 * _weight(d, r, k)
    tl.store(scale + at, 1.0 / (norm * norm), mask=inside)


@triton.jit
def _image_gradient(
    grad, sigma, reach, result, height, width, radius,
    tile_y: tl.constexpr, tile_x: tl.constexpr,
):  # fmt: skip
    """grad: that of the output over the squared sum of weights."""
    padded_height, padded_width = height + 2 * radius, width + 2 * radius
    y, x, inside, image = _tile(padded_height, padded_width, tile_y, tile_x)
    size = height * width
    sum_r = tl.zeros((tile_y, tile_x), tl.float32)
    sum_g = tl.zeros((tile_y, tile_x), tl.float32)
    sum_b = tl.zeros((tile_y, tile_x), tl.float32)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            # the pixel of the output whose tap at (dy, dx) this is
            v, u = y - radius - dy, x - radius - dx
            known = inside & (v >= 0) & (v < height) & (u >= 0) & (u < width)
            at = image * size + v * width + u
            r = tl.load(reach + at, mask=known, other=-1)
            s = tl.load(sigma + at, mask=known, other=1.0)
            s = tl.where(r > 0, s, 1.0)
            holds = known & (dy <= r) & (-dy <= r) & (dx <= r) & (-dx <= r)
            exponent = _factor(s) * (dy * dy + dx * dx)
            w = tl.where(holds, tl.exp2(exponent), 0.0)
            place = image * 3 * size + v * width + u
            sum_r += w * tl.load(grad + place, mask=holds, other=0.0)
            sum_g += w * tl.load(grad + place + size, mask=holds, other=0.0)
            sum_b += w * tl.load(grad + place + 2 * size, mask=holds, other=0.0)
    plane = padded_height * padded_width
    to = result + image * 3 * plane + y * padded_width + x
    tl.store(to, sum_r, mask=inside)
    tl.store(to + plane, sum_g, mask=inside)
    tl.store(to + 2 * plane, sum_b, mask=inside)
