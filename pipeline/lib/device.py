"""Choice of the device that a stage computes on."""

import torch

from hded.common.errors import HDEDError


def resolve_device(name: str, key: str) -> str:
    """Return `cpu` or `cuda` for the value `auto`, `cpu` or `cuda` of the setting `key`."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise HDEDError(f"{key}: cuda is not available here; set auto or cpu")
    return name
