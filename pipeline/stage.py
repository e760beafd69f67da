"""What every stage shares: where files lie, and how a mistake of the user ends."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hded.errors import HDEDError

PARAMS = Path("params.yaml")
RAW = Path("data/raw")  # <dataset>/: official raw files
SCENES = Path("data/scenes")  # <dataset>/: store of rgb and depth
DEFOCUSED = Path("data/defocused")  # <dataset>/: store of defocused images and CoC
TRAINED = Path("data/trained")  # <dataset>/<variant>/<seed>/
EVALUATED = Path("data/evaluated")  # <dataset>/<variant>/<seed>/
REPORTS = Path("reports")
DEFOCUS_REPORT = REPORTS / "defocus"  # <dataset>/: contact sheet, histogram, the input's scores
BENCHMARK = REPORTS / "benchmark.json"  # of `make benchmark`
METRICS = REPORTS / "metrics"  # <dataset>-<variant>-<seed>.json: what `dvc metrics` shows


class _Parser(argparse.ArgumentParser):
    """Errors in one line, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser(doc: str | None, *arguments: str) -> argparse.ArgumentParser:
    """Give a parser with required options of these names; `seed` is a number."""
    result = _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in arguments:
        result.add_argument(f"--{name}", required=True, type=int if name == "seed" else str)
    return result


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command; a mistake of the user is one line on stderr and exit status 2."""
    try:
        main()
    except HDEDError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def project_root() -> Path:
    """Give the project's own folder, also where DVC runs an experiment in a temporary one."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def checkpoints() -> Path:
    """Give the folder of checkpoints, which outlive DVC's outs and temporary folders."""
    return project_root() / "data" / "checkpoints"


def data_dir() -> Path:
    """Give the folder of verified downloads, which outlive DVC's outs."""
    return Path(os.environ.get("HDED_DATA_DIR") or "~/.cache/hded").expanduser().resolve()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping, keys sorted, so that equal results are equal bytes."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
