"""Stage `train`: fit one variant on one dataset, data/trained/<dataset>/<variant>/<seed>.

    python -m pipeline.train --dataset nyu --variant full --seed 0

With `train.nodes` above 1, the same command is run on so many machines, which have the same data.
HDED_RENDEZVOUS is the first machine's address, HOST:PORT, on all of them, and HDED_NODE the number
of each: 0 (or nothing) on the first, which alone reads and writes checkpoints and results.

Writes weights.safetensors, history.csv and run.json, whose run id lets later stages log to the same
MLflow run. Checkpoints lie in data/checkpoints, outside DVC's outs. After a crash the stage
continues from the last checkpoint, in the same MLflow run; a fit that is done is not repeated.
"""

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch

from hded.common.errors import HDEDError, hide_secrets
from hded.common.files import write_csv, write_json
from hded.config.params import Params, load_params
from hded.config.schema import Network, Train
from hded.network import files
from hded.network.weights import find_weights
from hded.records import TrainingRecord, read_record, to_json
from hded.store import Store, open_store
from hded.training.build import FitInputs, build_fit, run_fit
from hded.training.checkpoint import Checkpoints
from hded.training.distributed import Group
from hded.training.frames import stored_lenses
from pipeline.lib import fingerprint, launch, provenance, stage
from pipeline.lib.mlflow_model import log_model
from pipeline.lib.tracking import EXPERIMENT, OF_TRAINING, Tracker, portable, track, unfinished


@dataclass(frozen=True, slots=True)
class Job:
    """One fit: a cell of the selection with its settings, its data and its key."""

    args: Namespace
    network: Network
    train: Train
    settings: dict[str, Any]
    tags: dict[str, str]
    key: str
    data: dict[str, Any]  # as Tracker.dataset takes it
    checkpoints: Checkpoints
    build: Callable[..., FitInputs]  # takes the process's `rank`
    scale: files.Scale

    @property
    def name(self) -> str:
        """Name of the MLflow run."""
        return f"{self.args.dataset}-{self.args.variant}-seed{self.args.seed}"


def main() -> None:
    """Run the stage, as the leader or as a follower of the processes that train together.

    Collectives come in one order in every process: the leader says whether the fit is done
    (`gather`), then, unless it is, all of them train (`run_fit`).
    """
    args = stage.parser(__doc__, "dataset", "variant", "seed").parse_args()
    params = load_params(stage.PARAMS)
    train = params.variant(args.variant)[1]
    launch.relaunch_on_devices("pipeline.train", train.devices, train.nodes)
    with launch.group(train.device) as (group, device):
        # in here, so that a machine that lacks the data ends the others, too
        job = _job(args, params)
        _check_alike(group, job)
        if group.leads:
            _lead(job, group, device)
        else:
            _follow(job, group, device)


def _job(args: Namespace, params: Params) -> Job:
    """Return what the command line and params.yaml ask for; opens the stores."""
    network, train, _ = params.variant(args.variant)
    dataset = params.training_dataset(args.variant, args.dataset)
    names = params.camera_names(args.variant, dataset)
    stores = [stage.DEFOCUSED / dataset / name for name in names]
    scenes, defocused = open_store(stage.FRAMES / dataset), [*map(open_store, stores)]
    stores = [stage.FRAMES / dataset, *stores]
    weights = None
    if network.weights != "none":
        name = str(stage.local_weights(network.weights) or network.weights)
        weights = find_weights(name, network.encoder, stage.data_dir() / "weights")
    cameras = {name: s.attributes["camera"] for name, s in zip(names, defocused, strict=True)}
    settings = {
        "network": network.model_dump(),
        # neither how often checkpoints are written nor where frames lie changes the result
        "train": train.model_dump(by_alias=True, exclude={"checkpoint_minutes", "memory"}),
        "cameras": cameras,
    }
    who = {"dataset": dataset, "seed": args.seed}
    key = fingerprint.of_fit(settings | who, [*stores, *([weights] if weights else [])])
    tags = {
        **{name: str(value) for name, value in who.items()},
        "source": scenes.attributes["source"],
        "variant": args.variant,
        "camera": "+".join(names),
        "params_digest": fingerprint.of_settings(settings | who),
        "commit": provenance.commit(),
        "stage": "train",
    }
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = experiment
    build = partial(
        build_fit, network, train, scenes, defocused, seed=args.seed, weights=weights,
        cameras=[params.camera(name) for name in names],
    )  # fmt: skip
    checkpoints = Checkpoints(stage.checkpoints(), key, _in_place())
    data = {
        "name": dataset,
        "digest": fingerprint.of_data(*stores),
        "source": scenes.attributes["source"],
        "camera": "+".join(names),
    }
    scale = _scale(scenes, defocused[0], train)
    return Job(args, network, train, settings, tags, key, data, checkpoints, build, scale)


def _scale(scenes: Store, defocused: Store, train: Train) -> files.Scale:
    """Return the sizes of the training images, and the range of their lenses."""
    width_px = scenes.attributes["image_width_px"]
    rows, lenses = defocused.indices("train"), stored_lenses(defocused)
    if lenses is None or not len(rows) or train.network_input == "sharp":
        return files.Scale(image_width_px=width_px)
    gain_px, focus_m, *_ = lenses[torch.from_numpy(rows)].double().unbind(1)
    return files.Scale(
        image_width_px=width_px,
        gain_px=(gain_px.min().item(), gain_px.max().item()),
        focus_distance_m=focus_m.median().item(),
    )


