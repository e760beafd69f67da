"""Files of tensors, loaded without executing anything that they hold."""

from pathlib import Path
from typing import Any

import torch

from hded.errors import HDEDError, first_line


def load_tensors(path: Path) -> Any:
    """Give the tensors, numbers, text, lists and mappings of `path`, on the CPU.

    Raises FileNotFoundError, and HDEDError for a file that holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    # of bytes that torch did not write, its reader raises whatever they make it stumble over
    except Exception as error:
        raise HDEDError(f"{path}: holds no tensors of torch ({first_line(error)})") from error
