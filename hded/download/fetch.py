"""Downloads from unreliable servers: resumed, verified, and atomic.

Design choices:

- A file with its final name is complete: bytes are written to `NAME.<key>.part`, checked, renamed.
- Each URL has its own part file, so that the bytes of two mirrors are never mixed.
- `NAME.verified.json` remembers size, mtime and sha256: a file checked once is not hashed again. It
  also keeps the sha256 that was seen first; where a file has no expected sha256, a later download
  with another one is used and reported.
- Only attempts without progress are counted: a server that drops the connection every 100 MB
  still delivers 2.8 GB.
- A file that the user placed is read and checked, but never changed, replaced or deleted.
"""

import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import filelock
from tqdm import tqdm

from hded.common.errors import HDEDError
from hded.common.files import read_json, write_json
from hded.download.http import (
    CHUNK,
    Part,
    TryError,
    byte_bar,
    may_be_html,
    request_rest,
)

_MAX_WAIT_S = 30.0
_HTML_START = re.compile(rb"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """One file: its plain name, its mirrors in order, and its known size and digest.

    `urls` may be empty for a file that only the user can provide. Raises `HDEDError` for a name
    with folders, a `sha256` that is not at least the first 8 of 64 hexadecimal digits, or a `size`
    below 1 byte.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^/\\\x00-\x1f]+", self.name) or self.name in (".", ".."):
            raise HDEDError(f"file name {self.name!r}: give a plain name, without folders")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{8,64}", self.sha256):
            raise HDEDError(
                f"{self.name}: a sha256 has 64 hexadecimal digits (8 of them at least are needed), "
                f"not {self.sha256!r}"
            )
        object.__setattr__(self, "sha256", self.sha256 and self.sha256.lower())
        if self.size is not None and self.size < 1:
            raise HDEDError(f"{self.name}: its size is at least 1 byte, not {self.size}")


def fetch(
    file: RemoteFile,
    folder: Path,
    *,
    timeout_s: float = 30.0,
    retries: int = 5,
    backoff_s: float = 1.0,
) -> Path:
    """Return the path `folder / file.name` of the verified file, and download it if necessary.

    An existing file, downloaded or placed by hand, is verified against `sha256` and `size` where
    they are known, and must not be empty or an HTML page. Once verified, it needs neither network
    nor hashing. Several processes that need one file download it once.

    `timeout_s` limits each wait for the server [s]; `retries` is the number of further tries of a
    URL without progress; the wait between them starts at `backoff_s` [s] and doubles, up to 30 s.
    After an error that a retry cannot fix (HTTP 404, an HTML page), the next URL is tried at once.

    Without `sha256` and `size`, the length that the server states is trusted. Raises `HDEDError`,
    one line that ends with `place the file here: PATH`, if no URL works, the disk is full or
    read-only, or an existing file is not the expected one.
    """
    path = folder / file.name
    place = f"place the file here: {path.absolute()}"
    try:
        if _is_verified(file, path):
            return path
        if not file.urls:
            raise HDEDError(f"{file.name} is missing and no URL of it is known; {place}")
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not _is_verified(file, path):
                _download(file, path, timeout_s, retries, backoff_s)
    except _UnfitError as error:
        raise HDEDError(
            f"{path} is not the expected file ({error}); it was left as it is: move it away to have"
            f" it downloaded, or correct the expected sha256 or size; {place}"
        ) from None
    except OSError as error:
        raise HDEDError(
            f"{file.name}: cannot use the folder {folder} ({error.strerror or error}): free some"
            f" space or make it writable, then run again (what came is kept); {place}"
        ) from error
    return path


class _UnfitError(Exception):
    """The file on disk is not the expected one; `only_sum`: only its sha256 differs."""

    def __init__(self, reason: str, *, only_sum: bool = False) -> None:
        super().__init__(reason)
        self.only_sum = only_sum


def _is_verified(file: RemoteFile, path: Path) -> bool:
    """Return whether the file exists; raises `_UnfitError` if it is not the expected one."""
    if not path.exists():
        if path.is_symlink():
            raise _UnfitError("a link to nothing")
        return False
    if not path.is_file():
        raise _UnfitError("not a regular file")
    seen = _identity(path)  # before hashing, so that a file that changes meanwhile is hashed again
    record = read_json(_record_path(path))
    if (
        record.items() >= seen.items()
        and file.size in (None, seen["size"])
        and record.get("sha256", "").startswith(file.sha256 or "")
    ):
        return True
    _remember(path, seen, _inspect(file, path))
    return True


