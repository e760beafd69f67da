"""2HDED:NET: one encoder with a depth head and an all-in-focus head."""

from hded.network.densenet import DenseNetEncoder
from hded.network.hded import HDEDNet, initialise

__all__ = ["DenseNetEncoder", "HDEDNet", "initialise"]
