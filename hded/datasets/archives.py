"""Safe reading of untrusted `.tar.gz` archives: members as bytes, nothing is extracted to disk.

Design choices:

- The tar blocks are read here and not by `tarfile`'s iterator, which stops silently at a damaged
  header, does not verify the gzip checksum in stream mode, and trusts the sizes of extension
  headers. `tarfile.TarInfo.frombuf` still parses each header.
- The name and type of every member are checked, even of members that are not requested. An unusual
  member means that this is not the official archive, so it is an error and not skipped.
- The stream is read to its end, because the checksum is there.
"""

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from hded.common.errors import HDEDError

_BLOCK = tarfile.BLOCKSIZE
_STEP = 1 << 20  # bytes unpacked at a time where they are skipped
_MAX_EXTENSION_BYTES = 64 << 10  # a long name or a pax record; real ones have a few hundred bytes
_MAX_EXTENSIONS = 8  # in a row, before one member; real ones have one or two
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
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

    `folder` is a path within the archive (`Train400Img`, or `.` for its root); `suffix` is
    case-insensitive. Files whose name starts with a dot (such as the `._` files of macOS) and files
    in other folders are skipped, but checked all the same. Members are yielded in the archive's
    order, one in memory at a time. A caller that stops early has not had the rest checked.

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
        with gzip.open(archive, "rb") as stream:
            tar = _Tar(stream, max_total_bytes)
            for count, member in enumerate(tar.members(), start=1):
                if count > max_members:
                    raise _RefusedError(f"more than {max_members} members")
                parts = _safe_parts(member.name)
                if member.isdir():
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
                    kind = _KINDS.get(member.type, f"of the unknown kind {member.type!r}")
                    raise _RefusedError(f"member {member.name} is {kind}")
                if not parts:
                    raise _RefusedError(f"member {member.name} is a file without a name")
                name = "/".join(parts)
                if name in seen:
                    raise _RefusedError(f"member {name} is there twice")
                seen.add(name)
                wanted = parts[:-1] == home and name.lower().endswith(endings)
                if not wanted or parts[-1].startswith("."):
                    continue
                if member.size > max_member_bytes:
                    raise _RefusedError(
                        f"member {name} claims {member.size} bytes, above the limit of"
                        f" {max_member_bytes}"
                    )
                data = tar.data(member)
                yielded = True
                yield parts[-1], data
        if not yielded:
            raise _RefusedError(f"no file *{' or *'.join(endings)} in its folder {folder}/")
    except _RefusedError as error:
        raise HDEDError(
            f"{archive}: {error}: it is not the official archive, download it again or replace it"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.HeaderError) as error:
        raise HDEDError(
            f"{archive}: damaged or cut short ({str(error).rstrip('.')}): delete it and download it"
            " again"
        ) from error
    except OSError as error:
        raise HDEDError(
            f"{archive}: cannot be read ({error.strerror or error}): check the path and the disk"
        ) from error


class _RefusedError(Exception):
    """Unacceptable content of an archive; the message names the member."""


class _Tar:
    """The members of a tar stream in order, within limits of size and number."""

    def __init__(self, stream: gzip.GzipFile, max_total_bytes: int) -> None:
        self._stream = stream
        self._max_total_bytes = self._left = max_total_bytes
        self._pending = 0  # unread bytes of the current member, including padding

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield each member with resolved long name and size, then read the stream to its end."""
        while (block := self._next_block()) is not None:
            path, size = None, None
            for _ in range(_MAX_EXTENSIONS):
                member = _header(block)
                if member.type not in (
                    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
                    tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE,
                ):  # fmt: skip
                    break
                extension = self._extension(member)
                if member.type == tarfile.GNUTYPE_LONGNAME:
                    path = _text(extension.rstrip(b"\0"))
                elif member.type != tarfile.GNUTYPE_LONGLINK:  # link targets are not used
                    records = _pax_records(extension)
                    if records and member.type == tarfile.XGLTYPE:
                        raise _RefusedError("a global header that names or sizes its members")
                    path, size = records.get("path", path), records.get("size", size)
                block = self._next_block()
                if block is None:
                    raise EOFError("it ends after an extension header")
            else:
                raise _RefusedError(f"more than {_MAX_EXTENSIONS} extension headers in a row")
            member.name = member.name if path is None else path
            member.size = member.size if size is None else int(size)
            # Only files have data; the size field of a directory is ignored.
            self._pending = 0 if member.isdir() else member.size + -member.size % _BLOCK
            if self._pending > self._left:
                raise _RefusedError(
                    f"member {member.name!a} claims {member.size} bytes and unpacks the"
                    f" archive beyond its limit of {self._max_total_bytes}"
                )
            yield member
        while self._read(_STEP):  # gzip verifies the checksum at the stream's end
            pass

    def data(self, member: tarfile.TarInfo) -> bytes:
        """Return the bytes of the member that was yielded last."""
        self._pending -= member.size
        return self._exactly(member.size)

    def _next_block(self) -> bytes | None:
        """Return the next header block, or None at the end mark, a block of zeros."""
        while self._pending:
            self._pending -= len(self._exactly(min(self._pending, _STEP)))
        block = self._exactly(_BLOCK)
        return block if any(block) else None

    def _extension(self, member: tarfile.TarInfo) -> bytes:
        if member.size > _MAX_EXTENSION_BYTES:
            raise _RefusedError(f"an extension header claims {member.size} bytes")
        return self._exactly(member.size + -member.size % _BLOCK)[: member.size]

    def _exactly(self, count: int) -> bytes:
        data = self._read(count)
        if len(data) < count:
            raise EOFError("it ends before its end mark")
        return data

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        self._left -= len(data)
        if self._left < 0:
            raise _RefusedError(f"unpacks to more than the limit of {self._max_total_bytes} bytes")
        return data


def _header(block: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if member.size < 0:
        raise _RefusedError(f"member {member.name!a} claims {member.size} bytes")
    return member


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _pax_records(data: bytes) -> dict[str, str]:
    """Return the `path` and `size` of a pax header, a row of records `LENGTH KEY=VALUE NEWLINE`."""
    records = {}
    while data:
        head = re.match(rb"(\d{1,6}) ([^=]+)=", data)
        length = int(head[1]) if head else 0
        if not head or not head.end() < length <= len(data) or data[length - 1 : length] != b"\n":
            raise _RefusedError("an extension header that cannot be read")
        key, value = _text(head[2]), _text(data[head.end() : length - 1])
        if key.startswith("GNU.sparse"):
            raise _RefusedError(f"member {records.get('path', value)!a} is a sparse file")
        if key == "path" or (key == "size" and re.fullmatch(r"[0-9]{1,18}", value)):
            records[key] = value
        data = data[length:]
    return records


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
