"""From checked parameters and stores to a network that is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hded.blur.lenses import need_lenses
from hded.blur.render import PHOTOGRAPHS, check_rendered
from hded.common.errors import HDEDError
from hded.common.memory import available_bytes
from hded.config.schema import Network, Train
from hded.network import HDEDNet
from hded.network.weights import Loaded, load_weights, load_whole
from hded.optics import Camera
from hded.store import Store
from hded.training.checkpoint import Checkpoints
from hded.training.distributed import Group
from hded.training.frames import RESIDENT_SHARE, TrainingFrames, resident_bytes
from hded.training.loop import fit
from hded.training.loss_log import NotFiniteError
from hded.training.losses import HDEDLoss
from hded.training.samplers import Sampler, build_sampler
from hded.training.validation import validation_split

# the nearest depth of NYU, and the margin that its authors' readers leave at the far end
MIN_DEPTH_M, RANGE_MARGIN = 0.7, 1.02


@dataclass(frozen=True, slots=True)
class FitInputs:
    """The arguments of `fit` and of `HDEDNet`, and which published weights were loaded."""

    network: HDEDNet
    loss: HDEDLoss
    train: Sampler
    validation: TrainingFrames | None
    settings: Train
    seed: int
    arguments: dict[str, Any]
    loaded: Loaded | None


def build_fit(
    network: Network,
    train: Train,
    scenes: Store,
    defocused: Sequence[Store],
    *,
    seed: int,
    cameras: Sequence[Sequence[Camera]] = (),
    weights: Path | None = None,
    rank: int = 0,
) -> FitInputs:
    """Build a network from `seed`, load `weights` into it, and the training frames.

    defocused: the renderings by each camera whose picture the network reads; cameras: the same
    cameras, each once for each focus distance, with which `train.refocus: on_the_fly` renders its
    samples; rank: of this process among those that train together, whose dropout differs.
    """
    shots = 1 if train.network_input == "sharp" else len(defocused)
    arguments = network_arguments(network, scenes.attributes["max_depth_m"], shots)
    torch.manual_seed(seed)
    model = HDEDNet(**arguments)
    loaded = None
    if weights and network.weights_for == "network":
        loaded = load_whole(model, arguments, weights)
    elif weights and model.encoder is not None:
        loaded = load_weights(model.encoder, weights)
        if model.second is not None:
            load_weights(model.second.encoder, weights)
    torch.manual_seed(seed + (rank << 32))
    loss = build_loss(model, train)
    _check_data(network, train, scenes)
    training, held_out = validation_split(
        scenes.frames, scenes.indices("train"), train.val_fraction, seed
    )
    how = (train.geometry, train.size_px, train.network_input)
    anew = train.refocus == "on_the_fly" and train.network_input == "defocused"
    if anew and any(
        store.attributes["camera"].get("renderer") == PHOTOGRAPHS for store in defocused
    ):
        raise HDEDError(
            f"{scenes.attributes['dataset']}: its defocused images are photographs, which "
            "train.refocus: on_the_fly would not read; set it to stored"
        )
    reads = loss.needs_defocused or train.network_input == "defocused"
    for store in defocused if reads else ():
        dataset, truths = scenes.attributes["dataset"], scenes.attributes["truths"]
        check_rendered(dataset, truths, store.attributes["camera"])
    stores = defocused if reads and not anew else ()
    kept = (train.size_px, train.size_px) if train.geometry == "resize" and not anew else None
    count = len(training) + len(held_out)
    streams = _streams(train, resident_bytes(scenes, stores, count, kept))
    frames = TrainingFrames(
        scenes, defocused, training, *how, stored=reads and not anew, streams=streams
    )
    validation = None
    if len(held_out):
        validation = TrainingFrames(
            scenes, defocused, held_out, *how, stored=reads, exposed=True, streams=streams
        )
    if loss.needs_defocused and not anew:
        need_lenses(frames.shots[0].lenses, "train.loss: re-blurring")
    if model.needs_lens and not anew:
        need_lenses(frames.shots[0].lenses, "network.readout: coc, or network.reads_lens,")
    sampler = build_sampler(frames, cameras if anew else (), (train.reduce[0], train.reduce[1]))
    return FitInputs(model, loss, sampler, validation, train, seed, arguments, loaded)


def _streams(train: Train, needed: int) -> bool:
    """Return whether frames are read as they are needed, rather than kept in memory [bytes]."""
    if train.memory != "auto":
        return train.memory == "stream"
    # each process holds them
    return needed * train.devices > RESIDENT_SHARE * available_bytes()


def _check_data(network: Network, train: Train, scenes: Store) -> None:
    """Raise HDEDError for a store without training frames, or without a head's truth."""
    name = scenes.attributes["dataset"]
    if not len(scenes.indices("train")):
        raise HDEDError(
            f"{name}: has no training frame; train on another dataset (variants.X.train_on)"
        )
    needs = {*network.heads, *(["all_in_focus"] if train.network_input == "sharp" else [])}
    for truth in sorted(needs - set(scenes.attributes["truths"])):
        raise HDEDError(
            f"{name}: its frames hold no true {truth.replace('_', '-')}, which this network is "
            "trained with; leave the head out, or train on another dataset (variants.X.train_on)"
        )


