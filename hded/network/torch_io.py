"""Files of tensors, loaded without executing anything that they hold."""

from pathlib import Path
from typing import Any

import torch

from hded.common.errors import HDEDError, first_line, out_of_memory


def load_tensors(path: Path) -> Any:
    """Return the tensors, numbers, text, lists and mappings of `path`, on the CPU.

    Raises HDEDError for a file that holds anything else; where it cannot be read, or memory is
    short, the error is that of the system.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # of bytes that torch did not write, its reader raises whatever they make it stumble over
    except Exception as error:
        if out_of_memory(error):
            raise
        raise HDEDError(f"{path}: holds no tensors of torch ({first_line(error)})") from error
