"""Stage `train`: fit one variant on one dataset, data/trained/<dataset>/<variant>/<seed>.

    python -m pipeline.train --dataset nyu --variant full --seed 0

Writes weights.pt, history.csv and run.json, whose run id lets later stages log to the same MLflow
run. Checkpoints lie in data/checkpoints, apart from DVC's outs: started again after a crash, the
stage goes on from the last one, in the same MLflow run; a fit that is done is not done again.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd
import torch

from hded.checkpoint import Checkpoints
from hded.errors import HDEDError
from hded.group import Group
from hded.inference import save_weights
from hded.network.weights import find_weights
from hded.params import load_params
from hded.recipe import Recipe, prepare
from hded.store import open_store
from hded.training import NotFiniteError, fit
from pipeline import keys, launch, machine, stage
from pipeline.model import log_model
from pipeline.tracking import EXPERIMENT, Tracker, portable, track


def main() -> None:
    """Run the stage."""
    args = stage.parser(__doc__, "dataset", "variant", "seed").parse_args()
    params = load_params(stage.PARAMS)
    network, train, _ = params.variant(args.variant)
    launch.relaunch_if_many(train.devices, "pipeline.train")
    stores = [stage.SCENES / args.dataset, stage.DEFOCUSED / args.dataset]
    scenes, defocused = map(open_store, stores)
    weights = None
    if network.weights != "none":
        weights = find_weights(network.weights, network.encoder, stage.data_dir() / "weights")
    camera = defocused.attributes["camera"]
    settings = {
        "network": network.model_dump(),
        "train": train.model_dump(by_alias=True),
        "camera": camera,
    }
    who = {"dataset": args.dataset, "seed": args.seed}
    data = [*stores, *([weights] if weights else [])]
    checkpoints = Checkpoints(stage.checkpoints(), keys.of_fit(settings | who, data))
    name = f"{args.dataset}-{args.variant}-seed{args.seed}"
    tags = {
        **{key: str(value) for key, value in who.items()},
        "source": scenes.attributes["source"],
        "variant": args.variant,
        "camera": camera["name"],
        "params_digest": keys.of_settings(settings | who),
        "commit": machine.commit(),
        "stage": "train",
    }
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = experiment
    with launch.group(train.device) as (group, device):
        cook = partial(
            prepare, network, train, scenes, defocused, seed=args.seed, weights=weights,
            cameras=params.defocus.cameras(), rank=group.rank,
        )  # fmt: skip
        if not group.leads:
            if checkpoints.result() is None:
                _fit(cook(), device, group, checkpoints, None)
            return
        with track(name, tags, (checkpoints.load() or {}).get("run_id")) as tracker:
            tracker.params(settings)
            start = time.perf_counter()
            result = checkpoints.result()
            if result is None:
                result = _fit(cook(), device, group, checkpoints, tracker)
            else:
                tracker.tag("fitted_in_run", result["run_id"])
                for record in result["history"]:
                    _log(tracker, record)
            out = stage.TRAINED / args.dataset / args.variant / str(args.seed)
            out.mkdir(parents=True, exist_ok=True)
            save_weights(
                out / "weights.pt",
                result["state"],
                result["record"]["model"],
                train.geometry,
                train.size_px,
            )
            pd.DataFrame(result["history"]).to_csv(out / "history.csv", index=False)
            run = {
                **result["record"],
                "run_id": tracker.run_id,
                "run_name": name,
                "experiment": EXPERIMENT,
                "tracking_uri": portable(tracker.uri),
                "train": settings["train"],
                "weights": network.weights,
                "params_digest": tags["params_digest"],
                "commit": tags["commit"],
                "versions": machine.versions(),
                "wall_s": round(time.perf_counter() - start, 1),
            }
            stage.write_json(out / "run.json", run)
            log_model(tracker, out / "weights.pt", network.heads)
            for file in ("history.csv", "run.json"):
                tracker.artifacts(out / file)


def _fit(
    recipe: Recipe,
    device: torch.device,
    group: Group,
    checkpoints: Checkpoints,
    tracker: Tracker | None,
) -> dict[str, Any]:
    """Fit, from the last checkpoint on; give the result as `Checkpoints.finish` keeps it."""
    resident = recipe.train.reside(device)
    run_id = tracker.run_id if tracker else ""
    try:
        with launch.interrupts() as should_stop:
            result = fit(
                recipe.network,
                recipe.loss,
                recipe.train,
                recipe.validation,
                recipe.settings,
                device,
                on_epoch=lambda record: _log(tracker, record),
                save=lambda state: checkpoints.save({**state, "run_id": run_id}),
                resume=checkpoints.load(),
                should_stop=should_stop,
                group=group,
            )
    except NotFiniteError as error:
        batch = {name: getattr(error.batch, name) for name in error.batch.__slots__}
        file = checkpoints.save_batch(batch)
        raise HDEDError(f"{error}; its tensors are in {file}") from None
    done = {
        "state": result.state,
        "history": result.history,
        "run_id": run_id,
        "record": {
            "model": recipe.arguments,
            "weights_loaded": recipe.loaded and asdict(recipe.loaded),
            "parameters": sum(p.numel() for p in recipe.network.parameters()),
            "epochs": recipe.settings.epochs,
            "best_epoch": result.best_epoch,
            "train_frames": len(recipe.train),
            "val_frames": len(recipe.validation or ()),
            "resident": resident,
            "devices": group.size,
            "hardware": machine.hardware(device),
            "fit_s": round(sum(record["seconds"] for record in result.history), 1),
        },
    }
    if group.leads:
        checkpoints.finish(done)
    return done


def _log(tracker: Tracker | None, record: Mapping[str, float]) -> None:
    """Log an epoch's figures; in the first process alone."""
    if tracker:
        figures = {name: value for name, value in record.items() if name != "epoch"}
        tracker.metrics(figures, step=int(record["epoch"]))


if __name__ == "__main__":
    stage.run(main)
