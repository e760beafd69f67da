"""From checked parameters and stores to everything that a fit is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hded.frames import Frames, validation_split
from hded.losses import HDEDLoss, LossWeights
from hded.network import HDEDNet
from hded.network.weights import Loaded, load_weights
from hded.optics import AnyCamera
from hded.sections import Network, Train
from hded.store import Store
from hded.training import FitSettings


@dataclass(frozen=True, slots=True)
class Recipe:
    """The arguments of `fit`, those of `HDEDNet`, and how published weights were taken up."""

    network: HDEDNet
    loss: HDEDLoss
    train: Frames
    validation: Frames | None
    settings: FitSettings
    arguments: dict[str, Any]
    loaded: Loaded | None


def prepare(
    network: Network,
    train: Train,
    scenes: Store,
    defocused: Store,
    *,
    seed: int,
    cameras: Sequence[AnyCamera] = (),
    weights: Path | None = None,
    rank: int = 0,
) -> Recipe:
    """Build a network from `seed`, fill its encoder from `weights`, load the training frames.

    cameras: what `train.refocus: on_the_fly` takes its samples through; rank: of this process among
    those that train together, whose dropout differs.
    """
    arguments = network.model_dump(exclude={"weights"})
    if network.depth_scale_m is None:
        arguments["depth_scale_m"] = scenes.attributes["max_depth_m"]
    torch.manual_seed(seed)
    model = HDEDNet(**arguments)
    loaded = load_weights(model.encoder, weights) if weights else None
    torch.manual_seed(seed + (rank << 32))
    loss = HDEDLoss(
        LossWeights(**train.loss.model_dump(exclude={"balance"})),
        arguments["depth_scale_m"],
        train.loss.balance,
    )
    fitted, held = validation_split(scenes.frames, scenes.indices("train"), train.validation, seed)
    load = (scenes, defocused)
    how = (train.geometry, train.size_px)
    if train.refocus == "stored":
        cameras = ()
    frames = Frames(*load, fitted, *how, cameras, train.input)
    validation = Frames(*load, held, *how, input=train.input) if len(held) else None
    names = FitSettings.__dataclass_fields__.keys() & Train.model_fields.keys()
    chosen = {key: getattr(train, key) for key in names}
    settings = FitSettings(**{**chosen, "betas": tuple(train.betas), "seed": seed})
    return Recipe(model, loss, frames, validation, settings, arguments, loaded)
