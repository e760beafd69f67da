"""The encoders that can be chosen by name, and their interface.

An encoder is a module with an attribute `channels` (five numbers). Its forward returns five feature
maps, at strides 2, 4, 8, 16 and 32, of an image (B, 3, H, W) in [-1, 1], with H and W multiples of
32.
"""

from collections.abc import Callable
from typing import get_args

from torch import nn

from hded.common.errors import check_choice
from hded.config.schema import Encoder
from hded.network.densenet import DenseNetEncoder
from hded.network.efficientnet import EfficientNetLiteEncoder

_BUILDERS: dict[str, Callable[[float], nn.Module]] = {
    "densenet121": DenseNetEncoder,
    "efficientnet_lite0": lambda width: EfficientNetLiteEncoder(1.0, 1.0, width),
    "efficientnet_lite2": lambda width: EfficientNetLiteEncoder(1.1, 1.2, width),
}


def build_encoder(name: Encoder, width: float = 1.0) -> nn.Module:
    """Return an encoder with new weights; `width` scales every channel count."""
    check_choice("network: encoder", name, get_args(Encoder))
    return _BUILDERS[name](width)
