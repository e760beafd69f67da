"""EfficientNet-Lite 0 and 2 as encoders, without squeeze-and-excitation.

Tan and Le 2019 (arXiv 1905.11946); the Lite variants are TensorFlow's (no squeeze-and-excitation,
ReLU6, stem and last block not scaled). Modules have the names of the published PyTorch weights
(`_conv_stem`, `_bn0`, `_blocks.N._depthwise_conv`, ...); their last convolution and classifier are
not used.

Padding is TensorFlow's `SAME`, which for an even size and stride 2 adds one pixel more at the right
and bottom. Sizes must be multiples of 32, so that every strided layer gets an even size.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEM = 32
# kernel, stride, expansion, channels, repeats
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
MAPS_AFTER = (0, 1, 2, 4, 6)  # stages that end at strides 2, 4, 8, 16, 32


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's `SAME` padding, for sizes divisible by the stride.

    In mixed precision on a CPU a depthwise convolution is computed in float32: there its gradients
    in bfloat16 take three to ten times as long.
    """

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pad = kernel - stride
        if stride > 1:
            before, after = pad // 2, pad - pad // 2
            input = F.pad(input, (before, after, before, after))
        if self.groups > 1 and input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                output = self._conv_forward(input.float(), self.weight, self.bias)
            return output.to(torch.get_autocast_dtype("cpu"))
        return self._conv_forward(input, self.weight, self.bias)


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1):
    padding = kernel // 2 if stride == 1 else 0
    return _SameConv2d(
        channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False
    )


class Bottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; residual where shapes are equal."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.expands = expansion != 1
        self.residual = stride == 1 and channels_in == channels_out
        if self.expands:
            self._expand_conv = _conv(channels_in, inner, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _conv(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = _conv(inner, channels_out, 1)
        self._bn2 = _norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, h, w) -> (B, channels_out, h / stride, w / stride)."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLiteEncoder(nn.Module):
    """EfficientNet-Lite; width and depth coefficients (1, 1) give Lite0, (1.1, 1.2) Lite2.

    Unlike `width_coefficient`, `width` scales the stem, too.
    `channels` holds the five outputs' channels, (16, 24, 40, 112, 320) for Lite0.
    """

    def __init__(
        self,
        width_coefficient: float = 1.0,
        depth_coefficient: float = 1.0,
        width: float = 1.0,
        channels_in: int = 3,
    ) -> None:
        super().__init__()
        stem = _rounded(STEM * width)
        self._conv_stem = _conv(channels_in, stem, 3, stride=2)
        self._bn0 = _norm(stem)
        blocks, outputs, channels = [], [], stem
        last = len(STAGES) - 1
        self._ends: list[int] = []
        for i, (kernel, stride, expansion, channels_out, repeats) in enumerate(STAGES):
            channels_out = _rounded(channels_out * width_coefficient * width)
            if 0 < i < last:
                repeats = math.ceil(repeats * depth_coefficient)
            for n in range(repeats):
                blocks.append(
                    Bottleneck(channels, channels_out, kernel, stride if n == 0 else 1, expansion)
                )
                channels = channels_out
            if i in MAPS_AFTER:
                outputs.append(channels)
                self._ends.append(len(blocks))
        self._blocks = nn.ModuleList(blocks)
        self.channels = tuple(outputs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, channels_in, H, W), sides multiples of 32 -> five maps at strides 2 to 32."""
        # the published weights expect (v - 127) / 128 for pixel values v in 0 ... 255
        x = x * (127.5 / 128) + 0.5 / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for n, block in enumerate(self._blocks, start=1):
            x = block(x)
            if n in self._ends:
                maps.append(x)
        return maps


def _rounded(channels: float, divisor: int = 8) -> int:
    """Return the nearest multiple of `divisor`, or the next if that is over 10 % too small."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
