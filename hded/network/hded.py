"""2HDED:NET (Nazir et al. 2023): 41,414,400 parameters at width 1.

Choices that the paper leaves open:
- the "input joint layer" adds the input to the all-in-focus decoder's output (`joint="add"`);
  `"concat"` applies a 3x3 convolution to both; `output="tanh"` bounds the result;
- `depth_scale_m`: the depth decoder's output times this is depth in metres. It is 1 in the paper;
  with the dataset's depth range, the decoder's output is of the order of 1;
- an image whose sides are not multiples of 32 is reflect-padded at the right and bottom, and the
  outputs are cropped.
"""

from collections.abc import Sequence
from functools import partial
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hded.common.errors import HDEDError, check_choice
from hded.common.heads import HEADS
from hded.config.schema import Cascade, Context, Decoder, Encoder, Init, Joint, Output, Readout
from hded.network.decoder import build_decoder
from hded.network.encoder import build_encoder
from hded.network.layers import Denoiser, LensFeatures, SpatialPyramid
from hded.network.neumann import NeumannDecoder
from hded.network.readout import DepthReadout

SCALE = "all_in_focus_over_"  # and how many times smaller: an estimate at a coarser scale
STRIDE = 32
LARGEST_NOISE = 50 / 255  # of the levels that the denoiser is trained for


