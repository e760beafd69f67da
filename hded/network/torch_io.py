"""Loading of tensor files without executing code that they may contain, and mixed precision."""

from pathlib import Path
from typing import Any

import torch

from hded.common.errors import HDEDError, out_of_memory
from hded.config.schema import Precision


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a network computes at `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def load_tensors(path: Path) -> Any:
    """Return the content of `path` (tensors, numbers, text, lists, mappings), on the CPU.

    Raises HDEDError for a file with any other content. OSError and out-of-memory errors are not
    converted.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # torch's reader may raise any exception on bytes that torch did not write
    except Exception as error:
        if out_of_memory(error):
            raise
        raise HDEDError(
            f"{path}: holds no tensors of torch, or other objects beside them; correct the path"
        ) from error
