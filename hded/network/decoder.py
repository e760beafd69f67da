"""Decoder heads: blocks that each double the size, with concatenated skip connections.

`TransposedDecoder` is the paper's (section III-B). Only transposed convolutions have a bias. The
decoder rows of the paper's Table I do not add up to its 41 M parameters; those of D3-Net do and are
used here. `BilinearDecoder` is a smaller one for small encoders and few images.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hded.common.errors import check_choice
from hded.config.schema import Decoder
from hded.network.layers import (
    DENOISER_DILATIONS,
    PLAIN_DILATIONS,
    PlainDecoder,
    PyramidDecoder,
    UNetDecoder,
)
from hded.network.neumann import NeumannDecoder

DROPOUT_BLOCKS = 2  # the two deepest
PLAIN = {"plain": PLAIN_DILATIONS, "dilated": DENOISER_DILATIONS}


class UpBlock(nn.Module):
    """Transposed 4x4 stride 2, BN, [dropout], ReLU, 3x3, BN, [dropout], ReLU."""

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, h, w) -> (B, channels_out, 2h, 2w)."""
        x = self.relu(self.dropout(self.norm1(self.up(x))))
        return self.relu(self.dropout(self.norm2(self.conv(x))))


class TransposedDecoder(nn.Module):
    """The paper's decoder: five `UpBlock`s and a prediction layer without activation.

    `dropout` is the probability in the two deepest blocks.
    """

    def __init__(
        self, encoder_channels: Sequence[int], out_channels: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        c2, c4, c8, c16, c32 = encoder_channels
        plan = [(c32, c16), (2 * c16, c8), (2 * c8, c4), (2 * c4, c2), (2 * c2, c2)]
        self.blocks = nn.ModuleList(
            UpBlock(i, o, dropout if n < DROPOUT_BLOCKS else 0.0) for n, (i, o) in enumerate(plan)
        )
        self.predict = nn.Conv2d(c2, out_channels, 3, padding=1, bias=False)

    def forward(self, maps: Sequence[Tensor], rgb: Tensor) -> Tensor:
        """Map five feature maps at strides 2 to 32 -> (B, out_channels, H, W); rgb is not used."""
        *skips, x = maps
        for block, skip in zip(self.blocks, [*reversed(skips), None], strict=True):
            x = block(x)
            if skip is not None:
                x = torch.cat([x, skip], 1)
        return self.predict(x)


class BilinearDecoder(nn.Module):
    """A small decoder: bilinear upsampling, the skip, then a few 3x3, BN, [dropout], ReLU.

    The last block works at stride 2. It gets the image beside the last skip, and the output is
    predicted there; both have their 2x2 pixels as channels (pixel shuffle, Shi et al. 2016). No
    detail is lost, and a convolution has twice the receptive field of one at full size for the same
    arithmetic. The blocks have `CHANNELS` times `width` channels, independent of the encoder.
    """

    CHANNELS = (256, 128, 64, 64)
    CONVOLUTIONS = (2, 2, 2, 4)

    def __init__(
        self,
        encoder_channels: Sequence[int],
        out_channels: int,
        dropout: float = 0.5,
        width: float = 1.0,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        c2, *deeper, channels = encoder_channels
        skips = [*reversed(deeper), c2 + 4 * image_channels]
        plan = zip(self.CHANNELS, skips, self.CONVOLUTIONS, strict=True)
        blocks = []
        for n, (wide, skip, convolutions) in enumerate(plan):
            inner = max(1, round(wide * width))
            drop = nn.Dropout(dropout if n < DROPOUT_BLOCKS else 0.0)
            layers: list[nn.Module] = []
            for channels_in in (channels + skip, *[inner] * (convolutions - 1)):
                conv = nn.Conv2d(channels_in, inner, 3, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(inner), drop, nn.ReLU(inplace=True)]
            blocks.append(nn.Sequential(*layers))
            channels = inner
        self.blocks = nn.ModuleList(blocks)
        self.predict = nn.Conv2d(channels, 4 * out_channels, 3, padding=1, bias=False)

    def forward(self, maps: Sequence[Tensor], rgb: Tensor) -> Tensor:
        """Map maps at strides 2 to 32 and the image (B, C, H, W) -> (B, out_channels, H, W)."""
        c2, *deeper, x = maps
        skips = [*reversed(deeper), torch.cat([c2, F.pixel_unshuffle(rgb, 2)], 1)]
        for block, skip in zip(self.blocks, skips, strict=True):
            # a factor rather than a size, so that exported networks accept images of any size
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], 1))
        return F.pixel_shuffle(self.predict(x), 2)


def build_decoder(
    name: Decoder,
    encoder_channels: Sequence[int],
    out_channels: int,
    *,
    dropout: float,
    width: float,
    image_channels: int = 3,
) -> nn.Module:
    """Return a decoder head with new weights.

    `width` scales the channel counts of those whose channels do not follow from the encoder's.
    image_channels: of the network's input.
    """
    check_choice("network: decoder", name, get_args(Decoder))
    if name == "bilinear":
        return BilinearDecoder(encoder_channels, out_channels, dropout, width, image_channels)
    if name == "pyramid":
        return PyramidDecoder(encoder_channels, out_channels, dropout, width, image_channels)
    if name == "unet":
        return UNetDecoder(encoder_channels, out_channels, dropout)
    if name == "neumann":
        return NeumannDecoder(width, image_channels)
    if name in PLAIN:
        return PlainDecoder(out_channels, PLAIN[name], width, image_channels)
    return TransposedDecoder(encoder_channels, out_channels, dropout)
