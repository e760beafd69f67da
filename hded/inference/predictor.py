"""A trained network and its settings: saved, loaded, and applied to images."""

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
from hded.network.files import Scale, read_network
from hded.network.normalize import to_counts, to_network_range, to_uint8
from hded.optics import ThinLens, recorded_lens


@dataclass(frozen=True, slots=True)
class Predictor:
    """A network and the input geometry that it was trained with.

    The network is moved to `device`, in evaluation mode and channels-last layout. That layout is
    faster for the paper's network in float32 on a CPU (`make benchmark`), and its outputs are
    equal up to rounding.
    """

    network: HDEDNet
    geometry: Geometry
    size_px: int
    device: torch.device
    cameras: Sequence[Mapping[str, Any]] = ()  # of the training images; empty: not recorded
    scale: Scale | None = None  # of the training images; None: not recorded
    hflip: bool = False  # outputs are the mean of those of the image and of its mirror image

    def __post_init__(self) -> None:
        self.network.to(self.device, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]

    @property
    def lens(self) -> ThinLens | None:
        """Return the lens of the training images, None where they had several or none is known."""
        return recorded_lens(self.cameras[0], {}) if self.cameras else None

    def __call__(
        self, defocused: NDArray[np.uint8], lens: ThinLens | None = None, *, rounded: bool = True
    ) -> dict[str, NDArray]:
        """Return the outputs for one image (H, W, 3 shots) uint8, by head.

        `depth`: float32 metres (h, w), perhaps with `confidence`, float32 (h, w), the probability
        that it is within a factor of 1.25; `all_in_focus`: uint8 (h, w, 3). (h, w) is the image's
        size, or size_px x size_px for a network trained on resized frames. lens, rounded: see
        `batch`.
        """
        return self.batch([defocused], [lens], rounded=rounded)[0]

    @torch.no_grad()
    def batch(
        self,
        images: Sequence[NDArray[np.uint8]],
        lenses: Sequence[ThinLens | None] | None = None,
        *,
        rounded: bool = True,
    ) -> list[dict[str, NDArray]]:
        """Return the outputs for images of one size: those of single images, up to rounding.

        lenses: that of each image, for a network that needs it; None is that of the training
        images. rounded: False returns `all_in_focus` as float32, not clipped. Raises HDEDError
        where there is no lens, for an output that is not finite: the network has diverged, and for
        another number of shots than the network reads.
        """
        shots = self.network.shots
        if any(image.shape[-1] != 3 * shots for image in images):
            raise HDEDError(
                f"the network reads {shots} images side by side, by the cameras that it was "
                f"trained with; it was given {images[0].shape[-1] // 3}"
            )
        if self.geometry == "resize":
            size = (self.size_px, self.size_px)
            images = [
                np.concatenate([resize_rgb(s, size) for s in np.split(image, shots, -1)], -1)
                for image in images
            ]
        given = torch.stack([to_network_range(image) for image in images]).to(self.device)
        rows = self._rows(lenses or [None] * len(images))
        outputs = self.network(given, lens=rows)
        if self.hflip:
            mirrored = self.network(given.flip(-1), lens=rows)
            outputs = {k: (v + mirrored[k].flip(-1)) / 2 for k, v in outputs.items()}
        for head in self.network.heads:
            output = outputs[head]
            if not output.isfinite().all():
                raise HDEDError(
                    f"the output of the {head.replace('_', '-')} head is not finite: training has "
                    "diverged; train again with a lower train.lr"
                )
        arrays: dict[str, NDArray] = {}
        if "depth" in outputs:
            arrays["depth"] = outputs["depth"][:, 0].float().cpu().numpy()
        if "confidence" in outputs:
            arrays["confidence"] = outputs["confidence"][:, 0].float().cpu().numpy()
        if "all_in_focus" in outputs:
            convert = to_uint8 if rounded else to_counts
            arrays["all_in_focus"] = convert(outputs["all_in_focus"].float())
        return [{head: array[i] for head, array in arrays.items()} for i in range(len(images))]

    def _rows(self, lenses: Sequence[ThinLens | None]) -> Tensor | None:
        """Return the lenses (B, 6) of B images; None where the network needs none."""
        if not self.network.needs_lens:
            return None
        found = [lens or self.lens for lens in lenses]
        known = [lens.row() for lens in found if lens is not None]
        if len(known) < len(found):
            raise HDEDError(
                "the network was trained with several lenses and needs that of each image, which "
                "is not stated"
            )
        return torch.tensor(known, dtype=torch.float32, device=self.device)


def load_predictor(
    path: Path,
    device: torch.device | str = "cpu",
    heads: Sequence[str] | None = None,
    *,
    hflip: bool = False,
) -> Predictor:
    """Return the network in a file of `save_network`; nothing in it is executed.

    heads: the heads to keep, with unchanged outputs, to save the time of the others; None keeps
    all. hflip: see `Predictor`.
    """
    header, state = read_network(path)
    arguments = header.network
    try:
        if heads is not None:
            if not set(heads) <= set(arguments["heads"]):
                raise HDEDError(f"{path}: has the heads {arguments['heads']}, not {list(heads)}")
            dropped = tuple(f"decoders.{h}." for h in arguments["heads"] if h not in heads)
            dropped += ("joint_conv.",) if "all_in_focus" not in heads else ()
            dropped += ("lens_features.",) if "depth" not in heads else ()
            if arguments.get("cascade", "none") != "none":
                raise HDEDError(f"{path}: its heads need each other; leave --heads out")
            arguments = {**arguments, "heads": list(heads)}
            state = {name: t for name, t in state.items() if not name.startswith(dropped)}
        network = HDEDNet(**arguments)
        network.load_state_dict(state)
    # a header that does not fit its tensors may fail in any of these ways
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise HDEDError(f"{path}: not weights of this program ({str(error)[:200]})") from error
    on = torch.device(device)
    return Predictor(
        network, header.geometry, header.size_px, on, header.cameras, header.scale, hflip
    )
