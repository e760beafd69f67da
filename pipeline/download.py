"""Stage `download`: put a dataset's raw files into data/raw/<dataset>.

    python -m pipeline.download --dataset nyu

`source` in params.yaml decides where they come from: the embedded sample is generated; official
files are downloaded once into HDED_DATA_DIR (default ~/.cache/hded), verified and linked; local
files are linked. DVC hashes the targets of the links, so that a changed file reruns the stages that
depend on it.
"""

import hashlib
import shutil
from pathlib import Path

from hded.common.errors import HDEDError
from hded.config.params import load_params
from hded.config.schema import Download
from hded.datasets import DATASETS
from hded.datasets.folder import LISTS, PICTURES
from hded.download.fetch import RemoteFile, fetch
from hded.sample.write import WRITERS
from pipeline.lib import stage


def main() -> None:
    """Run the stage."""
    dataset = stage.parser(__doc__, "dataset").parse_args().dataset
    entry = load_params(stage.PARAMS).source(dataset)
    out = stage.RAW / dataset
    if out.exists():
        shutil.rmtree(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if entry.source == "sample" and entry.sample is not None:
        if dataset not in WRITERS:
            raise HDEDError(
                f"download.{dataset}.source: {dataset} has no sample; give another source"
            )
        size = entry.sample
        WRITERS[dataset](out, train=size.train, test=size.test, seed=size.seed)
    elif entry.source == "folder" and entry.path is not None:
        _link_pictures(out, stage.home(entry.path), f"download.{dataset}.path")
    elif entry.source == "official" or "://" in entry.source:
        store = stage.data_dir() / dataset / _store_name(entry.source)
        _link(out, [fetch(file, store) for file in _remote_files(dataset, entry)])
    else:
        folder = stage.home(entry.source)
        names = DATASETS[dataset].files
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise HDEDError(
                f"download.{dataset}.source: {folder} has no {missing[0]}; give sample, official, "
                f"a URL, or a folder with {', '.join(names)}"
            )
        _link(out, [folder / name for name in names])


def _remote_files(dataset: str, entry: Download) -> list[RemoteFile]:
    """Return the official files with their official URLs, or with those of a mirror."""
    known = {file.name: file for file in entry.official or []}
    base = None if entry.source == "official" else entry.source.rstrip("/")
    files = []
    for name in DATASETS[dataset].files:
        file = known.get(name)
        if file is None and base is None:
            raise HDEDError(f"download.{dataset}.official: has no entry for {name}")
        files.append(
            RemoteFile(
                name=name,
                urls=(f"{base}/{name}",) if base else tuple(file.urls if file else ()),
                sha256=file.sha256 if file else None,
                size=file.size if file else None,
            )
        )
    return files


def _store_name(source: str) -> str:
    """Return a folder name for a source, so that files of different sources are kept apart."""
    return source if source == "official" else hashlib.sha256(source.encode()).hexdigest()[:12]


def _link(out: Path, files: list[Path]) -> None:
    out.mkdir()
    for file in files:
        (out / file.name).symlink_to(file)


def _link_pictures(out: Path, folder: Path, key: str) -> None:
    """Link a user's files one by one.

    The folder itself must not be linked: DVC deletes the stage's outputs before a run, and would
    delete the user's files through the link. Raises HDEDError where there is no such folder.
    """
    if not folder.is_dir():
        raise HDEDError(f"{key}: {folder} is not a folder")
    lists = [folder / name for name in LISTS.values()]
    _link(out, [path for path in lists if path.is_file()])
    for inside in (folder / name for name in PICTURES if (folder / name).is_dir()):
        _link(out / inside.name, [path for path in sorted(inside.iterdir()) if path.is_file()])


if __name__ == "__main__":
    stage.run(main)
