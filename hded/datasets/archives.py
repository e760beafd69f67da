"""Reading `.tar.gz` archives from the web: members are returned as bytes, nothing is written.

`tarfile` reads the headers. This module adds what it leaves to its caller:

- The name and the kind of every member are checked, also of those that are not asked for. A
  suspicious member means that this is not the official archive, so reading stops there.
- Sizes are bounded before memory is used for them.
- The archive must be complete: `tarfile` ends quietly at a damaged header, and the gzip checksum
  stands at the end of the stream.
"""

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from hded.common.errors import HDEDError
from hded.common.files import is_hidden

_STEP = 1 << 20  # bytes unpacked at once where they are skipped
_MAX_HEADER_BYTES = 64 << 10  # of a long name or a pax record; real ones have a few hundred bytes
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
}


def iter_members(
    archive: Path,
    *,
    folder: str,
    suffix: str | tuple[str, ...],
    max_member_bytes: int = 64 << 20,
    max_members: int = 5000,
    max_total_bytes: int = 8 << 30,
) -> Iterator[tuple[str, bytes]]:
    """Yield (base name, bytes) of the regular files directly inside `folder/` of a `.tar.gz`.

    `folder` is a path within the archive (`Train400Img`, or `.` for its root); `suffix` is matched
    without regard to case. Files whose name starts with a dot (such as the `._` twins that macOS
    adds) and files elsewhere in the archive are skipped, but are checked all the same. Members come
    in the archive's order, one in memory at a time; a caller that stops early leaves the rest
    unchecked.

    `max_member_bytes` limits each file that is yielded, `max_members` the number of all members,
    and `max_total_bytes` the unpacked archive [bytes].

    Raises `HDEDError` that names the archive, and the member if there is one, for: an absolute name
    or one with `..`, a link, a device, a sparse file, a duplicate name, an exceeded limit, a
    damaged or truncated archive, and an archive without any such file.
    """
    home = [part for part in folder.split("/") if part not in ("", ".")]
    endings = tuple(end.lower() for end in ([suffix] if isinstance(suffix, str) else suffix))
    seen: set[str] = set()
    yielded = False
    try:
        with gzip.open(archive, "rb") as unpacked:
            stream = _Bounded(unpacked, max_total_bytes)
            tar = tarfile.TarFile(fileobj=stream, encoding="utf-8")  # pyright: ignore[reportArgumentType]
            for count, member in enumerate(tar, start=1):
                if count > max_members:
                    raise _RefusedError(f"more than {max_members} members")
                parts = _safe_parts(member.name)
                stream.check(member)
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    kind = _KINDS.get(member.type, f"of the unknown kind {member.type!r}")
                    kind = "a sparse file" if member.issparse() else kind
                    raise _RefusedError(f"member {member.name} is {kind}")
                if not parts:
                    raise _RefusedError(f"member {member.name} is a file without a name")
                name = "/".join(parts)
                if name in seen:
                    raise _RefusedError(f"member {name} is there twice")
                seen.add(name)
                wanted = parts[:-1] == home and name.lower().endswith(endings)
                if not wanted or is_hidden(parts[-1]):
                    continue
                if member.size > max_member_bytes:
                    raise _RefusedError(
                        f"member {name} claims {member.size} bytes, above the limit of"
                        f" {max_member_bytes}"
                    )
                data = stream.data(member)
                yielded = True
                yield parts[-1], data
            stream.finish()
        if not yielded:
            raise _RefusedError(f"no file *{' or *'.join(endings)} in its folder {folder}/")
    except _RefusedError as error:
        raise HDEDError(
            f"{archive}: {error}: it is not the official archive, download it again or replace it"
        ) from None
    except _DAMAGE as error:
        raise HDEDError(
            f"{archive}: damaged or cut short ({str(error).rstrip('.')}): delete it and download it"
            " again"
        ) from error
    except OSError as error:
        raise HDEDError(
            f"{archive}: cannot be read ({error.strerror or error}): check the path and the disk"
        ) from error


# a header that refers to itself or to many others makes tarfile recurse
_DAMAGE = (
    EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, ValueError, RecursionError,
)  # fmt: skip


class _RefusedError(Exception):
    """The archive is not what it should be; the message says why, and names the member."""


class _Bounded:
    """The unpacked stream as a file for `tarfile`, within bounds of memory and work."""

    def __init__(self, stream: gzip.GzipFile, max_total_bytes: int) -> None:
        self._stream, self._max_total_bytes = stream, max_total_bytes
        self._last_block = b""

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int) -> None:
        self._stream.seek(offset)  # forward: gzip reads what lies between

    def read(self, size: int) -> bytes:
        """Return the next bytes of a header."""
        if size > _MAX_HEADER_BYTES:
            raise _RefusedError(f"an extension header claims {size} bytes")
        found = self._stream.read(size)
        if size == tarfile.BLOCKSIZE:
            self._last_block = found
        return found

    def check(self, member: tarfile.TarInfo) -> None:
        """Refuse a member that cannot be within the bound of the whole archive."""
        if member.size < 0 or member.offset_data + member.size > self._max_total_bytes:
            raise _RefusedError(
                f"member {member.name} claims {member.size} bytes and unpacks the archive beyond"
                f" its limit of {self._max_total_bytes}"
            )

    def data(self, member: tarfile.TarInfo) -> bytes:
        """Return the bytes of a member."""
        self.seek(member.offset_data)
        found = self._stream.read(member.size)
        if len(found) < member.size:
            raise EOFError(f"it ends within {member.name}")
        return found

    def finish(self) -> None:
        """Read to the end, where gzip checks its checksum; raise EOFError without an end mark."""
        if len(self._last_block) < tarfile.BLOCKSIZE or any(self._last_block):
            raise EOFError("it has no end mark")
        while self._stream.read(_STEP):
            if self.tell() > self._max_total_bytes:
                raise _RefusedError(
                    f"unpacks to more than the limit of {self._max_total_bytes} bytes"
                )


def _safe_parts(name: str) -> list[str]:
    """Return the components of a member's name; raise for one that could leave its folder."""
    if not name.isprintable():  # control characters, and bytes that are not UTF-8
        raise _RefusedError(f"member {name!a} has unprintable characters in its name")
    pieces = re.split(r"[/\\]", name)
    if pieces[0] == "" or re.match(r"[A-Za-z]:", name):
        raise _RefusedError(f"member {name!a} has an absolute name, or none")
    if ".." in pieces:
        raise _RefusedError(f"member {name} climbs out of its folder")
    return [piece for piece in pieces if piece not in ("", ".")]
