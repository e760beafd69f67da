"""The encoders that can be chosen by name, and their interface.

An encoder is a module with an attribute `channels` (five numbers). Its forward returns five feature
maps, at strides 2, 4, 8, 16 and 32 (those of the U-Net at 1 to 16), of an image (B, channels_in, H,
W) in [-1, 1], with H and W multiples of 32.
"""

from collections.abc import Callable

from torch import nn

from hded.common.errors import check_choice
from hded.config.schema import Encoder
from hded.network.densenet import DenseNetEncoder
from hded.network.efficientnet import EfficientNetLiteEncoder
from hded.network.layers import UNetEncoder

_BUILDERS: dict[str, Callable[[float, int], nn.Module]] = {
    "densenet121": DenseNetEncoder,
    "efficientnet_lite0": lambda width, channels: EfficientNetLiteEncoder(
        1.0, 1.0, width, channels
    ),
    "efficientnet_lite2": lambda width, channels: EfficientNetLiteEncoder(
        1.1, 1.2, width, channels
    ),
    "unet": UNetEncoder,
}


def build_encoder(name: Encoder, width: float = 1.0, channels_in: int = 3) -> nn.Module:
    """Return an encoder with new weights; `width` scales every channel count."""
    check_choice("network: encoder", name, tuple(_BUILDERS))
    return _BUILDERS[name](width, channels_in)
