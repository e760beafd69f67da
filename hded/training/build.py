"""From checked parameters and stores to everything that a fit is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hded.common.errors import HDEDError
from hded.config.schema import Network, Train
from hded.network import HDEDNet
from hded.network.weights import Loaded, load_weights
from hded.optics import AnyCamera
from hded.store import Store
from hded.training.checkpoint import Checkpoints
from hded.training.data import Frames, validation_split
from hded.training.distributed import Group
from hded.training.loop import NotFiniteError, fit
from hded.training.losses import HDEDLoss


@dataclass(frozen=True, slots=True)
class Recipe:
    """The arguments of `fit`, those of `HDEDNet`, and how published weights were taken up."""

    network: HDEDNet
    loss: HDEDLoss
    train: Frames
    validation: Frames | None
    settings: Train
    seed: int
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
    loss = HDEDLoss(train.loss, arguments["depth_scale_m"])
    fitted, held = validation_split(
        scenes.frames, scenes.indices("train"), train.val_fraction, seed
    )
    load = (scenes, defocused)
    how = (train.geometry, train.size_px)
    if train.refocus == "stored":
        cameras = ()
    frames = Frames(*load, fitted, *how, cameras, train.network_input)
    validation = Frames(*load, held, *how, network_input=train.network_input) if len(held) else None
    return Recipe(model, loss, frames, validation, train, seed, arguments, loaded)


def fit_recipe(
    recipe: Recipe,
    device: torch.device,
    checkpoints: Checkpoints,
    *,
    group: Group,
    should_stop: Callable[[], bool],
    on_epoch: Callable[[Mapping[str, float]], None] = lambda record: None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Fit, from the last of `checkpoints` on, and leave the result there.

    The result holds `state`, `history`, `record` (what was fitted, as plain values) and `facts`, as
    every checkpoint does. Its `wall_s` counts the training steps [s], over all interruptions. See
    `fit` for the other arguments. A loss that is not finite leaves its batch beside the checkpoints
    and raises HDEDError with its place.
    """
    facts = dict(facts or {})
    resident = recipe.train.reside(device)
    try:
        result = fit(
            recipe.network,
            recipe.loss,
            recipe.train,
            recipe.validation,
            recipe.settings,
            device,
            on_epoch,
            seed=recipe.seed,
            save=lambda state: checkpoints.save({**state, **facts}),
            resume=checkpoints.load(),
            should_stop=should_stop,
            group=group,
        )
    except NotFiniteError as error:
        batch = {name: getattr(error.batch, name) for name in error.batch.__slots__}
        raise HDEDError(f"{error}; its tensors are in {checkpoints.save_batch(batch)}") from None
    record = {
        "model": recipe.arguments,
        "weights_loaded": recipe.loaded and asdict(recipe.loaded),
        "parameters": sum(p.numel() for p in recipe.network.parameters()),
        "epochs": recipe.settings.epochs,
        "best_epoch": result.best_epoch,
        "train_frames": len(recipe.train),
        "val_frames": len(recipe.validation or ()),
        "resident": resident,
        "devices": group.size,
        "wall_s": round(sum(epoch["seconds"] for epoch in result.history), 1),
    }
    if group.leads:
        checkpoints.finish(
            {"state": result.state, "history": result.history, "record": record, **facts}
        )
