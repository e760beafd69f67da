"""A trained network with the settings that inference needs: saving, loading, prediction."""

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
    """A network and the input geometry that it was trained with.

    The network is put in evaluation mode, on `device`, in channels-last memory format, which is
    faster for the paper's network in float32 on a CPU (`make benchmark`); outputs are equal up to
    rounding.
    """

    network: HDEDNet
    geometry: Geometry
    size_px: int
    device: torch.device

    def __post_init__(self) -> None:
        self.network.to(self.device, memory_format=torch.channels_last).eval()

    def __call__(self, defocused: NDArray[np.uint8]) -> dict[str, NDArray]:
        """Return the outputs for one image (H, W, 3) uint8.

        Keys, as the network has heads: `depth`, float32 (h, w) [m], and `all_in_focus`, uint8
        (h, w, 3). (h, w) is the image's size, or size_px x size_px for the geometry `resize`.
        """
        return self.batch([defocused])[0]

    @torch.no_grad()
    def batch(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, NDArray]]:
        """Return the outputs for images of one size; equal to single predictions up to rounding.

        Raises HDEDError for an output that is not finite, a sign that training diverged.
        """
        if self.geometry == "resize":
            images = [resize_rgb(image, (self.size_px, self.size_px)) for image in images]
        given = torch.stack([to_network_range(image) for image in images]).to(self.device)
        outputs = self.network(given)
        for head, output in outputs.items():
            if not output.isfinite().all():
                raise HDEDError(
                    f"the output of the {head.replace('_', '-')} head is not finite: training has "
                    "diverged; train again with a lower train.lr"
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
    """Write a state dict with the arguments of `HDEDNet` that rebuild its network."""
    content = {
        "format": FORMAT,
        "network": dict(network),
        "geometry": geometry,
        "size_px": size_px,
        "state_dict": dict(state),
    }
    draft = path.with_suffix(".part")
    with draft.open("wb") as stream:  # its errors name the cause; those of torch's writer do not
        torch.save(content, stream)
    draft.replace(path)


def load_predictor(
    path: Path, device: torch.device | str = "cpu", heads: Sequence[str] | None = None
) -> Predictor:
    """Load what `save_weights` wrote; no code in the file is executed (`weights_only`).

    heads: the heads to keep, to save the time of the others; None keeps all. A kept head's output
    does not change. Raises HDEDError for a missing file and for one of another format.
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
    # files of other programs lack some key, or hold values of another type
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise HDEDError(f"{path}: not weights of this program ({str(error)[:200]})") from error
    return Predictor(network, geometry, size_px, torch.device(device))