def network_arguments(network: Network, max_depth_m: float, shots: int) -> dict[str, Any]:
    """Return the arguments of `HDEDNet` for a dataset of this largest depth and for so many shots.

    They are those of params.yaml, where what depends on the dataset is filled in.
    """
    arguments = network.model_dump(exclude={"weights", "weights_for"})
    if network.depth_scale_m is None:
        arguments["depth_scale_m"] = max_depth_m
    if network.depth_range_m is None:
        nearest = MIN_DEPTH_M if max_depth_m > 2 * MIN_DEPTH_M else max_depth_m / 20
        arguments["depth_range_m"] = (nearest, RANGE_MARGIN * max_depth_m)
    return arguments | {"shots": shots}


def build_loss(model: HDEDNet, train: Train) -> HDEDLoss:
    """Return the loss that trains a network."""
    thresholds = model.readout.thresholds if model.readout.name == "ordinal" else None
    return HDEDLoss(train.loss, model.depth_scale_m, thresholds)  # pyright: ignore[reportArgumentType]


def run_fit(
    inputs: FitInputs,
    device: torch.device,
    checkpoints: Checkpoints,
    *,
    group: Group,
    should_stop: Callable[[], bool],
    on_epoch: Callable[[Mapping[str, float]], None] = lambda record: None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Train, from the latest of `checkpoints` on, and leave the result there.

    The result holds `state`, `history`, `record` (what was trained, as plain values) and `facts`,
    which every checkpoint holds, too. The record's `wall_s` is the time spent on training steps
    [s], summed over interruptions. See `fit` for the other arguments. Raises HDEDError for a loss
    that is not finite, and saves its batch beside the checkpoints.
    """
    facts = dict(facts or {})
    resident = inputs.train.frames.move_to(device)
    try:
        result = fit(
            inputs.network,
            inputs.loss,
            inputs.train,
            inputs.validation,
            inputs.settings,
            device,
            on_epoch,
            seed=inputs.seed,
            save=lambda state: checkpoints.save({**state, **facts}),
            # the others may be on machines that do not share the first one's disk
            resume=group.share(checkpoints.load() if group.leads else None),
            should_stop=should_stop,
            group=group,
        )
    except NotFiniteError as error:
        batch = {name: getattr(error.batch, name) for name in error.batch.__slots__}
        raise HDEDError(f"{error}; its tensors are in {checkpoints.save_batch(batch)}") from None
    record = {
        "model": inputs.arguments,
        "weights_loaded": inputs.loaded and asdict(inputs.loaded),
        "parameters": sum(p.numel() for p in inputs.network.parameters()),
        "epochs": inputs.settings.epochs,
        "best_epoch": result.best_epoch,
        "train_frames": len(inputs.train),
        "val_frames": len(inputs.validation or ()),
        "resident": resident,
        "devices": group.size,
        "wall_s": round(sum(epoch["seconds"] for epoch in result.history), 1),
    }
    if group.leads:
        checkpoints.finish(
            {"state": result.state, "history": result.history, "record": record, **facts}
        )
