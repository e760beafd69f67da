"""Log a trained network as a model for `mlflow models serve`."""

import os
import shutil
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import hded
from pipeline.lib.tracking import Tracker


def log_model(tracker: Tracker, weights: Path, heads: Sequence[str]) -> None:
    """Log the file of a trained network as the run's artifact `model`, with the code it needs."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import pyfunc

    from pipeline.lib import serving

    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # an input example would be an image, and its answer would need a run of the network
        warnings.filterwarnings("ignore", ".*An input example was not provided")
        model, code = Path(folder) / "model", Path(folder) / "hded"
        # without the network that the project ships, which no served model reads
        shutil.copytree(
            Path(hded.__file__).parent, code,
            ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"),
        )  # fmt: skip
        pyfunc.save_model(
            model,
            python_model=serving.__file__,
            artifacts={"weights": str(weights)},
            code_paths=[str(code)],
            signature=serving.signature(heads),
            pip_requirements=[f"{name}=={version(name)}" for name in serving.PACKAGES],
        )
        tracker.artifacts(model, "model")