class HDEDNet(nn.Module):
    """One encoder, an independent decoder for each of `heads`, and what a system adds to them.

    `encoder` is a name, or a module with the interface of `hded.network.encoder`. The default
    encoder and decoder are the paper's. `width` scales the channel counts of the decoders and of an
    encoder that is given by name.

    - `shots`: the images that are read together; each goes through the same encoder, and their
      feature maps are concatenated.
    - `readout`: what the depth head predicts, over `depth_range_m` (see `DepthReadout`).
    - `confidence`: the depth head also says how far it may be off; with the readouts `log` and
      `coc`.
    - `reads_lens`: every feature map of the depth head is told the lens of the image (see
      `LensFeatures`); restoration does without, and works for photographs by unknown lenses.
    - `context`: spatial_pyramid, atrous pooling of the deepest feature map.
    - `cascade`: depth or all_in_focus, the output of a second network of the same kind, which reads
      the images and the first network's depth.
    - `denoiser`: a `Denoiser` beside the heads, for deconvolution; it is trained on `sharp` images
      and noise.
    """

    def __init__(
        self,
        heads: Sequence[str] = HEADS,
        width: float = 1.0,
        *,
        encoder: Encoder | nn.Module = "densenet121",
        decoder: Decoder = "transposed",
        shots: int = 1,
        depth_scale_m: float = 1.0,
        depth_range_m: Sequence[float] = (0.7, 10.2),
        readout: Readout = "metres",
        confidence: bool = False,
        reads_lens: bool = False,
        context: Context = "none",
        cascade: Cascade = "none",
        denoiser: bool = False,
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
        if confidence and readout not in ("log", "coc"):
            raise HDEDError(f"network: confidence needs the readout log or coc, not {readout}")
        if cascade != "none" and not {"depth", cascade} <= set(heads):
            raise HDEDError(f"network: cascade {cascade} needs the heads depth and {cascade}")
        if not (width > 0 and depth_scale_m > 0 and 0 <= dropout < 1):
            raise HDEDError(
                f"network: width {width} and depth_scale_m {depth_scale_m} must be positive, "
                f"dropout {dropout} at least 0 and below 1"
            )
        self.heads = tuple(head for head in HEADS if head in heads)
        self.shots = shots
        self.depth_scale_m = depth_scale_m
        self.joint = joint
        self.output = output
        ends_m = depth_range_m[0], depth_range_m[1]
        self.readout = DepthReadout(readout, depth_scale_m, ends_m, confidence=confidence)
        if isinstance(encoder, str):
            check_choice("network: encoder", encoder, get_args(Encoder))
            built = None if encoder == "none" else build_encoder(encoder, width)
        else:
            built = encoder
        self.encoder = built
        widths = [shots * c for c in self.encoder.channels] if self.encoder is not None else []  # pyright: ignore[reportGeneralTypeIssues]
        self.context = SpatialPyramid(widths[-1]) if context == "spatial_pyramid" else None
        self.lens_features = LensFeatures(widths) if reads_lens and "depth" in heads else None
        channels = {"depth": self.readout.channels, "all_in_focus": 3}
        build = partial(build_decoder, decoder, dropout=dropout, width=width)
        first = [head for head in self.heads if head != cascade or head == "depth"]
        self.decoders = nn.ModuleDict(
            {head: build(widths, channels[head], image_channels=3 * shots) for head in first}
        )
        self.cascade = cascade
        self.second = None
        if cascade != "none":
            inputs = 3 * shots + 1
            assert isinstance(encoder, str)
            second = build_encoder(encoder, width, inputs)
            self.second = SecondNetwork(
                second,
                build(second.channels, channels[cascade], image_channels=inputs),  # pyright: ignore[reportArgumentType]
            )
        self.denoiser = Denoiser() if denoiser else None
        if joint == "concat" and "all_in_focus" in self.heads:
            self.joint_conv = nn.Conv2d(6, 3, 3, padding=1, bias=False)
        initialise(self, init)

    @property
    def needs_lens(self) -> bool:
        """Return whether the lens of each image is part of the input."""
        reads = self.readout.name == "coc" or self.lens_features is not None
        return reads and "depth" in self.heads

    def forward(
        self, rgb: Tensor, sharp: Tensor | None = None, lens: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the outputs for rgb (B, 3 shots, H, W) in [-1, 1].

        `lens`: (B, 6), that of each first image, see `hded.blur.lenses`; `sharp`: (B, 3, H, W) in
        [-1, 1], for a denoiser to learn from. Raises HDEDError for a lens that is needed and
        missing. The outputs:

        - `depth`: (B, 1, H, W) [m], not clipped;
        - with an ordinal readout `depth_logits`, (B, K, H, W);
        - with the readout `coc` also `coc`, (B, 1, H, W), as `encode_coc` gives it;
        - with `confidence`: `confidence`, (B, 1, H, W), the probability that depth is within a
          factor of 1.25 of the truth, and `log_error`, the logarithm of the expected error of
          `coc`, or of the logarithm of depth;
        - `all_in_focus`: (B, 3, H, W), nominally in [-1, 1];
        - with the decoder `neumann`, in training, `all_in_focus_over_N` (B, 3, H / N, W / N) for
          N = 4, 2, 1: the estimates of each scale;
        - with `sharp`, `denoised`: the denoiser's estimate of it from the image with added noise.
        """
        if lens is None and self.needs_lens:
            raise HDEDError("the network needs the lens of each image, and none is known")
        height, width = rgb.shape[-2:]
        padded = pad_to_stride(rgb)
        maps = self._encode(padded)
        raw, estimates = {}, []
        for head, decoder in self.decoders.items():
            if self.training and isinstance(decoder, NeumannDecoder):
                raw[head], estimates = decoder.scales(padded)
            elif head == "depth" and self.lens_features is not None and lens is not None:
                raw[head] = decoder(self.lens_features(maps, lens), padded)
            else:
                raw[head] = decoder(maps, padded)
        outputs: dict[str, Tensor] = {}
        if self.second is not None:
            depth = self.readout(raw["depth"], lens) / self.depth_scale_m
            raw[self.cascade] = self.second(torch.cat([padded, depth], 1))
        for head in self.heads:
            x = raw[head]
            if head == "depth":
                if self.readout.name == "ordinal":
                    outputs["depth_logits"] = x[..., :height, :width]
                depth_m = self.readout(x, lens)
                if self.readout.name == "coc":
                    outputs["coc"] = x[:, :1, :height, :width]
                if self.readout.channels == 2:
                    sure = self.readout.confidence(x, depth_m, lens)
                    outputs["confidence"] = sure[..., :height, :width]
                    outputs["log_error"] = x[:, 1:, :height, :width]
                x = depth_m
            else:
                x = self._join(x, padded[:, :3])
            outputs[head] = x[..., :height, :width]
        for estimate in estimates:
            factor = padded.shape[-1] // estimate.shape[-1]
            rows, columns = height // factor, width // factor
            outputs[f"{SCALE}{factor}"] = estimate[..., :rows, :columns]
        if self.denoiser is not None and sharp is not None:
            level = torch.rand(len(sharp), device=sharp.device) * LARGEST_NOISE
            clean = (sharp + 1) / 2
            noisy = clean + level[:, None, None, None] * torch.randn_like(clean)
            outputs["denoised"] = 2 * self.denoiser(noisy, level) - 1
        return outputs

    def _encode(self, rgb: Tensor) -> list[Tensor]:
        """Return the encoder's maps of rgb (B, 3 shots, H, W), those of all shots side by side."""
        if self.encoder is None:
            return []
        images = rgb if self.shots == 1 else rgb.unflatten(1, (self.shots, 3)).flatten(0, 1)
        maps = self.encoder(images)
        if self.shots > 1:
            maps = [m.unflatten(0, (-1, self.shots)).flatten(1, 2) for m in maps]
        if self.context is not None:
            maps = [*maps[:-1], self.context(maps[-1])]
        return maps

    def _join(self, x: Tensor, rgb: Tensor) -> Tensor:
        x = x + rgb if self.joint == "add" else self.joint_conv(torch.cat([x, rgb], 1))
        return torch.tanh(x) if self.output == "tanh" else x


class SecondNetwork(nn.Module):
    """An encoder and a decoder for one output."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        """Map the images and depth (B, C, H, W) -> the decoder's output, at the same size."""
        return self.decoder(self.encoder(x), x)


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
    own score, and the depth head at what its readout makes of zero (0 m, or the middle of the
    range) rather than at noise.
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
        decoders = [*network.decoders.values()]
        decoders += [] if network.second is None else [network.second.decoder]
        decoders += [] if network.denoiser is None else [network.denoiser]
        for decoder in decoders:
            nn.init.zeros_(decoder.get_parameter("predict.weight"))
        if network.joint == "concat" and "all_in_focus" in network.heads:
            # identity for both, so that the joint layer starts as their sum
            nn.init.dirac_(network.joint_conv.weight[:, :3])
            nn.init.dirac_(network.joint_conv.weight[:, 3:])
