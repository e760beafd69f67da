"""Downloads that survive their servers: resumed, checked, and never half there.

Design choices:

- A file under its final name is whole: bytes arrive in `NAME.<key>.part` and are renamed when checked.
- Each URL has a part file of its own, so bytes of two mirrors are never spliced. A part is continued
  only under its server's ETag or Last-Modified (`If-Range`), or when a sha256 will judge the result.
- `NAME.verified.json` remembers size, mtime and sha256: a file checked once is not hashed again.
- Tries are counted without progress: a server that drops every 100 MB still delivers 2.8 GB.
- What the user put in place is read and judged, but never changed, replaced or deleted.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import requests
import urllib3.exceptions
from tqdm import tqdm

from hded import __version__
from hded.errors import HDEDError

_CHUNK = 1 << 16  # bytes a read; also the least gain that counts as progress between two tries
_MIN_RATE = 1024  # bytes/s over `timeout_s`: a slower server has stalled, however alive its socket
_MAX_WAIT_S = 30.0
_HTML_START = re.compile(rb"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """One file: its plain name, its mirrors in order, and what is known of its bytes.

    `urls` may be empty, for a file that only a user can place. Raises `HDEDError` for a name that
    is not a plain one, a `sha256` that is not 64 hexadecimal digits, or a `size` below 1 byte.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^/\\\x00-\x1f]+", self.name) or self.name in (".", ".."):
            raise HDEDError(f"file name {self.name!r}: give a plain name, without folders")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise HDEDError(
                f"sha256 of {self.name}: give 64 hexadecimal digits, not {self.sha256!r}"
            )
        if self.size is not None and self.size < 1:
            raise HDEDError(f"size of {self.name}: give its bytes, at least 1, not {self.size}")


def fetch(
    file: RemoteFile,
    folder: Path,
    *,
    timeout_s: float = 30.0,
    retries: int = 5,
    backoff_s: float = 1.0,
) -> Path:
    """Return `folder / file.name`, downloaded unless a good one is there, and verified.

    A file that is already there, downloaded or placed by hand, is checked against `sha256` and
    `size` where they are known, and must otherwise be non-empty and no HTML page; once checked it
    costs neither network nor hashing. Processes that want one file at once download it once.

    `timeout_s` bounds each wait for the server [s]; `retries` counts the further tries, without
    progress, of each URL; the wait before them starts at `backoff_s` [s] and doubles, up to 30 s.
    Errors that a retry cannot mend (HTTP 404, an HTML page) go to the next URL at once.

    Without `sha256` and `size` the server's own length is believed. Raises `HDEDError`, one line
    that ends with `place the file here: PATH`, if no URL delivers, the disk is full or read-only,
    or the file that is there is not the expected one.
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
            f"{file.name}: cannot use the folder {folder} ({error.strerror or error}): free or mend"
            f" it and run again, what came is kept; {place}"
        ) from error
    return path


class _UnfitError(Exception):
    """The bytes on disk are not the expected file; `digest` is set where only the sha256 differs."""

    def __init__(self, reason: str, digest: str = "") -> None:
        super().__init__(reason)
        self.digest = digest


class _TryError(Exception):
    """One try failed: whether another makes sense, and after how long [s] if the server says so."""

    def __init__(self, reason: str, *, again: bool, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.again = again
        self.wait_s = wait_s


class _Part:
    """The bytes that came so far from one URL, and the server's file that they begin."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state_path = path.with_name(f"{path.name}.json")
        state = _read_json(self._state_path)
        self.validator: str | None = state.get("validator")  # ETag or Last-Modified
        self.total: int | None = state.get("total")  # bytes
        # Without its state a part cannot be trusted: it is begun afresh.
        self.have = path.stat().st_size if state and path.exists() else 0

    def begin(self, validator: str | None, total: int | None) -> None:
        # Emptied first: killed between these lines, it is an empty part, never a mislabelled one.
        self.path.write_bytes(b"")
        self.validator, self.total, self.have = validator, total, 0
        _write_json(self._state_path, {"validator": validator, "total": total})

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)


def _is_verified(file: RemoteFile, path: Path) -> bool:
    """Whether the file is there; raises `_UnfitError` if it is there and wrong."""
    if not path.exists():
        if path.is_symlink():
            raise _UnfitError("a link to nothing")
        return False
    if not path.is_file():
        raise _UnfitError("not a regular file")
    stat = path.stat()  # before hashing: a file that changes meanwhile is hashed again next time
    known = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    record = _read_json(_record_path(path))
    if (
        record.items() >= known.items()
        and file.size in (None, stat.st_size)
        and (file.sha256 or str(record.get("sha256"))).lower() == record.get("sha256")
    ):
        return True
    digest = _inspect(file, path)
    with suppress(OSError):  # a shared read-only folder: the file is used, and hashed each time
        _write_json(_record_path(path), known | {"sha256": digest})
    return True


