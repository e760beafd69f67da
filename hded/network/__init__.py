"""2HDED:NET: one encoder, a depth head and an all-in-focus head."""

from hded.network.decoder import Decoder
from hded.network.encoder import DenseNetEncoder
from hded.network.hded import HEADS, HDEDNet, initialise

__all__ = ["HEADS", "Decoder", "DenseNetEncoder", "HDEDNet", "initialise"]
