"""The arithmetic of a network: its floating-point operations on one image."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hded.network.hded import HDEDNet


def count_operations(arguments: Mapping[str, Any], size: tuple[int, int]) -> int:
    """Return the floating-point operations of `HDEDNet(**arguments)` on one image (H, W).

    A multiplication and an addition count as two, as is usual; only convolutions are counted. The
    network is built without memory, on torch's device `meta`.
    """
    with torch.device("meta"):
        network = HDEDNet(**arguments).eval()
        image = torch.zeros(1, 3 * network.shots, *size)
        lens = torch.ones(1, 6)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image, lens=lens)
    return counter.get_total_flops()
