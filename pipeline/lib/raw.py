"""The raw files of a dataset: generated, downloaded, or a user's own, which are only ever read."""

import hashlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from hded.common.errors import HDEDError
from hded.common.files import read_json
from hded.config.schema import Download
from hded.datasets import DATASETS
from hded.datasets.folder import list_files
from hded.download.fetch import RemoteFile, fetch
from pipeline.lib import fingerprint, stage

KEPT_SAMPLES = 2  # folders of generated files of each dataset, the most recent


def provide(dataset: str, entry: Download) -> Path:
    """Return the folder with a dataset's raw files; generate or download what is missing.

    The sample is generated into data/sample, official files are downloaded into HDED_DATA_DIR, a
    user's own files stay where they are. Raises HDEDError where a file is missing.
    """
    local = stage.local_source(dataset, entry)
    if entry.source == "sample" and entry.sample is not None:
        return _sample(dataset, entry)
    if local is None:
        store = stage.data_dir() / dataset / _store_name(entry.source)
        for file in _remote_files(dataset, entry):
            fetch(file, store)
        return store
    if entry.source != "folder":
        _check_official(dataset, local)
    return local


def files(dataset: str, entry: Download, folder: Path) -> list[Path]:
    """Return the raw files in `folder` that the dataset's reader reads."""
    if entry.source == "folder":
        return list_files(folder)
    return [folder / name for name in DATASETS[dataset].files]


def _sample(dataset: str, entry: Download) -> Path:
    """Return a folder of generated files, one for each setting and version of the generator."""
    # compiled by numba, which takes most of a second to import
    from hded.sample.write import WRITERS

    if dataset not in WRITERS or entry.sample is None:
        raise HDEDError(f"download.{dataset}.source: there is no sample; give another source")
    size = entry.sample
    digest = hashlib.sha256(repr(size.model_dump()).encode())
    for name, path in sorted(fingerprint.imported_modules(WRITERS[dataset].__module__).items()):
        digest.update(f"{name} {fingerprint.code_digest(path.read_bytes())}\n".encode())
    root = stage.project_root() / stage.SAMPLES / dataset
    folder = root / digest.hexdigest()[:12]
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):  # another process may draw the same sample
        if not folder.is_dir():
            draft = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(draft, ignore_errors=True)
            WRITERS[dataset](draft, train=size.train, test=size.test, seed=size.seed)
            draft.replace(folder)
        _keep_recent(folder)
    return folder


def _keep_recent(folder: Path) -> None:
    """Delete the generated files beside `folder` but for the most recent."""
    others = [f for f in folder.parent.iterdir() if f != folder and f.is_dir()]
    others.sort(key=lambda f: f.stat().st_mtime)
    for old in others[: -(KEPT_SAMPLES - 1)]:
        shutil.rmtree(old, ignore_errors=True)


def _check_official(dataset: str, folder: Path) -> None:
    """Raise HDEDError for a folder without the official files."""
    names = DATASETS[dataset].files
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise HDEDError(
            f"download.{dataset}.source: {folder} has no {missing[0]}; give sample, official, "
            f"a URL, or a folder with {', '.join(names)}"
        )


def report_others(entry: Download, folder: Path, digests: Mapping[str, str]) -> None:
    """Print a line for each file, other than the sample's, that is not the official one.

    digests: SHA-256 of each file in `folder`, by its name.
    """
    if entry.source == "sample":
        return
    for file in entry.official or []:
        path = folder / file.name
        if file.name not in digests:
            continue
        size = path.stat().st_size
        differs = None
        if file.size not in (None, size):
            differs = f"{size} bytes, the official file {file.size}"
        elif file.sha256 not in (None, digests[file.name]):
            differs = f"the sha256 {digests[file.name]}, the official file {file.sha256}"
        if differs:
            where = "figures are of other data than the benchmark's"
            tqdm.write(f"{path} has {differs}: {where}", file=sys.stderr)


def source_kind(dataset: str, entry: Download) -> str:
    """Return where the files come from: sample, official, folder or local.

    Results on the sample must not pass as the benchmark's. Files in a folder or below another
    address are the official ones where the stage `download` found their known digests.
    """
    if entry.source in ("sample", "official", "folder"):
        return entry.source
    found = read_json(stage.RAW / f"{dataset}.json")
    known = {file.name: file.sha256 for file in entry.official or []}
    names = DATASETS[dataset].files
    same = all(known.get(name) is not None and known[name] == found.get(name) for name in names)
    return "official" if same else "local"


def _remote_files(dataset: str, entry: Download) -> list[RemoteFile]:
    """Return the official files with their URLs, or with those below a mirror's address."""
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
    """Return a folder name of each source, so that files of two sources are kept apart."""
    return source if source == "official" else hashlib.sha256(source.encode()).hexdigest()[:12]
