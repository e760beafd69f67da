"""Shared by all stages: the command line and the paths of their files."""

import os
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hded.common import cli, pretrained
from hded.common.cli import Parser
from hded.common.errors import HDEDError
from hded.config.schema import Download

PARAMS = Path("params.yaml")
INPUTS = Path("data/inputs")  # <dataset>.json, weights.json: lists of a user's own files
SAMPLES = Path("data/sample")  # <dataset>/<digest>/: generated raw files
RAW = Path("data/raw")  # <dataset>.json: digests of the raw files
FRAMES = Path("data/frames")  # <dataset>/: store of rgb and depth
DEFOCUSED = Path("data/defocused")  # <dataset>/<camera>/: store of defocused images and CoC
RENDERINGS = Path("data/renderings")  # <dataset>/<variant>.json: which of them a network reads
TRAINED = Path("data/trained")  # <dataset>/<variant>/<seed>/
EVALUATED = Path("data/evaluated")  # <dataset>/<variant>/<seed>/
REPORTS = Path("reports")
DEFOCUS_REPORT = REPORTS / "defocus"  # <dataset>/<camera>/: sheet, histogram, input's scores
BENCHMARK = REPORTS / "benchmark.json"  # written by `make benchmark`
# files <dataset>-<variant>-<seed> that `dvc metrics` and `dvc plots` show
METRICS = REPORTS / "metrics"
CURVES = REPORTS / "curves"  # training curves
ERRORS = REPORTS / "errors"  # depth errors


def parser(doc: str | None, *arguments: str, scheduler: bool = False) -> Parser:
    """Return a parser with required options of these names.

    `seed` is an integer, `name` that of a folder.

    scheduler: whether the stage's frames may be done on a Dask cluster, whose address is the
    option's or the environment's.
    """
    result = Parser(description=doc)
    if scheduler:
        result.add_argument(
            "--scheduler",
            default=os.environ.get("HDED_DASK") or None,
            help="address of a Dask scheduler, such as tcp://192.168.1.5:8786 (default: HDED_DASK)",
        )
    for name in arguments:
        kind = {"seed": _seed, "name": _folder_name}.get(name, str)
        result.add_argument(f"--{name}", required=True, type=kind)
    return result


def _seed(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**32):
        raise ArgumentTypeError(f"{text!r} is not a seed; give an integer from 0 to {2**32 - 1}")
    return int(text)


def _folder_name(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise ArgumentTypeError(f"{text!r} is not a folder name; use letters, digits, - and _")
    return text


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command of the pipeline and exit, as `hded.common.cli.run` does."""
    cli.run(main)


def plot_path(folder: Path, dataset: str, variant: str, seed: int, suffix: str) -> Path:
    """Return a network's file for DVC's metrics or plots, after making its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{dataset}-{variant}-{seed}{suffix}"


def project_root() -> Path:
    """Return the project's folder, even where DVC runs an experiment in a temporary one."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def checkpoints() -> Path:
    """Return the folder of checkpoints, which DVC does not delete."""
    return project_root() / "data" / "checkpoints"


def data_dir() -> Path:
    """Return the folder of verified downloads, which DVC does not delete."""
    return home(os.environ.get("HDED_DATA_DIR") or "~/.cache/hded")


def home(path: str) -> Path:
    """Return an absolute path; a relative one belongs to the project, also in an experiment.

    `~` and `~user` are the home folders of users that exist.
    """
    return (project_root() / os.path.expanduser(path)).resolve()


def local_source(dataset: str, entry: Download) -> Path | None:
    """Return the folder of a local source; None for the sample and for downloads.

    Raises HDEDError, with the setting's name, where there is no such folder.
    """
    if entry.source in ("sample", "official") or "://" in entry.source:
        return None
    key, text = ("path", entry.path) if entry.source == "folder" else ("source", entry.source)
    folder = home(text or "")
    if not folder.is_dir():
        raise HDEDError(f"download.{dataset}.{key}: {folder} is not a folder; correct the path")
    return folder


def local_weights(name: str) -> Path | None:
    """Return the file that `network.weights` names; None where it names none, or a URL."""
    if name in ("none", "imagenet") or "://" in name:
        return None
    return pretrained.find(name) or home(name)