def _check_alike(group: Group, job: Job) -> None:
    """Raise HDEDError in every process where one of them would train something else."""
    keys = group.gather(job.key)
    if other := [rank for rank, key in enumerate(keys) if key != keys[0]]:
        raise HDEDError(
            f"training: process {other[0] + 1} of {group.size} has other data, settings, code or "
            "versions of torch and numba than the first; give every machine the same"
        )


def _follow(job: Job, group: Group, device: torch.device) -> None:
    """Train beside the leader, which writes and logs, unless it says that the fit is done."""
    (done, *_) = group.gather(None)
    if not done:
        _fit(job, group, device)


def _lead(job: Job, group: Group, device: torch.device) -> None:
    """Train unless the fit is done, log to MLflow, and write the stage's files.

    A run that did not finish is continued, also where only the fit did: the process may have been
    killed between the end of the fit and the end of the stage.
    """
    with job.checkpoints.alone():
        done = job.checkpoints.result()
        group.gather(done is not None)
        saved = done or job.checkpoints.load()
        with track(job.name, job.tags, unfinished(saved, job.name)) as tracker:
            tracker.params(job.settings)
            hardware = provenance.hardware(device, group.size)
            tracker.tag("device", hardware)
            if saved and saved["run_id"] != tracker.run_id:
                tracker.tag("fitted_in_run", saved["run_id"])
            if saved:
                # a run of another variant's fit has none yet; one whose server died lacks the last
                logged = tracker.steps("lr")
                for record in saved["history"]:
                    if record["epoch"] not in logged:
                        _log(tracker, record)
            if done is None:
                _fit(
                    job, group, device,
                    on_epoch=partial(_log, tracker),
                    facts={"run_id": tracker.run_id, "hardware": hardware},
                )  # fmt: skip
                done = job.checkpoints.result()
            assert done is not None
            _write(job, done, tracker)


def _fit(job: Job, group: Group, device: torch.device, **options: Any) -> None:
    """Train this process's share of every batch; a collective."""
    with launch.graceful_shutdown() as should_stop:
        inputs = job.build(rank=group.rank)
        run_fit(inputs, device, job.checkpoints, group=group, should_stop=should_stop, **options)


def _record(job: Job, done: Mapping[str, Any], tracker: Tracker) -> TrainingRecord:
    """Return run.json's content for a fit that is done."""
    run = {
        "fit": job.key,
        "dataset": job.data["name"],
        "cameras": tuple(job.settings["cameras"].values()),
        "hardware": done["hardware"],
        "run_id": tracker.run_id,
        "run_name": job.name,
        "experiment": EXPERIMENT,
        "tracking_uri": portable(tracker.uri),
        "train": job.settings["train"],
        "weights": hide_secrets(job.network.weights),
        "weights_for": job.network.weights_for,
        "params_digest": job.tags["params_digest"],
        "commit": job.tags["commit"],
        "versions": provenance.versions(),
    }
    return TrainingRecord.model_validate({**done["record"], **run}, strict=False)


def _in_place() -> set[str]:
    """Return the keys of the fits whose networks are in data/trained: they stay on disk."""
    found = set()
    for path in stage.TRAINED.glob("*/*/*/run.json"):
        with suppress(HDEDError):  # cut short by a kill: it is written again
            found.add(read_record(TrainingRecord, path).fit)
    return found


def _write(job: Job, done: Mapping[str, Any], tracker: Tracker) -> None:
    """Write the stage's files, and log them."""
    args, train = job.args, job.train
    out = stage.TRAINED / args.dataset / args.variant / str(args.seed)
    out.mkdir(parents=True, exist_ok=True)
    record = _record(job, done, tracker)
    model = done["record"]["model"]
    header = files.Header(
        network=model,
        geometry=train.geometry,
        size_px=train.size_px,
        cameras=tuple(job.settings["cameras"].values()),
        data={"dataset": job.data["name"], "source": job.data["source"]},
        scale=job.scale,
    )
    files.save_network(out / files.NAME, done["state"], header)
    history = pd.DataFrame(done["history"])
    write_csv(out / "history.csv", history)
    curve = stage.plot_path(stage.CURVES, args.dataset, args.variant, args.seed, ".csv")
    write_csv(curve, history)
    write_json(out / "run.json", to_json(record))
    if record.model.shots == 1:  # a served model is given one image at a time
        log_model(tracker, out / files.NAME, record.model.heads)
    # MLflow's own duration counts neither the parts before an interruption nor the pause
    tracker.metrics({"train_seconds": record.wall_s})
    tracker.dataset(**job.data, context="training", frames=record.train_frames)
    if record.val_frames:
        tracker.dataset(**job.data, context="validation", frames=record.val_frames)
    for file in OF_TRAINING:
        tracker.artifacts(out / file)


def _log(tracker: Tracker, record: Mapping[str, float]) -> None:
    figures = {name: value for name, value in record.items() if name != "epoch"}
    tracker.metrics(figures, step=int(record["epoch"]))


if __name__ == "__main__":
    stage.run(main)
