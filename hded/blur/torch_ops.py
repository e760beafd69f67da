"""The per-pixel Gaussian blur and its gradients in plain torch operations, for any device.

Images are processed one at a time, each within its own largest support. As in `hded.blur.cpu`, two
rows at the same distance are added first, then two columns, and only the sum is weighted; the
image's gradient takes the same steps in reverse. Operations are in place: beside the image and the
result, memory holds the weights, one plane per distance, and a few temporary planes.
"""

import torch
from torch import Tensor

from hded.blur.support import MIN_SIGMA_PX, SUPPORT_SIGMAS


def forward(padded: Tensor, sigma: Tensor) -> Tensor:
    """Blur padded (B, 3, H + 2 pad, W + 2 pad) by sigma (B, H, W) -> (B, 3, H, W)."""
    height, width = sigma.shape[1:]
    out = padded.new_zeros(len(sigma), 3, height, width)
    for image, s, total in zip(padded, sigma, out, strict=True):
        weight, norm, pad = _weights(s, image)
        row, pair = torch.empty_like(total), torch.empty_like(total)
        for dy in range(len(weight)):
            rows = _row_pair(image, pad, dy, height)
            torch.mul(rows[..., pad : pad + width], weight[0], out=row)
            for dx in range(1, len(weight)):
                torch.add(*_columns(rows, pad, dx, width), out=pair)
                row.addcmul_(pair, weight[dx])
            total.addcmul_(row, weight[dy])
        total /= norm * norm
    return out


def image_gradient(grad: Tensor, padded: Tensor, sigma: Tensor) -> Tensor:
    """Return the gradient with respect to `padded`, of its shape; grad: (B, 3, H, W)."""
    height, width = sigma.shape[1:]
    result = torch.zeros_like(padded)
    for g, s, image in zip(grad, sigma, result, strict=True):
        weight, norm, pad = _weights(s, image)
        scaled = g / (norm * norm)
        row, rows = torch.empty_like(scaled), image.new_empty(3, height, image.shape[2])
        for dy in range(len(weight)):
            torch.mul(scaled, weight[dy], out=row)
            rows.zero_()
            rows[..., pad : pad + width].addcmul_(row, weight[0])
            for dx in range(1, len(weight)):
                for side in _columns(rows, pad, dx, width):
                    side.addcmul_(row, weight[dx])
            for y in {pad - dy, pad + dy}:
                image[:, y : y + height] += rows
    return result


def sigma_gradient(grad: Tensor, padded: Tensor, sigma: Tensor, out: Tensor) -> Tensor:
    """Return the gradient (B, H, W) with respect to sigma; grad and out: (B, 3, H, W).

    Let N be the weighted sum and Z the sum of one axis's weights, so that out = N / Z^2. With
    w_d' = w_d d^2 / s^3, out' = N' / Z^2 - 2 out Z' / Z, which is multiplied by `grad` and summed
    over the colours. It is 0 where a pixel is not blurred.
    """
    height, width = sigma.shape[1:]
    result = torch.zeros_like(sigma)
    for g, image, s, blurred, total in zip(grad, padded, sigma, out, result, strict=True):
        weight, norm, pad = _weights(s, image)
        pair, near, far = torch.empty_like(g), torch.empty_like(s), torch.empty_like(s)
        moment = torch.zeros_like(s)
        for dy in range(len(weight)):
            rows = _row_pair(image, pad, dy, height)
            # near: the row's weighted sum; far: the same with squared distance as another factor
            near.copy_((rows[..., pad : pad + width] * g).sum(0))
            far.zero_()
            for dx in range(1, len(weight)):
                torch.add(*_columns(rows, pad, dx, width), out=pair)
                weighted = pair.mul_(g).sum(0).mul_(weight[dx])
                near += weighted
                far.add_(weighted, alpha=dx * dx)
            total.addcmul_(weight[dy], far.add_(near, alpha=dy * dy))
            moment.add_(weight[dy], alpha=2 * dy * dy)
        total /= norm
        total -= 2 * moment * (g * blurred).sum(0)
        total /= norm * torch.where(s.float() < MIN_SIGMA_PX, 1, s) ** 3
    return result


def _weights(sigma: Tensor, padded: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return weights (radius + 1, H, W) by distance, their two-sided sum Z (H, W), and the padding.

    sigma: (H, W). Its value rounded to float32 decides the support, which ends at the padding.
    """
    pad = (padded.shape[-1] - sigma.shape[-1]) // 2
    single = sigma.float()
    radius = torch.where(single >= MIN_SIGMA_PX, (SUPPORT_SIGMAS * single.double()).ceil(), 0)
    radius = radius.clamp(max=pad)
    width = torch.where(single < MIN_SIGMA_PX, 1, sigma)  # a NaN stays NaN
    distance = torch.arange(int(radius.max()) + 1, device=sigma.device)[:, None, None]
    weight = (distance.to(sigma.dtype) / width).square_().mul_(-0.5).exp_()
    weight.masked_fill_(distance > radius, 0)
    return weight, 2 * weight.sum(0) - weight[0], pad


def _row_pair(image: Tensor, pad: int, dy: int, height: int) -> Tensor:
    """Return the sum of the rows at distance `dy` above and below: (3, H, W + 2 pad)."""
    above, below = pad - dy, pad + dy
    rows = image[:, below : below + height]
    return image[:, above : above + height] + rows if dy else rows


def _columns(rows: Tensor, pad: int, dx: int, width: int) -> tuple[Tensor, Tensor]:
    """Return views of the columns at distance `dx` to the left and right: (3, H, W) each."""
    left, right = pad - dx, pad + dx
    return rows[..., left : left + width], rows[..., right : right + width]
