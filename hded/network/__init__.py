"""2HDED:NET: one encoder with a depth head and an all-in-focus head."""

from hded.network.densenet import DenseNetEncoder
from hded.network.hded import HEADS, HDEDNet, initialise

__all__ = ["HEADS", "DenseNetEncoder", "HDEDNet", "initialise"]
