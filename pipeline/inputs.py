"""Stage `inputs`: what lies outside the project, data/inputs.

python -m pipeline.inputs

DVC looks at files inside the project only. This stage runs each time and lists a user's own files:
names, sizes and dates of every dataset with a local source in data/inputs/<dataset>.json, and the
digests of weights, which other machines may share, in data/inputs/weights.json. The stages that
read them depend on these lists, so a file that is added, changed or removed runs them again. Raises
HDEDError, with the setting's name, where a folder or a file does not exist.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from hded.common.errors import HDEDError
from hded.common.files import is_hidden, write_json
from hded.config.params import Params, load_params
from pipeline.lib import fingerprint, stage


def main() -> None:
    """Run the stage."""
    stage.parser(__doc__).parse_args()
    params = load_params(stage.PARAMS)
    stage.INPUTS.mkdir(parents=True, exist_ok=True)
    for dataset in params.run.datasets:
        write_json(stage.INPUTS / f"{dataset}.json", _source(dataset, params))
    write_json(stage.INPUTS / "weights.json", _weights(params))


def _source(dataset: str, params: Params) -> dict[str, list[int]]:
    """Return size and date of a local source's files by name; empty for any other source."""
    folder = stage.local_source(dataset, params.source(dataset))
    if folder is None:
        return {}
    return {path.relative_to(folder).as_posix(): _identity(path) for path in sorted(_files(folder))}


def _files(folder: Path) -> Iterator[Path]:
    """Yield the visible files below a folder, also those in folders that are links."""
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        # a link to a folder above it would never end
        folders[:] = [] if real in seen else [f for f in folders if not is_hidden(f)]
        seen.add(real)
        yield from (path for f in files if not is_hidden(f) and (path := Path(name, f)).is_file())


def _weights(params: Params) -> dict[str, str]:
    """Return the SHA-256 of the weights' files that the selected variants start from, by name."""
    found = {}
    for variant in params.run.variants:
        name = params.variant(variant)[0].weights
        path = stage.local_weights(name)
        if path is None:
            continue
        if not path.is_file():
            raise HDEDError(f"network.weights: {path} is not a file; correct the path")
        found[name] = fingerprint.of_file(path)
    return found


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


if __name__ == "__main__":
    stage.run(main)
