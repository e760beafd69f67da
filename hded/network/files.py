"""Files of trained networks: tensors, and what is needed to use them.

A file is in the format safetensors: it holds tensors and a header, and nothing that could be
executed. The header's one entry, `hded`, is a `Header` as JSON.
"""

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hded.common.errors import HDEDError, first_line
from hded.common.files import replacing
from hded.config.schema import Geometry
from hded.network.torch_io import load_tensors
from hded.records import Record

NAME = "weights.safetensors"
FORMAT, OLD_FORMAT = 2, 1
ENTRY = "hded"


class Scale(Record):
    """The sizes that a network knows from its training images.

    `image_width_px`: their width before any crop; `gain_px`: the smallest and the largest CoC [px]
    of a point at infinity; `focus_distance_m`: the median one. The last two are None where the
    images were not defocused.
    """

    image_width_px: int
    gain_px: tuple[float, float] | None = None
    focus_distance_m: float | None = None


class Header(Record):
    """The description of a network, and of the images that trained it.

    `network`: the arguments of `HDEDNet`, depth scale and range [m] among them; `geometry`: crop or
    resize, `size_px`: the side of the training images; `cameras`: descriptions of those by which
    the training images were defocused, as many as the network reads images; `data`: name and source
    of the training images; `scale`: see `Scale`.
    """

    format: int = FORMAT
    network: dict[str, Any]
    geometry: Geometry
    size_px: int
    cameras: tuple[dict[str, Any], ...] = ()
    data: dict[str, str] = Field(default_factory=dict)
    scale: Scale | None = None


def save_network(path: Path, state: Mapping[str, Tensor], header: Header) -> None:
    """Write a network's state dict and its header; equal content gives equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # a single entry, since the order of several is not defined
    entry = json.dumps(header.model_dump(mode="json"), sort_keys=True)
    content = safetensors.torch.save(tensors, {ENTRY: entry})
    with replacing(path) as draft:
        draft.write_bytes(content)


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the weights of its convolutions in half precision.

    All else, the statistics and scales of norms among it, is small and keeps its precision. Raises
    HDEDError for a weight that half precision cannot hold.
    """
    found = {}
    for name, tensor in state.items():
        small = tensor.half() if tensor.ndim > 1 else tensor
        if not small.isfinite().all():
            raise HDEDError(f"{name}: too large for half precision")
        found[name] = small
    return found


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as one of safetensors does: a length, then a JSON object."""
    with path.open("rb") as stream:
        start = stream.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < 1 << 32


def read_network(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Return the header and the state dict of a file of `save_network`, on the CPU.

    Files of earlier versions, which torch wrote, are read too, with a warning. Raises HDEDError for
    a file that is missing, damaged or of another program.
    """
    try:
        if not is_safetensors(path):
            return _read_old(path)
        with safe_open(path, "pt") as file:
            entry = (file.metadata() or {}).get(ENTRY)
            state = {name: file.get_tensor(name) for name in file.keys()}
        if entry is None:
            raise ValueError("its header has no entry `hded`")
        header = Header.model_validate_json(entry)
        if header.format != FORMAT:
            raise HDEDError(f"{path}: format {header.format}, expected {FORMAT}")
        return header, state
    except FileNotFoundError:
        raise HDEDError(f"{path}: no such file; give a trained network's {NAME}") from None
    except OSError as error:
        raise HDEDError(f"{path}: cannot be read ({first_line(error)})") from error
    # a file of another program may fail in any of these ways
    except (SafetensorError, ValidationError, KeyError, TypeError, ValueError) as error:
        raise HDEDError(f"{path}: not weights of this program ({first_line(error)})") from error


def _read_old(path: Path) -> tuple[Header, dict[str, Tensor]]:
    content = load_tensors(path)
    if content["format"] != OLD_FORMAT:
        raise HDEDError(f"{path}: format {content['format']}, expected {OLD_FORMAT} or {FORMAT}")
    print(
        f"warning: {path}: was written by an earlier version; its header states no training data",
        file=sys.stderr,
    )
    header = Header(
        network=dict(content["network"]),
        geometry=content["geometry"],
        size_px=content["size_px"],
        cameras=tuple(content.get("cameras", ())),
    )
    return header, dict(content["state_dict"])
