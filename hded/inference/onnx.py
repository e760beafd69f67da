"""Export a trained network as ONNX, for images of any size."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hded.common.errors import HDEDError
from hded.common.files import replacing
from hded.inference import Predictor
from hded.network.hded import STRIDE, HDEDNet


class _Portable(nn.Module):
    """The network with its padding written as indexing, which can be exported for any size."""

    def __init__(self, network: HDEDNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, rgb: Tensor, lens: Tensor | None = None) -> tuple[Tensor, ...]:
        height, width = rgb.shape[-2:]
        padded = rgb.index_select(2, _reflected(height)).index_select(3, _reflected(width))
        outputs = self.network(padded, lens=lens)
        return tuple(outputs[head][..., :height, :width] for head in self.network.heads)


def _reflected(length: int) -> Tensor:
    """Return 0 ... length - 1, then backwards, up to a multiple of the network's stride."""
    places = torch.arange((length + STRIDE - 1) // STRIDE * STRIDE)
    return (length - 1) - ((length - 1) - places).abs()


def export_onnx(predictor: Predictor, path: Path) -> None:
    """Write the network as ONNX: input `rgb` (1, 3, H, W) in [-1, 1], with H and W at least 17.

    A network that needs the lens has a second input, `lens` (1, 6), a `ThinLens.row()`. Outputs are
    named after the heads and equal those of `HDEDNet.forward`. A network trained on resized frames
    needs images of its training size. Raises HDEDError without the extra `onnx`.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise HDEDError(
            "ONNX export needs the packages onnx and onnxscript; run `pip install -e '.[onnx]'` in "
            "the project's folder"
        ) from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    free = torch.export.Dim.DYNAMIC
    example = {"rgb": torch.zeros(1, 3 * predictor.network.shots, 2 * STRIDE, 3 * STRIDE)}
    free_sides: dict[str, dict[int, Any]] = {"rgb": {2: free, 3: free}}
    if predictor.network.needs_lens:
        example["lens"] = torch.ones(1, 6)
        free_sides["lens"] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raised by the exporter itself
        program = torch.onnx.export(
            _Portable(predictor.network).eval(),
            tuple(example.values()),
            dynamo=True,
            verbose=False,
            input_names=list(example),
            output_names=list(predictor.network.heads),
            dynamic_shapes=free_sides,
        )
    assert program is not None
    with replacing(path) as draft:
        program.save(draft, external_data=False)
