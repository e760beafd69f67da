"""Stage `train`: fit one variant on one dataset, data/trained/<dataset>/<variant>/<seed>.

    python -m pipeline.train --dataset nyu --variant full --seed 0

Writes weights.pt, history.csv and run.json, whose run id lets later stages log to the same MLflow
run. Checkpoints lie in data/checkpoints, apart from DVC's outs: started again after a crash, the
stage goes on from the last one, in the same MLflow run; a fit that is done is not done again.
"""

import os
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pandas as pd

from hded.common.errors import HDEDError
from hded.common.secrets import hide_secrets
from hded.config.params import load_params
from hded.config.schema import Train
from hded.inference import save_weights
from hded.network.weights import find_weights
from hded.records import TrainingRecord, read_record, to_json
from hded.store import open_store
from hded.training.build import fit_recipe, prepare
from hded.training.checkpoint import Checkpoints
from pipeline.lib import fingerprint, launch, provenance, stage
from pipeline.lib.mlflow_model import log_model
from pipeline.lib.tracking import EXPERIMENT, OF_TRAINING, Tracker, portable, track, unfinished


def main() -> None:
    """Run the stage."""
    args = stage.parser(__doc__, "dataset", "variant", "seed").parse_args()
    params = load_params(stage.PARAMS)
    network, train, _ = params.variant(args.variant)
    launch.relaunch_on_devices(train.devices, "pipeline.train")
    stores = [stage.FRAMES / args.dataset, stage.DEFOCUSED / args.dataset]
    scenes, defocused = map(open_store, stores)
    weights = None
    if network.weights != "none":
        weights = find_weights(network.weights, network.encoder, stage.data_dir() / "weights")
    camera = defocused.attributes["camera"]
    settings = {
        "network": network.model_dump(),
        # how often it is saved changes nothing of a fit
        "train": train.model_dump(by_alias=True, exclude={"checkpoint_minutes"}),
        "camera": camera,
    }
    who = {"dataset": args.dataset, "seed": args.seed}
    data = [*stores, *([weights] if weights else [])]
    key = fingerprint.of_fit(settings | who, data)
    checkpoints = Checkpoints(stage.checkpoints(), key, _in_place())
    name = f"{args.dataset}-{args.variant}-seed{args.seed}"
    tags = {
        **{key: str(value) for key, value in who.items()},
        "source": scenes.attributes["source"],
        "variant": args.variant,
        "camera": camera["name"],
        "params_digest": fingerprint.of_settings(settings | who),
        "commit": provenance.commit(),
        "stage": "train",
    }
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = experiment
    with launch.group(train.device) as (group, device):
        read = partial(
            prepare, network, train, scenes, defocused, seed=args.seed, weights=weights,
            cameras=params.defocus.cameras(), rank=group.rank,
        )  # fmt: skip
        if not group.leads:
            if not group.gather(None)[0]:
                with launch.graceful_shutdown() as should_stop:
                    fit_recipe(read(), device, checkpoints, group=group, should_stop=should_stop)
            return
        with checkpoints.alone():
            done = checkpoints.result()
            group.gather(done is not None)
            saved = done or checkpoints.load()
            # done, but its run not finished: a kill came between the fit's end and this stage's
            with track(name, tags, unfinished(saved, name)) as tracker:
                tracker.params(settings)
                hardware = provenance.hardware(device, group.size)
                facts = {"run_id": tracker.run_id, "hardware": hardware}
                if saved and saved["run_id"] != tracker.run_id:
                    tracker.tag("fitted_in_run", saved["run_id"])
                    for record in saved["history"]:
                        _log(tracker, record)
                if not done:
                    with launch.graceful_shutdown() as should_stop:
                        fit_recipe(
                            read(), device, checkpoints, group=group, should_stop=should_stop,
                            on_epoch=lambda record: _log(tracker, record),
                            facts=facts,
                        )  # fmt: skip
                    done = checkpoints.result()
                assert done is not None
                run = {
                    "fit": key,
                    "hardware": done["hardware"],
                    "run_id": tracker.run_id,
                    "run_name": name,
                    "experiment": EXPERIMENT,
                    "tracking_uri": portable(tracker.uri),
                    "train": settings["train"],
                    "weights": hide_secrets(network.weights),
                    "params_digest": tags["params_digest"],
                    "commit": tags["commit"],
                    "versions": provenance.versions(),
                }
                _write(args, train, done, run, tracker)


def _in_place() -> set[str]:
    """Give the fits of the networks that are there: a control may test one of them later."""
    found = set()
    for path in stage.TRAINED.glob("*/*/*/run.json"):
        with suppress(HDEDError):  # cut short by a kill: it is written again
            found.add(read_record(TrainingRecord, path).fit)
    return found


def _write(
    args: Namespace, train: Train, done: Mapping[str, Any], run: Mapping[str, Any], tracker: Tracker
) -> None:
    """Write the stage's files, and log them."""
    out = stage.TRAINED / args.dataset / args.variant / str(args.seed)
    out.mkdir(parents=True, exist_ok=True)
    model = done["record"]["model"]
    save_weights(out / "weights.pt", done["state"], model, train.geometry, train.size_px)
    history = pd.DataFrame(done["history"])
    history.to_csv(out / "history.csv", index=False)
    curve = stage.plot_path(stage.CURVES, args.dataset, args.variant, args.seed, ".csv")
    history.to_csv(curve, index=False)
    record = TrainingRecord.model_validate({**done["record"], **run}, strict=False)
    stage.write_json(out / "run.json", to_json(record))
    log_model(tracker, out / "weights.pt", model["heads"])
    for file in OF_TRAINING:
        tracker.artifacts(out / file)


def _log(tracker: Tracker, record: Mapping[str, float]) -> None:
    figures = {name: value for name, value in record.items() if name != "epoch"}
    tracker.metrics(figures, step=int(record["epoch"]))


if __name__ == "__main__":
    stage.run(main)
