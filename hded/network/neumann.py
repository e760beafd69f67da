"""A truncated Neumann series over a dictionary of blurs, as in NRKNet (Quan et al., CVPR 2023).

If a picture y is the sharp picture blurred by K, the sharp picture is the Neumann series

    y + (I - K) y + (I - K)^2 y + ...

A network predicts K at each pixel as a weighted sum of blurs from a dictionary, and the series is
cut off after a few terms, at three scales.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hded.network.layers import enlarge

CHANNELS = 64
BLURS = 21
ITERATIONS = (3, 2, 1)  # of the series, at a quarter of the size, at a half and at full size


class State(NamedTuple):
    """The memory of a `ConvLSTM`: its output and its cell, (B, channels, h, w) each."""

    hidden: Tensor
    cell: Tensor


class NeumannDecoder(nn.Module):
    """The restoration of NRKNet from the image alone: 6,094,170 parameters at width 1.

    From coarse to fine, one network for all scales predicts the weights of the dictionary, by a
    recurrent attention that passes its state from each scale to the next. The last term of each
    scale's series, enlarged, is added to the image. Facts that the paper's text leaves open are
    those of its authors' code. Two choices are ours: images are made smaller by averaging; K is I
    plus the weighted sum, so that a network whose last layer is zero returns its input.
    """

    def __init__(self, width: float = 1.0, channels_in: int = 3) -> None:
        super().__init__()
        inner = max(1, round(CHANNELS * width))
        self.features = WeightFeatures(channels_in, inner)
        self.attention = RecurrentAttention(inner, BLURS + 1)
        self.blurs = BlurDictionary()
        self.predict = nn.Conv2d(3 * (BLURS + 1), 3, 1)

    def forward(self, maps: Sequence[Tensor], rgb: Tensor) -> Tensor:
        """Map rgb (B, C, H, W), H and W multiples of 32 -> what is to be added, (B, 3, H, W).

        Its first three channels are restored; maps are not used.
        """
        return self.scales(rgb)[0]

    def scales(self, rgb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what `forward` returns, and each scale's own estimate, from coarse to fine."""
        total, estimates = torch.zeros_like(rgb[:, :3]), []
        state: State | None = None
        for level, iterations in enumerate(ITERATIONS):
            factor = 2 ** (len(ITERATIONS) - 1 - level)
            image = F.avg_pool2d(rgb, factor)
            if state is not None:
                state = State(enlarge(state.hidden, 2), enlarge(state.cell, 2))
            weights, state = self.attention(self.features(image), state)
            estimate, term = self._series(image[:, :3], weights, iterations)
            estimates.append(estimate)
            total = total + enlarge(term, factor)
        return total, estimates

    def _series(self, image: Tensor, weights: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        """Return the sum of the series and its last term."""
        # differences of blurred images, which are too small for bfloat16
        kind = image.device.type
        mixed = kind != "meta" and torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False) if mixed else nullcontext():
            term = image.float()
            total, weights = term, weights.float().repeat_interleave(3, 1)
            for _ in range(iterations):
                term = -self.predict(self.blurs(term) * weights)
                total = total + term
        return total, term


class BlurDictionary(nn.Module):
    """The image and `BLURS` blurred ones: each is the one before, blurred by a learned 3x3 kernel.

    The kernels are separable, positive and of sum 1, one for each colour.
    """

    def __init__(self) -> None:
        super().__init__()
        # of three dimensions: `channels_last`, which the network is moved to, has no layout of five
        self.kernels = nn.Parameter(torch.rand(BLURS, 3, 3))

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) -> (B, 3 (BLURS + 1), H, W)."""
        images = [image]
        for kernel in self.kernels.softmax(-1)[:, :, None, None]:
            padded = F.pad(images[-1], (1, 1, 1, 1), mode="reflect")
            rows = F.conv2d(padded, kernel, groups=3)
            images.append(F.conv2d(rows, kernel.transpose(2, 3), groups=3))
        return torch.cat(images, 1)


class RecurrentAttention(nn.Module):
    """Weights from features, scaled by the output of a `ConvLSTM` at half the size."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, padding=1, padding_mode="reflect", bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.recurrent = ConvLSTM(channels_in, channels)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Map x (B, channels_in, h, w) and the coarser scale's state -> weights and state."""
        after: State = self.recurrent(F.avg_pool2d(x, 2), state)
        scale = F.interpolate(after.hidden, scale_factor=2.0)
        return self.local(x) * scale + scale, after


class ConvLSTM(nn.Module):
    """A convolutional LSTM cell with a 5x5 kernel (Shi et al. 2015)."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gates = nn.Conv2d(channels_in + channels, 4 * channels, 5, padding=2)

    def forward(self, x: Tensor, state: State | None) -> State:
        """Map x (B, channels_in, h, w) and a state, None for zeros -> the new state."""
        if state is None:
            zeros = x.new_zeros(len(x), self.channels, *x.shape[2:])
            state = State(zeros, zeros)
        gates = self.gates(torch.cat([x, state.hidden], 1))
        keep_new, keep_old, show, new = gates.chunk(4, 1)
        cell = keep_old.sigmoid() * state.cell + keep_new.sigmoid() * new.tanh()
        return State(show.sigmoid() * cell.tanh(), cell)


class ResidualBlock(nn.Module):
    """3x3, ReLU, 3x3, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_conv(channels, channels), _conv(channels, channels)[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) -> the same shape."""
        return x + self.layers(x)


class WeightFeatures(nn.Module):
    """A U-Net of three levels whose skips are added, with a `ResidualBlock` at each."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        one, two, four = channels, 2 * channels, 4 * channels
        self.down = nn.ModuleList(
            nn.Sequential(*_conv(before, after, stride), ResidualBlock(after))
            for before, after, stride in ((channels_in, one, 1), (one, two, 2), (two, four, 2))
        )
        self.bottom = nn.Sequential(*_conv(four, four), ResidualBlock(four))
        self.up = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(before),
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
                nn.ReLU(inplace=True),
            )
            for before, after in ((four, two), (two, one))
        )
        self.last = ResidualBlock(one)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, h, w), h and w multiples of 4 -> (B, channels, h, w)."""
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        x = self.bottom(x)
        for block in self.up:
            x = block(x + skips.pop())
        return self.last(x + skips.pop())


def _conv(channels_in: int, channels: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """Return a 3x3 convolution without bias, and its ReLU."""
    conv = nn.Conv2d(
        channels_in, channels, 3, stride, padding=1, padding_mode="reflect", bias=False
    )
    return conv, nn.ReLU(inplace=True)
