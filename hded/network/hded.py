"""2HDED:NET (Nazir et al. 2023): 41,414,400 parameters at width 1.

Choices the paper leaves open (see the README's method section):
- the "input joint layer" adds the input to the all-in-focus decoder's output (`joint="add"`);
  `"concat"` applies a 3x3 convolution to both; `output="tanh"` bounds the result;
- `depth_scale_m`: the depth decoder's output times this is depth in metres. It is 1 in the paper;
  with the dataset's depth range, the decoder's output is of the order of 1;
- an image whose sides are not multiples of 32 is reflect-padded at the right and bottom, and the
  outputs are cropped.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hded.common.errors import HDEDError, check_choice
from hded.config.schema import Decoder, Encoder, Init, Joint, Output
from hded.network.decoder import build_decoder
from hded.network.encoder import build_encoder

HEAD_CHANNELS = {"depth": 1, "all_in_focus": 3}
HEADS = tuple(HEAD_CHANNELS)
STRIDE = 32


class HDEDNet(nn.Module):
    """One encoder, and an independent decoder for each of `heads`.

    `encoder` is a name, or a module with the interface of `hded.network.encoder`. The default
    encoder and decoder are the paper's. `width` scales the channel counts of the decoders and of an
    encoder that is given by name.
    """

    def __init__(
        self,
        heads: Sequence[str] = HEADS,
        width: float = 1.0,
        *,
        encoder: Encoder | nn.Module = "densenet121",
        decoder: Decoder = "transposed",
        depth_scale_m: float = 1.0,
        dropout: float = 0.5,
        joint: Joint = "add",
        output: Output = "linear",
        init: Init = "identity",
    ) -> None:
        super().__init__()
        if not heads or not set(heads) <= set(HEADS) or len(set(heads)) != len(heads):
            raise HDEDError(f"network heads {tuple(heads)}: choose one or both of {HEADS}")
        check_choice("network: joint", joint, get_args(Joint))
        check_choice("network: output", output, get_args(Output))
        check_choice("network: init", init, get_args(Init))
        if not (width > 0 and depth_scale_m > 0 and 0 <= dropout < 1):
            raise HDEDError(
                f"network: width {width} and depth_scale_m {depth_scale_m} must be positive, "
                f"dropout {dropout} at least 0 and below 1"
            )
        self.heads = tuple(head for head in HEADS if head in heads)
        self.depth_scale_m = depth_scale_m
        self.joint = joint
        self.output = output
        self.encoder = build_encoder(encoder, width) if isinstance(encoder, str) else encoder
        widths: Sequence[int] = self.encoder.channels  # pyright: ignore[reportAssignmentType]
        self.decoders = nn.ModuleDict(
            {
                head: build_decoder(decoder, widths, channels, dropout=dropout, width=width)
                for head, channels in HEAD_CHANNELS.items()
                if head in heads
            }
        )
        if joint == "concat" and "all_in_focus" in self.heads:
            self.joint_conv = nn.Conv2d(6, 3, 3, padding=1, bias=False)
        initialise(self, init)

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the heads for rgb (B, 3, H, W) in [-1, 1].

        `depth`: (B, 1, H, W) [m], not clipped. `all_in_focus`: (B, 3, H, W), nominally in [-1, 1].
        """
        height, width = rgb.shape[-2:]
        padded = pad_to_stride(rgb)
        maps = self.encoder(padded)
        outputs = {}
        for head, decoder in self.decoders.items():
            x = decoder(maps, padded)
            x = self.depth_scale_m * x if head == "depth" else self._join(x, padded)
            outputs[head] = x[..., :height, :width]
        return outputs

    def _join(self, x: Tensor, rgb: Tensor) -> Tensor:
        x = x + rgb if self.joint == "add" else self.joint_conv(torch.cat([x, rgb], 1))
        return torch.tanh(x) if self.output == "tanh" else x


def pad_to_stride(rgb: Tensor, stride: int = STRIDE) -> Tensor:
    """Reflect-pad (B, C, H, W) at right and bottom to multiples of `stride`.

    The edge is repeated instead where the image is too small for the reflection.
    """
    height, width = rgb.shape[-2:]
    bottom, right = -height % stride, -width % stride
    if not (bottom or right):
        return rgb
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(rgb, (0, right, 0, bottom), mode=mode)


def initialise(network: HDEDNet, init: Init) -> None:
    """Initialise the weights in place, with torch's global random generator.

    `identity`: He initialisation (as torchvision's DenseNet), but zero for prediction convolutions.
    The all-in-focus head then starts by returning its input, so that training starts at the input's
    own score, and the depth head starts at 0 m rather than at noise.
    `normal`: convolutions from N(0, 0.02), scales of batch norms from N(1, 0.02), as in D3-Net.
    """
    if next(network.parameters()).is_meta:
        return  # meta tensors have no values, and drawing them would load torch's compiler
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if init == "normal":
                nn.init.normal_(module.weight, 0.0, 0.02)
            else:
                nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d) and init == "normal":
            nn.init.normal_(module.weight, 1.0, 0.02)
    if init == "identity":
        for decoder in network.decoders.values():
            nn.init.zeros_(decoder.get_parameter("predict.weight"))
        if network.joint == "concat" and "all_in_focus" in network.decoders:
            # identity for both, so that the joint layer starts as their sum
            nn.init.dirac_(network.joint_conv.weight[:, :3])
            nn.init.dirac_(network.joint_conv.weight[:, 3:])
