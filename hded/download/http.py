"""One resumable HTTP request: the rest of a part file, or a short reason for its failure.

A part is continued only if the server's ETag or Last-Modified identifies the file (`If-Range`), or
if a sha256 verifies the result. The response's headers are checked before the part is changed.
"""

import os
import re
import shutil
import time
from pathlib import Path

import requests
import urllib3.exceptions
from tqdm import tqdm

from hded import __version__
from hded.common.errors import HDEDError
from hded.common.files import draft_path, read_json, write_json

CHUNK = 1 << 16  # maximum bytes per read
_MIN_RATE = 1024  # bytes/s over `timeout_s`; a slower server counts as stalled


class TryError(Exception):
    """A failed attempt: whether to try again, and after how long [s] if the server says so."""

    def __init__(self, reason: str, *, again: bool, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.again = again
        self.wait_s = wait_s


class Part:
    """The bytes received so far from one URL, and the identity of the server's file.

    `name` and `size` are the name and expected length [bytes] of the whole file; `judged`: a sha256
    will verify it. `have` is the number of bytes received; `total` the whole file's, if known.
    """

    def __init__(self, path: Path, name: str, size: int | None, judged: bool) -> None:
        self.path, self.name, self.size, self.judged = path, name, size, judged
        self._state_path = path.with_name(f"{path.name}.json")
        state = read_json(self._state_path)
        self.validator: str | None = state.get("validator")  # ETag or Last-Modified
        self.total: int | None = state.get("total")
        # A part without its state is not trusted: the download starts again.
        self.have = path.stat().st_size if state and path.exists() else 0

    def begin(self, validator: str | None, total: int | None) -> None:
        """Empty the part file, before the first byte of the file that `validator` identifies."""
        # Emptied first: killed between these lines, it is an empty part, never a mislabelled one.
        self.path.write_bytes(b"")
        self.validator, self.total, self.have = validator, total, 0
        write_json(self._state_path, {"validator": validator, "total": total})

    def discard(self) -> None:
        """Delete the part and its state."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)
        draft_path(self._state_path).unlink(missing_ok=True)  # left by a killed process


def request_rest(url: str, part: Part, timeout_s: float) -> None:
    """Request the rest of `part` once and receive it; on return the part is complete.

    `timeout_s` limits each wait for the server [s]. Raises `TryError`; `HDEDError` if the disk has
    too little space; `OSError` if it cannot be written. Bytes received before an error are kept.
    """
    # identity: ranges, length and sha256 refer to the file itself, not to a compressed transfer.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"hded/{__version__}"}
    resume = part.have > 0 and (part.validator is not None or part.judged)
    if resume:
        headers["Range"] = f"bytes={part.have}-"
        if part.validator is not None:
            headers["If-Range"] = part.validator
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
            if resume and response.status_code == requests.codes.partial:
                _check_kind(response, part)
                total = _check_range(response, part)
            else:
                _check_status(response, part, resume)
                _check_kind(response, part)
                total = _check_length(response, part)
            _check_free_disk(part, total)
            if response.status_code == requests.codes.ok:
                part.begin(_validator(response), total)
            _receive(response, part, total, timeout_s)
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise TryError(f"no answer for {timeout_s:g} s", again=True) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
        # A ValueError is an unusable URL; as for endless redirects, a retry would not help.
        again = not isinstance(error, ValueError | requests.TooManyRedirects)
        raise TryError(_in_short(error), again=again) from None


def _check_status(response: requests.Response, part: Part, resume: bool) -> None:
    status = response.status_code
    if status == requests.codes.ok:
        return
    if status == requests.codes.requested_range_not_satisfiable and resume:
        part.discard()  # the server's file is shorter than the part, so it is another one
        raise TryError("HTTP 416 to a continued download", again=True)
    after = response.headers.get("Retry-After", "")
    wait_s = float(after) if after.isdecimal() else None
    again = status in (408, 425, 429) or status >= 500
    raise TryError(f"HTTP {status}", again=again, wait_s=wait_s)


def _check_kind(response: requests.Response, part: Part) -> None:
    """Raise `TryError` for a login or error page sent with status 200, and for encoded content."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") and not may_be_html(part.name):
        raise TryError("sent an HTML page in place of the file", again=False)
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    # Some servers declare a .tar.gz itself as gzip-encoded; its raw bytes are the file.
    if encoding != "identity" and not part.name.endswith((".gz", ".tgz")):
        raise TryError(f"sent the file {encoding}-encoded, unasked", again=False)


