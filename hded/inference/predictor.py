"""A trained network with what is needed to use it: saved, loaded, applied to one image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hded.common.errors import HDEDError
from hded.common.resize import resize_rgb
from hded.config.schema import Geometry
from hded.network import HDEDNet
from hded.network.normalize import to_network_range, to_uint8
from hded.network.torch_io import load_tensors

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Predictor:
    """A network, and the geometry that it was trained with.

    The network is put in evaluation mode, on `device`, channels last: in float32 on a CPU that is
    faster for the paper's network (`make benchmark`), with the same figures to rounding.
    """

    network: HDEDNet
    geometry: Geometry
    size_px: int
    device: torch.device

    def __post_init__(self) -> None:
        self.network.to(self.device, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]

    def __call__(self, defocused: NDArray[np.uint8]) -> dict[str, NDArray]:
        """Estimate from one image (H, W, 3) uint8.

        `depth` float32 metres (h, w) and `all_in_focus` uint8 (h, w, 3), by the network's heads.
        (h, w) is the image's size, or size_px x size_px for a network trained on squashed frames.
        """
        return self.batch([defocused])[0]

    @torch.no_grad()
    def batch(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, NDArray]]:
        """Estimate from images of one size at once: each gives what it gives alone, to rounding.

        Raises HDEDError for an output that is not finite: of a network that diverged.
        """
        if self.geometry == "resize":
            images = [resize_rgb(image, (self.size_px, self.size_px)) for image in images]
        given = torch.stack([to_network_range(image) for image in images]).to(self.device)
        outputs = self.network(given)
        for head, output in outputs.items():
            if not output.isfinite().all():
                raise HDEDError(
                    f"the {head.replace('_', '-')} head gives numbers that are not finite: its "
                    "network has diverged; train it with a lower train.lr"
                )
        arrays: dict[str, NDArray] = {}
        if "depth" in outputs:
            arrays["depth"] = outputs["depth"][:, 0].float().cpu().numpy()
        if "all_in_focus" in outputs:
            arrays["all_in_focus"] = to_uint8(outputs["all_in_focus"].float())
        return [{head: array[i] for head, array in arrays.items()} for i in range(len(images))]


def save_weights(
    path: Path,
    state: Mapping[str, Tensor],
    network: Mapping[str, Any],
    geometry: Geometry,
    size_px: int,
) -> None:
    """Write a state dict with the arguments of `HDEDNet` that it belongs to."""
    content = {
        "format": FORMAT,
        "network": dict(network),
        "geometry": geometry,
        "size_px": size_px,
        "state_dict": dict(state),
    }
    draft = path.with_suffix(".part")
    with draft.open("wb") as stream:  # whose errors say why, where torch's own writer does not
        torch.save(content, stream)
    draft.replace(path)


def load_predictor(
    path: Path, device: torch.device | str = "cpu", heads: Sequence[str] | None = None
) -> Predictor:
    """Load what `save_weights` wrote; nothing in the file is executed (`weights_only`).

    heads: keep these alone, to save the others' time; None keeps all. What is kept gives the same
    output as in the whole network.
    """
    try:
        content = load_tensors(path)
        if content["format"] != FORMAT:
            raise HDEDError(f"{path}: format {content['format']}, expected {FORMAT}")
        arguments, state = content["network"], content["state_dict"]
        if heads is not None:
            if not set(heads) <= set(arguments["heads"]):
                raise HDEDError(f"{path}: has the heads {arguments['heads']}, not {list(heads)}")
            dropped = tuple(f"decoders.{h}." for h in arguments["heads"] if h not in heads)
            if "all_in_focus" not in heads:
                dropped += ("joint_conv.",)
            arguments = {**arguments, "heads": list(heads)}
            state = {name: t for name, t in state.items() if not name.startswith(dropped)}
        network = HDEDNet(**arguments)
        network.load_state_dict(state)
        geometry, size_px = content["geometry"], content["size_px"]
    except FileNotFoundError:
        raise HDEDError(f"{path}: no such file; train a network first (`dvc repro`)") from None
    # what other programs wrote fits nowhere
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise HDEDError(f"{path}: not a checkpoint of this program ({str(error)[:200]})") from error
    return Predictor(network, geometry, size_px, torch.device(device))
