"""The stage `train` in a folder of its own, as a real process."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow import MlflowClient
from ruamel.yaml import YAML
from support.imports import ROOT
from support.stores import write_stores

from hded.network.files import NAME, read_network

TINY = {
    "width": 0.04,
    "dropout": 0.5,  # torch's generator takes part in every step
}
TRAIN = {
    "epochs": 8,
    "batch_size": 3,
    "size_px": 32,
    "val_fraction": 0.25,
    "val_interval": 2,
    "checkpoint": "best",
    "checkpoint_minutes": 0,  # after every step
}
TIMES = ["seconds", "samples_per_s", "data_share"]


class Project:
    """A folder with params.yaml and two stores, in which the stage `train` runs."""

    def __init__(self, root: Path, size: tuple[int, int] = (40, 56), **train: Any) -> None:
        self.root = root
        self.variables: dict[str, str] = {}
        tiny = write_stores(root / "tiny", size=size)
        for name, store in (("frames/nyu", tiny.scenes), ("defocused/nyu/paper", tiny.defocused)):
            (root / "data" / name).parent.mkdir(parents=True)
            store.folder.rename(root / "data" / name)
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        params["network"].update(TINY)
        params["train"].update({**TRAIN, **train})
        yaml.dump(params, root / "params.yaml")

    def start(self, *command: str, variant: str = "full") -> subprocess.Popen[str]:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
            env.pop(name, None)
        env |= self.variables
        stage = ["-m", "pipeline.train", "--dataset", "nyu", "--variant", variant, "--seed", "0"]
        return subprocess.Popen(
            [*(command or [sys.executable]), *stage],
            cwd=self.root,
            env=env,
            text=True,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *command: str, variant: str = "full") -> tuple[int, str]:
        process = self.start(*command, variant=variant)
        _, errors = process.communicate(timeout=200)
        return process.returncode, errors

    def files(self, name: str) -> list[Path]:
        return list((self.root / "data/checkpoints").glob(f"*/{name}"))

    def start_and_wait_for_saves(self, saves: int) -> subprocess.Popen[str]:
        """Start the stage and let it save its state so many times."""
        process, seen, last = self.start(), 0, 0
        earlier = [file.stat().st_mtime_ns for file in self.files("latest.pt")]
        end = time.monotonic() + 120
        while seen < saves and process.poll() is None and time.monotonic() < end:
            for file in self.files("latest.pt"):
                now = file.stat().st_mtime_ns
                if now != last and now not in earlier:
                    seen, last = seen + 1, now
            time.sleep(0.001)
        assert seen == saves, process.communicate()[1]
        return process

    def result(self) -> tuple[Mapping[str, torch.Tensor], pd.DataFrame]:
        out = self.root / "data/trained/nyu/full/0"
        weights = read_network(out / NAME)[1]
        return weights, pd.read_csv(out / "history.csv").drop(columns=TIMES)

    def mlflow_runs(self) -> list[Any]:
        return list(MlflowClient(f"sqlite:///{self.root / 'mlflow.db'}").search_runs(["1"]))