def _inspect(file: RemoteFile, path: Path) -> str:
    """Return the sha256 of a whole file, or raise `_UnfitError`."""
    size = path.stat().st_size
    if file.size not in (None, size) or not size:
        raise _UnfitError(f"{size} bytes{f' in place of {file.size}' if file.size else ''}")
    hasher = hashlib.sha256()
    with path.open("rb") as stream, _bar(f"sha256 of {file.name}", 0, size) as bar:
        if not _may_be_html(file) and _HTML_START.match(stream.read(1024)):
            raise _UnfitError("an HTML page")
        stream.seek(0)
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
            bar.update(len(chunk))
    digest = hasher.hexdigest()
    if file.sha256 is not None and digest != file.sha256.lower():
        raise _UnfitError(f"its sha256 is {digest}, expected {file.sha256.lower()}", digest)
    return digest


def _download(
    file: RemoteFile, path: Path, timeout_s: float, retries: int, backoff_s: float
) -> None:
    """Try each URL in turn until the file is in place under its final name."""
    parts = [
        path.with_name(f"{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
        for url in file.urls
    ]
    rejected = path.with_name(f"{path.name}.rejected")
    failures = []
    for url, part_path in zip(file.urls, parts, strict=True):
        shown = _shown(url)
        stuck = 0  # tries in a row that brought nothing
        furthest = _Part(part_path).have
        while True:
            part = _Part(part_path)
            resumed = part.have > 0
            try:
                if not resumed or part.have != part.total:
                    _request(file, url, part, timeout_s)
                digest = _inspect(file, part_path)
                stat = part_path.stat()
                os.replace(part_path, path)
                record = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
                _write_json(_record_path(path), record)
                rejected.unlink(missing_ok=True)
                for other in parts:
                    _Part(other).discard()
                return
            except _TryError as error:
                failure = error
            except _UnfitError as error:
                reason = str(error)
                if error.digest:  # hours of download, and perhaps the *expected* sum is wrong
                    os.replace(part_path, rejected)
                    reason += (
                        f", kept as {rejected.name}: if it is right, rename it and mend the sum"
                    )
                part.discard()
                # Joined from several tries, the pieces may be of two files; in one piece, it is so.
                failure = _TryError(reason, again=resumed)
            came = _Part(part_path).have
            stuck = 1 if came >= furthest + _CHUNK else stuck + 1
            furthest = max(furthest, came)
            if not failure.again or stuck > retries:
                kept = f", {came} bytes kept for the next run" if came else ""
                failures.append(f"{shown}: {failure}{kept}")
                break
            wait_s = backoff_s * 2.0 ** min(stuck - 1, 10)
            wait_s = min(failure.wait_s if failure.wait_s is not None else wait_s, _MAX_WAIT_S)
            tqdm.write(f"{shown}: {failure}; trying again in {wait_s:.1f} s", file=sys.stderr)
            time.sleep(wait_s)
    raise HDEDError(
        f"{file.name} could not be downloaded ({'; '.join(failures)}); run again later, or"
        f" place the file here: {path.absolute()}"
    )


def _request(file: RemoteFile, url: str, part: _Part, timeout_s: float) -> None:
    """Ask once for the rest of `part` and receive it; returns when the part is whole."""
    # identity: the bytes must be the file's own, so that ranges, length and sha256 mean something.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"hded/{__version__}"}
    resume = part.have > 0 and bool(part.validator or file.sha256)
    if resume:
        headers["Range"] = f"bytes={part.have}-"
        if part.validator:
            headers["If-Range"] = part.validator
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
            total = _check_answer(file, response, part, resume)
            free = shutil.disk_usage(part.path.parent).free
            if total is not None and total - part.have > free:
                raise HDEDError(
                    f"{file.name} needs {total - part.have} bytes more and the disk has {free} free:"
                    f" free some space and run again, or place the file here:"
                    f" {(part.path.parent / file.name).absolute()}"
                )
            if response.status_code == requests.codes.ok:
                part.begin(_validator(response.headers), total)
            _receive(file, response, part, total, timeout_s)
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise _TryError(f"no answer for {timeout_s:g} s", again=True) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
        # A ValueError is an unusable URL; with endless redirects, the only ones that stay so.
        again = not isinstance(error, ValueError | requests.TooManyRedirects)
        raise _TryError(_in_short(error), again=again) from None


def _check_answer(
    file: RemoteFile, response: requests.Response, part: _Part, resume: bool
) -> int | None:
    """Return the whole file's length [bytes] if it is known, or raise `_TryError`.

    Everything that tells a wrong answer is judged here, before it costs a byte of the part.
    """
    status, headers = response.status_code, response.headers
    if status == requests.codes.requested_range_not_satisfiable and resume:
        part.discard()
        raise _TryError("HTTP 416, the file there is now shorter", again=True)
    if status != requests.codes.ok and not (status == requests.codes.partial and resume):
        after = headers.get("Retry-After", "")
        wait_s = float(after) if after.isdecimal() else None
        raise _TryError(f"HTTP {status}", again=status in (408, 425, 429) or status >= 500,
                        wait_s=wait_s)  # fmt: skip
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") and not _may_be_html(file):
        raise _TryError("sent an HTML page in place of the file", again=False)
    encoding = headers.get("Content-Encoding", "identity").lower()
    # Some servers call a .tar.gz itself "gzip-encoded"; taken as it comes, it is the file.
    if encoding != "identity" and not file.name.endswith((".gz", ".tgz")):
        raise _TryError(f"sent the file {encoding}-encoded, unasked", again=False)

    if status == requests.codes.partial:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        total = int(span[2]) if span and span[2] != "*" else part.total
        quoted = part.validator is not None and part.validator.startswith('"')
        validator = headers.get("ETag" if quoted else "Last-Modified", part.validator)
        if not span or int(span[1]) != part.have or (total, validator) != (
            part.total if part.total is not None else total, part.validator,
        ):  # fmt: skip
            part.discard()
            raise _TryError("sent a range of another file", again=True)
    else:
        length = headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if "chunked" in headers.get("Transfer-Encoding", "").lower():
            total = None
        elif total is None and file.size is None and file.sha256 is None:
            raise _TryError("does not say how long the file is", again=False)
    if file.size is not None and total not in (None, file.size):
        raise _TryError(f"has {total} bytes, expected {file.size}", again=False)
    if total == 0:
        raise _TryError("sent an empty file", again=False)
    return total if total is not None else file.size


def _receive(
    file: RemoteFile, response: requests.Response, part: _Part, total: int | None, timeout_s: float
) -> None:
    """Append the body to the part, watching the rate and the length."""
    with part.path.open("ab") as out, _bar(file.name, part.have, total) as bar:
        mark_s, mark = time.monotonic(), part.have
        # read1, not read: what came is written at once, so a stall or a kill loses almost nothing.
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            out.write(chunk)
            part.have += len(chunk)
            bar.update(len(chunk))
            if total is not None and part.have > total:
                part.discard()
                raise _TryError(f"sent more than the file's {total} bytes", again=True)
            now_s = time.monotonic()
            if now_s - mark_s > timeout_s:
                if part.have - mark < _MIN_RATE * timeout_s:
                    raise _TryError(f"less than {_MIN_RATE} B/s for {timeout_s:g} s", again=True)
                mark_s, mark = now_s, part.have
        out.flush()
        os.fsync(out.fileno())  # a rename may reach the disk before the bytes that it names
    if total is not None and part.have < total:
        raise _TryError(f"ended after {part.have} of {total} bytes", again=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock; the system frees it if the process dies."""
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


def _bar(label: str, done: int, total: int | None) -> tqdm:
    return tqdm(desc=label, initial=done, total=total, unit="B", unit_scale=True, delay=1.0)


def _validator(headers: requests.structures.CaseInsensitiveDict) -> str | None:
    """Return what `If-Range` may carry: a strong ETag (a weak one may not), or a date."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _may_be_html(file: RemoteFile) -> bool:
    return file.name.lower().endswith((".html", ".htm"))


def _shown(url: str) -> str:
    """Return host and path alone: a user name, a password or a signed query stays out of logs."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(an unreadable URL)"
    return parts.netloc.rpartition("@")[2] + parts.path


def _in_short(error: BaseException) -> str:
    """Return the system's few words from deep inside an exception, or the kind of error."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection broke off"
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified.json")


def _read_json(path: Path) -> dict:
    """Return a small JSON object, or an empty one if it is missing or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: dict) -> None:
    """Write a small JSON object, whole or not at all."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(json.dumps(value) + "\n", encoding="utf-8")
    os.replace(new, path)
