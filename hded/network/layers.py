"""Encoders and decoders without an encoder's usual strides: U-Net, pyramid, plain convolutions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLAIN_DILATIONS = (1,) * 19
DENOISER_DILATIONS = (1, 2, 3, 4, 3, 2)  # the last layer's is 1
UNET_CHANNELS = (32, 64, 128, 256, 512)
PYRAMID_CHANNELS = 128
CONTEXT_DILATIONS = (2, 3, 5)
TYPICAL_GAIN_PX, TYPICAL_FOCUS_M = 10.0, 2.0


def convolutions(channels_in: int, channels: int, count: int = 2) -> nn.Sequential:
    """Return `count` times 3x3, BN, ReLU."""
    layers: list[nn.Module] = []
    for n in range(count):
        conv = nn.Conv2d(channels if n else channels_in, channels, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNetEncoder(nn.Module):
    """The contracting half of a U-Net (Ronneberger et al. 2015) of five levels.

    `channels` holds the five outputs' channels, (32, 64, 128, 256, 512) at width 1. Unlike other
    encoders' maps, its maps have the strides 1, 2, 4, 8 and 16.
    """

    def __init__(self, width: float = 1.0, channels_in: int = 3) -> None:
        super().__init__()
        self.channels = tuple(max(1, round(c * width)) for c in UNET_CHANNELS)
        sizes = (channels_in, *self.channels)
        self.levels = nn.ModuleList(
            convolutions(before, after) for before, after in zip(sizes, self.channels, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, channels_in, H, W), H and W multiples of 16 -> five maps."""
        maps = []
        for level in self.levels:
            x = level(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        return maps


class UNetDecoder(nn.Module):
    """The expanding half of a U-Net: transposed 2x2, the skip, twice 3x3, BN, ReLU."""

    def __init__(self, encoder_channels: Sequence[int], out_channels: int, dropout: float) -> None:
        super().__init__()
        *skips, deepest = encoder_channels
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        channels = deepest
        for skip in reversed(skips):
            self.ups.append(nn.ConvTranspose2d(channels, skip, 2, stride=2))
            self.blocks.append(convolutions(2 * skip, skip))
            channels = skip
        self.dropout = nn.Dropout(dropout)
        self.predict = nn.Conv2d(channels, out_channels, 1, bias=False)

    def forward(self, maps: Sequence[Tensor], rgb: Tensor) -> Tensor:
        """Map five feature maps at strides 1 to 16 -> (B, out_channels, H, W); rgb is not used."""
        *skips, x = maps
        x = self.dropout(x)
        for up, block, skip in zip(self.ups, self.blocks, reversed(skips), strict=True):
            x = block(torch.cat([up(x), skip], 1))
        return self.predict(x)


class PyramidDecoder(nn.Module):
    """A feature pyramid (Lin et al. 2017) whose levels are predicted from together.

    Every encoder map is projected to `PYRAMID_CHANNELS` times `width` channels and added to the
    level below it, enlarged; each level is smoothed by a 3x3 convolution. All levels, enlarged to
    stride 2, are concatenated; the output is predicted there, 2x2 pixels as channels.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        out_channels: int,
        dropout: float,
        width: float = 1.0,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        inner = max(1, round(PYRAMID_CHANNELS * width))
        each = max(1, inner // 4)
        self.project = nn.ModuleList(nn.Conv2d(c, inner, 1) for c in encoder_channels)
        self.smooth = nn.ModuleList(convolutions(inner, each, 1) for _ in encoder_channels)
        self.dropout = nn.Dropout(dropout)
        self.join = convolutions(each * len(encoder_channels) + 4 * image_channels, inner)
        self.predict = nn.Conv2d(inner, 4 * out_channels, 3, padding=1, bias=False)

    def forward(self, maps: Sequence[Tensor], rgb: Tensor) -> Tensor:
        """Map maps at strides 2 to 32 and the image (B, C, H, W) -> (B, out_channels, H, W)."""
        levels: list[Tensor] = []
        x = None
        for projection, smoothing, m in zip(
            reversed(self.project), reversed(self.smooth), reversed(maps), strict=True
        ):
            x = projection(m) if x is None else projection(m) + enlarge(x, 2)
            levels.append(smoothing(x))
        strides = [2**n for n in reversed(range(len(levels)))]
        every = [enlarge(level, s) for level, s in zip(levels, strides, strict=True)]
        joined = self.join(torch.cat([*every, F.pixel_unshuffle(rgb, 2)], 1))
        return F.pixel_shuffle(self.predict(self.dropout(joined)), 2)


class PlainDecoder(nn.Module):
    """Convolutions at full size that see the image alone; 64 channels times `width`.

    With dilations of 1 it is DnCNN (Zhang et al. 2017): 3x3 and ReLU; 18 times 3x3, BN, ReLU; 3x3,
    669,376 parameters for a colour image, and a receptive field of 41 px. With those of
    `Denoiser` it is the network of IRCNN, whose field is 33 px.
    """

    CHANNELS = 64

    def __init__(
        self,
        out_channels: int,
        dilations: Sequence[int],
        width: float = 1.0,
        channels_in: int = 3,
    ) -> None:
        super().__init__()
        inner = max(1, round(self.CHANNELS * width))
        self.layers = convolution_stack(channels_in, inner, dilations)
        self.predict = nn.Conv2d(inner, out_channels, 3, padding=1, bias=False)

    def forward(self, maps: Sequence[Tensor], rgb: Tensor) -> Tensor:
        """Map rgb (B, channels_in, H, W) -> (B, out_channels, H, W); maps are not used."""
        return self.predict(self.layers(rgb))


def convolution_stack(
    channels_in: int, channels: int, dilations: Sequence[int], *, norm: bool = True
) -> nn.Sequential:
    """Return a 3x3 convolution for each dilation, each followed by [BN and] ReLU.

    The first has a bias and no batch norm; the others have a bias only without `norm`.
    """
    layers: list[nn.Module] = []
    for n, dilation in enumerate(dilations):
        normed = norm and n > 0
        layers.append(
            nn.Conv2d(
                channels if n else channels_in, channels, 3,
                padding=dilation, dilation=dilation, bias=not normed,
            )
        )  # fmt: skip
        layers += [nn.BatchNorm2d(channels)] if normed else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Denoiser(nn.Module):
    """The denoiser of IRCNN (Zhang et al. 2017), with the noise's level as another channel.

    Seven 3x3 convolutions of 64 channels with dilations 1, 2, 3, 4, 3, 2, 1; the noise is
    estimated and subtracted. IRCNN has a network for each of 25 levels; a channel that holds the
    level everywhere lets one serve all (FFDNet, Zhang et al. 2018).
    """

    CHANNELS = 64

    def __init__(self) -> None:
        super().__init__()
        self.layers = convolution_stack(4, self.CHANNELS, DENOISER_DILATIONS)
        self.predict = nn.Conv2d(self.CHANNELS, 3, 3, padding=1)

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        """Return the image without noise; noisy: (B, 3, H, W) in [0, 1]; level: (B,), its sigma."""
        plane = level[:, None, None, None].expand(-1, 1, *noisy.shape[2:])
        return noisy - self.predict(self.layers(torch.cat([noisy, plane], 1)))


class SpatialPyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017) of a feature map, which keeps its channels.

    Parallel 1x1, dilated 3x3 and global pooling. The dilations are for stride 32, where they span
    the pixels that the usual 6, 12 and 18 span at stride 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 4)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    channels, inner, 1 if d == 0 else 3, padding=d, dilation=max(1, d), bias=False
                ),
                nn.BatchNorm2d(inner),
                nn.ReLU(inplace=True),
            )
            for d in (0, *CONTEXT_DILATIONS)
        )
        self.whole = nn.Conv2d(channels, inner, 1)
        self.join = nn.Sequential(
            nn.Conv2d(inner * (len(self.branches) + 1), channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) -> (B, channels, h, w)."""
        whole = self.whole(x.mean((2, 3), keepdim=True)).relu().expand(-1, -1, *x.shape[2:])
        return self.join(torch.cat([*(branch(x) for branch in self.branches), whole], 1))


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Return (B, C, h, w) enlarged bilinearly by a whole factor."""
    if factor == 1:
        return x
    # a factor rather than a size, so that exported networks accept images of any size
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


class LensFeatures(nn.Module):
    """Tells feature maps of these channels which lens took the image.

    The logarithms of its gain and of its focus distance, through a linear layer for each map, are
    added to every pixel. The layers start at zero.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, count) for count in channels)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Sequence[Tensor], lens: Tensor) -> list[Tensor]:
        """Return the maps (B, C, H, W) with what is told of the lenses (B, 6)."""
        typical = torch.tensor([TYPICAL_GAIN_PX, TYPICAL_FOCUS_M], device=lens.device)
        told = (lens[:, :2] / typical).log()
        return [m + f(told)[:, :, None, None] for m, f in zip(maps, self.layers, strict=True)]
