"""DenseNet-121 as 2HDED:NET uses it (paper section III-A, Table I).

Differences from torchvision's `densenet121().features`:
- conv0 is 3x3 stride 2 with LeakyReLU 0.2 (torchvision: 7x7, ReLU);
- a learned 4x4 stride 2 convolution with its own batch norm replaces the max-pool (paper: no
  pooling);
- it returns five feature maps at strides 2 to 32: after conv0, after the three transitions but
  before their pooling, and after norm5.

Modules have torchvision's names, so that published DenseNet weights can be loaded.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = (6, 12, 24, 16)
GROWTH = 32
BOTTLENECK = 4  # the 1x1 convolution of a dense layer has 4 x growth channels


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1, BN, ReLU, 3x3, which computes `growth` new channels."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the `growth` new channels for x (B, channels, h, w)."""
        x = self.conv1(F.relu(self.norm1(x)))
        return self.conv2(F.relu(self.norm2(x)))


class DenseBlock(nn.Module):
    """`layers` dense layers; the input of each is the block's input and all earlier outputs."""

    def __init__(self, layers: int, channels: int, growth: int) -> None:
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(channels + i * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) -> (B, channels + layers * growth, h, w)."""
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x


class Transition(nn.Module):
    """BN, ReLU, 1x1 to half the channels; the encoder applies the 2x2 average pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) -> (B, channels / 2, h, w)."""
        return self.conv(F.relu(self.norm(x)))


class DenseNetEncoder(nn.Module):
    """DenseNet-121 without max-pooling.

    `width` scales every channel count; 1.0 is the paper's network (7,011,840 parameters).
    `channels` holds the five outputs' channels, (64, 128, 256, 512, 1024) at width 1.
    """

    def __init__(self, width: float = 1.0, channels_in: int = 3) -> None:
        super().__init__()
        growth = max(1, round(GROWTH * width))
        stem = 2 * growth
        features = nn.Module()
        features.conv0 = nn.Conv2d(channels_in, stem, 3, stride=2, padding=1, bias=False)
        features.norm0 = nn.BatchNorm2d(stem)
        features.pool0_conv = nn.Conv2d(stem, stem, 4, stride=2, padding=1, bias=False)
        features.pool0_norm = nn.BatchNorm2d(stem)
        outputs, channels = [stem], stem
        for i, layers in enumerate(BLOCKS, start=1):
            features.add_module(f"denseblock{i}", DenseBlock(layers, channels, growth))
            channels += layers * growth
            if i < len(BLOCKS):
                features.add_module(f"transition{i}", Transition(channels))
                channels //= 2
            outputs.append(channels)
        features.norm5 = nn.BatchNorm2d(channels)
        self.features = features
        self.channels = tuple(outputs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, channels_in, H, W), sides multiples of 32 -> five maps at strides 2 to 32."""
        f = self.features
        x = F.leaky_relu(f.norm0(f.conv0(x)), 0.2)  # (B, 64, H/2, W/2)  # pyright: ignore[reportCallIssue]
        maps = [x]
        x = F.leaky_relu(f.pool0_norm(f.pool0_conv(x)), 0.2)  # (B, 64, H/4, W/4)  # pyright: ignore[reportCallIssue]
        for i in range(1, len(BLOCKS)):
            x = getattr(f, f"transition{i}")(getattr(f, f"denseblock{i}")(x))
            maps.append(x)  # (B, 128 | 256 | 512, H/4 | H/8 | H/16, ...)
            x = F.avg_pool2d(x, 2)
        maps.append(f.norm5(f.denseblock4(x)))  # (B, 1024, H/32, W/32)  # pyright: ignore[reportCallIssue]
        return maps
