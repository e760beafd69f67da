"""Training steps of the small network in mixed precision on a CPU.

Its depthwise convolutions are computed in float32 (hded/network/efficientnet.py); the baseline
computes them in bfloat16, as every other convolution.
"""

import time
from statistics import median
from typing import Any

import torch
from torch import nn

from hded.config.schema import Precision
from hded.network import HDEDNet
from hded.network.efficientnet import Bottleneck
from hded.network.torch_io import autocast
from pipeline.lib import provenance

BATCH, SIZE_PX = 8, 192  # of the preset `small`
STEPS = 5


def measure() -> dict[str, Any]:
    """Return the section: steps of both heads, by the precision of their convolutions."""
    baseline = "every convolution in bfloat16"
    ways: list[tuple[str, Precision, bool]] = [
        (baseline, "bf16", True),
        ("ours: depthwise convolutions in float32, the others in bfloat16", "bf16", False),
        ("every convolution in float32", "float32", False),
    ]
    rows: list[dict[str, Any]] = []
    for name, precision, replaced in ways:
        torch.manual_seed(0)
        network = HDEDNet(encoder="efficientnet_lite0", decoder="bilinear")
        if replaced:
            use_plain_depthwise(network)
        seconds = _step(network, precision) / BATCH
        rows.append({"name": name, "seconds": seconds, "frames_per_s": 1 / seconds})
    for row in rows:
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    device = torch.device("cpu")
    text = (
        f"The small network (EfficientNet-Lite0, both heads), forward and backward, batches of "
        f"{BATCH} crops of {SIZE_PX} px; median of {STEPS} steps after a warm-up. On "
        f"{provenance.hardware(device)}"
    )
    return {
        "title": "Mixed precision on the CPU",
        "baseline": baseline,
        "statements": [{"title": "Mixed precision", "text": text}],
        "rows": rows,
    }


def use_plain_depthwise(network: nn.Module) -> None:
    """Replace the depthwise convolutions by PyTorch's own, with the same padding."""
    for block in network.modules():
        if isinstance(block, Bottleneck):
            conv = block._depthwise_conv
            pad = conv.kernel_size[0] - conv.stride[0]
            sides = (pad // 2, pad - pad // 2)
            plain = nn.Conv2d(
                conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0],
                groups=conv.groups, bias=False,
            )  # fmt: skip
            padded = nn.Sequential(nn.ZeroPad2d((*sides, *sides)), plain)
            block.register_module("_depthwise_conv", padded)


def _step(network: nn.Module, precision: Precision) -> float:
    """Return the seconds of a step, forward and backward."""
    network.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    image = torch.rand(BATCH, 3, SIZE_PX, SIZE_PX) * 2 - 1
    image = image.contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(STEPS + 2):
        start = time.perf_counter()
        with autocast(image.device, precision):
            outputs = network(image)
        torch.stack(
            [output.float().square().mean() for output in outputs.values()]
        ).sum().backward()
        network.zero_grad()
        times.append(time.perf_counter() - start)
    return median(times[2:])