def _inspect(file: RemoteFile, path: Path) -> str:
    """Return the sha256 of a complete file; raises `_UnfitError` if it is not the expected one."""
    size = path.stat().st_size
    if not size or file.size not in (None, size):
        raise _UnfitError(f"{size} bytes, expected {file.size or 'some'}")
    hasher = hashlib.sha256()
    with path.open("rb") as stream, byte_bar(f"sha256 of {file.name}", 0, size) as bar:
        if not may_be_html(file.name) and _HTML_START.match(stream.read(1024)):
            raise _UnfitError("an HTML page")
        stream.seek(0)
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
            bar.update(len(chunk))
    digest = hasher.hexdigest()
    if not digest.startswith(file.sha256 or ""):
        raise _UnfitError(f"sha256 {digest}, expected {file.sha256}", only_sum=True)
    return digest


def _download(
    file: RemoteFile, path: Path, timeout_s: float, retries: int, backoff_s: float
) -> None:
    """Download from each URL in turn until the file has its final name."""
    keys = [hashlib.sha256(url.encode()).hexdigest()[:8] for url in file.urls]
    part_paths = [path.with_name(f"{path.name}.{key}.part") for key in keys]
    failures = []
    for url, part_path in zip(file.urls, part_paths, strict=True):
        stuck = 0  # consecutive tries without progress
        furthest = _part(file, part_path).have
        while True:
            try:
                _try_once(file, url, part_path, path, timeout_s)
            except TryError as error:
                failure = error
            else:
                for leftover in part_paths:
                    _part(file, leftover).discard()
                return
            came = _part(file, part_path).have
            stuck = 1 if came >= furthest + CHUNK else stuck + 1
            furthest = max(furthest, came)
            if not failure.again or stuck > retries:
                kept = f", {came} bytes of it kept for the next run" if came else ""
                failures.append(f"{_shown(url)}: {failure}{kept}")
                break
            wait_s = backoff_s * 2.0 ** min(stuck - 1, 10)
            wait_s = min(wait_s if failure.wait_s is None else failure.wait_s, _MAX_WAIT_S)
            tqdm.write(f"{_shown(url)}: {failure}; again in {wait_s:.1f} s", file=sys.stderr)
            time.sleep(wait_s)
    raise HDEDError(
        f"{file.name} could not be downloaded ({'; '.join(failures)}); run again later, or"
        f" place the file here: {path.absolute()}"
    )


def _try_once(file: RemoteFile, url: str, part_path: Path, path: Path, timeout_s: float) -> None:
    """Complete the part file, check it and rename it to `path`; raises `TryError`."""
    part = _part(file, part_path)
    joined = part.have > 0
    rejected = path.with_name(f"{path.name}.rejected")
    if not joined or part.have != part.total:
        request_rest(url, part, timeout_s)
    try:
        digest = _inspect(file, part_path)
    except _UnfitError as error:
        reason = str(error)
        if error.only_sum:  # keep a long download, because the expected sha256 may be wrong
            os.replace(part_path, rejected)
            reason += (
                f", kept as {rejected.name}: if you trust where it came from, rename it to "
                f"{file.name} and correct the sha256 in params.yaml"
            )
        part.discard()
        # Parts of several tries may be from different files, so a new try may help; not otherwise.
        raise TryError(reason, again=joined) from None
    seen = _identity(part_path)
    os.replace(part_path, path)
    _remember(path, seen, digest)
    rejected.unlink(missing_ok=True)


def _part(file: RemoteFile, part_path: Path) -> Part:
    return Part(part_path, file.name, file.size, judged=file.sha256 is not None)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock; the operating system releases it if the process dies."""
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        tqdm.write(f"{path.name}: waiting for the process that is downloading it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _shown(url: str) -> str:
    """Return a URL's host and path only, so that passwords and signed queries are not logged."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(an unreadable URL)"
    return parts.netloc.rpartition("@")[2] + parts.path


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified.json")


def _remember(path: Path, seen: dict[str, int], digest: str) -> None:
    """Write the file's record; print a message if its sha256 differs from the first download's."""
    earlier = read_json(_record_path(path))
    first = earlier.get("first_sha256") or earlier.get("sha256") or digest
    if first != digest:
        tqdm.write(
            f"{path.name}: its sha256 {digest} is not the one that was fetched first, {first}; "
            f"results of the two may differ. To accept it for good, delete {_record_path(path)}",
            file=sys.stderr,
        )
    with suppress(OSError):  # in a shared read-only folder, the file is hashed each time
        write_json(_record_path(path), seen | {"sha256": digest, "first_sha256": first})


def _identity(path: Path) -> dict[str, int]:
    """Return a file's size and modification time: unchanged, it is not hashed again."""
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
