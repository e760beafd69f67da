"""Depth readouts: what the depth head's raw output (B, channels, H, W) means in metres.

- `metres`: depth divided by `depth_scale_m`.
- `log`: the logarithm of depth over the geometric mean of its range.
- `ordinal`: for each of K thresholds t_k the logit of P(depth > t_k), as in ordinal regression
  (Fu et al. 2018). The thresholds are evenly spaced in log depth from end to end of its range.
- `coc`: asinh(CoC / 2 px) of the signed CoC before any clamp: the CoC itself where it is small, its
  logarithm where it is large, since the error in judging a blur grows with the blur. It does not
  depend on the lens; the lens of the image makes it depth: x = S / (1 - CoC / gain), kept within
  the range.
"""

from math import log
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from hded.blur.lenses import inverse_depth
from hded.common.errors import HDEDError, check_choice
from hded.config.schema import Readout

THRESHOLDS = 68
LARGEST_LOG = 6.0  # bounds the exponential while a network diverges
SMALL_COC_PX = 2.0
LARGEST_LOG_ERROR = 5.0
WITHIN = 1.25  # the ratio of depths that confidence is about, as the metric delta1


class DepthReadout(nn.Module):
    """Turns raw outputs into metres; `channels` is the number that the head must have.

    With `confidence` the head of `log` or `coc` has one channel more: the logarithm of the error
    that it expects of its first one, as a Laplace distribution has it.
    """

    def __init__(
        self,
        name: Readout,
        depth_scale_m: float,
        depth_range_m: tuple[float, float],
        *,
        confidence: bool = False,
    ) -> None:
        super().__init__()
        check_choice("network: readout", name, get_args(Readout))
        low, high = depth_range_m
        if not 0 < low < high:
            raise HDEDError(
                f"network: depth_range_m {list(depth_range_m)} must ascend from above 0"
            )
        self.name, self.scale_m, self.middle_m = name, depth_scale_m, float(np.sqrt(low * high))
        self.nearest_m, self.farthest_m = low, high
        self.channels = THRESHOLDS if name == "ordinal" else 1 + confidence
        thresholds = torch.from_numpy(np.geomspace(low, high, THRESHOLDS)).float()
        self.register_buffer("thresholds", thresholds, persistent=False)

    def forward(self, raw: Tensor, lens: Tensor | None = None) -> Tensor:
        """Map (B, channels, H, W) -> depth (B, 1, H, W) [m], not clipped except with `coc`.

        lens: (B, 6), of each image, see `hded.blur.lenses`; only `coc` needs it.
        """
        if self.name == "coc":
            assert lens is not None
            return self._depth_of_coc(raw[:, :1], lens)
        if self.name == "metres":
            return self.scale_m * raw
        if self.name == "log":
            return self.middle_m * raw[:, :1].clamp(-LARGEST_LOG, LARGEST_LOG).exp()
        return decode_ordinal(raw, self.thresholds)  # pyright: ignore[reportArgumentType]

    def confidence(self, raw: Tensor, depth_m: Tensor, lens: Tensor | None = None) -> Tensor:
        """Return the probability (B, 1, H, W) that depth is within a factor of 1.25 of the truth.

        raw: (B, 2, H, W); depth_m: (B, 1, H, W), what it means; lens: (B, 6), which only `coc`
        needs: where depth changes fast with the CoC, far beyond the focus distance or by a lens of
        small gain, an error of the CoC is a large one of depth.
        """
        coc, log_error = raw.float().split(1, 1)
        if self.name == "log":
            return 1 - (-log(WITHIN) / expected_error(log_error)).exp()
        assert lens is not None
        slope_px = SMALL_COC_PX * coc.clamp(-LARGEST_LOG, LARGEST_LOG).cosh()
        gain, focus_m = (lens[:, i, None, None, None] for i in (0, 1))
        log_depth_error = expected_error(log_error) * slope_px * depth_m / (gain * focus_m)
        return 1 - (-log(WITHIN) / log_depth_error).exp()

    def _depth_of_coc(self, raw: Tensor, lens: Tensor) -> Tensor:
        nearness = inverse_depth(decode_coc(raw.float()), lens)
        bounded = nearness.clamp(1 / self.farthest_m, 1 / self.nearest_m)
        # the gradient passes where the bounds hold, or such a pixel would never be corrected
        return 1 / (bounded.detach() + (nearness - nearness.detach()))


def encode_coc(coc_px: Tensor) -> Tensor:
    """Return what the readout `coc` predicts of signed CoCs [px], of any shape."""
    return (coc_px / SMALL_COC_PX).asinh()


def decode_coc(raw: Tensor) -> Tensor:
    """Return the signed CoCs [px] of what the readout `coc` predicts, of any shape."""
    return SMALL_COC_PX * raw.clamp(-LARGEST_LOG, LARGEST_LOG).sinh()


def expected_error(raw: Tensor) -> Tensor:
    """Return the expected error of a head's first channel from its second, of any shape."""
    return raw.clamp(-LARGEST_LOG_ERROR, LARGEST_LOG_ERROR).exp()


def encode_ordinal(depth_m: Tensor, thresholds_m: Tensor) -> Tensor:
    """Return whether depth (B, 1, H, W) exceeds each threshold (K,), as floats (B, K, H, W)."""
    return (depth_m > thresholds_m[:, None, None]).float()


def decode_ordinal(logits: Tensor, thresholds_m: Tensor) -> Tensor:
    """Return the depth (B, 1, H, W) [m] of logits (B, K, H, W) for ascending thresholds (K,).

    The number of thresholds that depth probably exceeds names an interval, whose geometric middle
    is the depth; nearer than the first threshold and beyond the last it is that threshold.
    """
    ends = torch.cat([thresholds_m[:1], thresholds_m, thresholds_m[-1:]])
    middles = (ends[:-1] * ends[1:]).sqrt()
    return middles[(logits > 0).sum(1, keepdim=True)]