def _check_range(response: requests.Response, part: Part) -> int | None:
    """Return the whole file's length [bytes], if known; raise unless a 206 continues this part."""
    headers = response.headers
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    total = int(span[2]) if span and span[2] != "*" else part.total
    # A server that supports Range but not If-Range would send the rest of a changed file.
    is_etag = part.validator is not None and part.validator.startswith('"')
    validator = headers.get("ETag" if is_etag else "Last-Modified", part.validator)
    same = total == (part.total or part.size or total) and part.validator in (None, validator)
    endless = total is None and not part.judged
    if not span or int(span[1]) != part.have or not same or endless:
        part.discard()
        raise TryError("sent a range of another file", again=True)
    return total


def _check_length(response: requests.Response, part: Part) -> int | None:
    """Return the whole file's length [bytes] as stated by a 200 response, or else as expected."""
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    if "chunked" in response.headers.get("Transfer-Encoding", "").lower():
        total = None  # the last chunk marks the end
    elif total is None and part.size is None and not part.judged:
        raise TryError("does not say how long the file is", again=False)
    if part.size is not None and total not in (None, part.size):
        raise TryError(f"has {total} bytes, expected {part.size}", again=False)
    return total if total is not None else part.size


def _check_free_disk(part: Part, total: int | None) -> None:
    free = shutil.disk_usage(part.path.parent).free
    if total is not None and total - part.have > free:
        raise HDEDError(
            f"{part.name} needs {total - part.have} more bytes and the disk has {free} free: free"
            f" some space and run again, or place the file here: "
            f"{part.path.with_name(part.name).absolute()}"
        )


def _receive(response: requests.Response, part: Part, total: int | None, timeout_s: float) -> None:
    """Append the body to the part; raise `TryError` for a stalled or wrong-sized transfer."""
    with part.path.open("ab") as out, byte_bar(part.name, part.have, total) as bar:
        mark_s, mark = time.monotonic(), part.have
        # read1 returns what has arrived, so that a stall or a kill loses almost nothing.
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            out.write(chunk)
            part.have += len(chunk)
            bar.update(len(chunk))
            if total is not None and part.have > total:
                part.discard()
                raise TryError(f"sent more than the file's {total} bytes", again=True)
            now_s = time.monotonic()
            if now_s - mark_s > timeout_s:
                if part.have - mark < _MIN_RATE * timeout_s:
                    raise TryError(f"less than {_MIN_RATE} B/s for {timeout_s:g} s", again=True)
                mark_s, mark = now_s, part.have
        out.flush()
        os.fsync(out.fileno())  # otherwise a rename could reach the disk before the data
    if total is not None and part.have < total:
        raise TryError(f"ended after {part.have} of {total} bytes", again=True)


def _validator(response: requests.Response) -> str | None:
    """Return a value for `If-Range`: a strong ETag (weak ones are not allowed), or a date."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _in_short(error: BaseException) -> str:
    """Return the operating system's message inside an exception, or the kind of error."""
    chain: list[BaseException] = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(inner)
    for inner in chain:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
    if any(isinstance(inner, urllib3.exceptions.ProtocolError) for inner in chain):
        return "the connection broke off"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()


def may_be_html(name: str) -> bool:
    """Return whether a file of this name may hold an HTML page."""
    return name.lower().endswith((".html", ".htm"))


def byte_bar(label: str, done: int, total: int | None) -> tqdm:
    """Return a progress bar in bytes that appears after one second."""
    return tqdm(desc=label, initial=done, total=total, unit="B", unit_scale=True, delay=1.0)
