"""Stage `train`: fit one variant on one dataset, data/trained/<dataset>/<variant>/<seed>.

    python -m pipeline.train --dataset nyu --variant full --seed 0

Writes weights.pt, history.csv and run.json, whose run id lets later stages log to the same MLflow
run.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from hded.errors import HDEDError
from hded.frames import Frames, validation_split
from hded.inference import save_weights
from hded.losses import HDEDLoss, LossWeights
from hded.network import HDEDNet
from hded.network.weights import find_weights, load_weights
from hded.optics import AnyCamera
from hded.params import load_params
from hded.sections import Network, Train
from hded.store import Store, open_store
from hded.training import FitSettings, fit
from pipeline import machine, stage
from pipeline.tracking import EXPERIMENT, track


def main() -> None:
    """Run the stage."""
    args = stage.parser(__doc__, "dataset", "variant", "seed").parse_args()
    params = load_params(stage.PARAMS)
    network, train = params.variant(args.variant)
    scenes = open_store(stage.SCENES / args.dataset)
    defocused = open_store(stage.DEFOCUSED / args.dataset)
    out = stage.TRAINED / args.dataset / args.variant / str(args.seed)
    out.mkdir(parents=True, exist_ok=True)
    camera = defocused.attributes["camera"]
    settings = {"network": network.model_dump(), "train": train.model_dump(by_alias=True)}
    digest = _digest({**settings, "camera": camera, "dataset": args.dataset, "seed": args.seed})
    name = f"{args.dataset}-{args.variant}-seed{args.seed}"
    tags = {
        "dataset": args.dataset,
        "source": scenes.attributes["source"],
        "variant": args.variant,
        "seed": str(args.seed),
        "camera": camera["name"],
        "params_digest": digest,
        "commit": machine.commit(),
        "stage": "train",
    }
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = experiment
    with track(name, tags) as tracker:
        tracker.params({**settings, "camera": camera})
        start = time.perf_counter()
        cameras = params.defocus.cameras() if train.refocus == "on_the_fly" else ()
        record = _fit(network, train, scenes, defocused, cameras, args.seed, out, tracker)
        run = {
            **record,
            "run_id": tracker.run_id,
            "run_name": name,
            "experiment": EXPERIMENT,
            "tracking_uri": _portable(tracker.uri),
            "train": settings["train"],
            "params_digest": digest,
            "commit": tags["commit"],
            "versions": machine.versions(),
            "wall_s": round(time.perf_counter() - start, 1),
        }
        stage.write_json(out / "run.json", run)
        for file in ("weights.pt", "history.csv", "run.json"):
            tracker.artifacts(out / file)


def _fit(
    network: Network,
    train: Train,
    scenes: Store,
    defocused: Store,
    cameras: Sequence[AnyCamera],
    seed: int,
    out: Path,
    tracker: Any,
) -> dict[str, Any]:
    """Fit, write weights and history, and say what was fitted."""
    device = _device(train.device)
    arguments = network.model_dump(exclude={"weights"})
    if network.depth_scale_m is None:
        arguments["depth_scale_m"] = scenes.attributes["max_depth_m"]
    torch.manual_seed(seed)
    model = HDEDNet(**arguments)
    if network.weights != "none":
        file = find_weights(network.weights, network.encoder, stage.data_dir() / "weights")
        load_weights(model.encoder, file)
    loss = HDEDLoss(LossWeights(**train.loss.model_dump()), arguments["depth_scale_m"])
    fitted, held = validation_split(scenes.frames, scenes.indices("train"), train.validation, seed)
    load = (scenes, defocused)
    frames = Frames(*load, fitted, train.geometry, train.size_px, cameras)
    validation = Frames(*load, held, train.geometry, train.size_px) if len(held) else None
    names = FitSettings.__dataclass_fields__.keys() & Train.model_fields.keys()
    chosen = {key: getattr(train, key) for key in names}
    result = fit(
        model, loss, frames, validation,
        FitSettings(**{**chosen, "betas": tuple(train.betas), "seed": seed}),
        device,
        on_epoch=lambda r: tracker.metrics(
            {k: v for k, v in r.items() if k != "epoch"}, step=int(r["epoch"])
        ),
    )  # fmt: skip
    save_weights(out / "weights.pt", result.state, arguments, train.geometry, train.size_px)
    pd.DataFrame(result.history).to_csv(out / "history.csv", index=False)
    return {
        "model": {**arguments, "weights": network.weights},
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": train.epochs,
        "best_epoch": result.best_epoch,
        "train_frames": len(fitted),
        "val_frames": len(held),
        "hardware": machine.hardware(device),
    }


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise HDEDError("train.device: cuda is not available here; set auto or cpu")
    return torch.device(name)


def _digest(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _portable(uri: str) -> str:
    """Give a local database by its name alone: results must not hold paths of one machine."""
    return f"sqlite:///{Path(uri).name}" if uri.startswith("sqlite:") else uri


if __name__ == "__main__":
    stage.run(main)
