"""A real HTTP server on 127.0.0.1 that misbehaves as it is told, for the tests of downloads.

`server.serve("/name", Reply(...), Reply(...))` answers the first request of that path with the
first reply, the next with the next, and every further one with the last. `server.requests` keeps
what was asked, in order.
"""

import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One answer: a good one, save for what is set."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/octet-stream"
    etag: str | None = '"v1"'
    last_modified: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content_length: int | str | None = None  # sent in place of the true one; "" sends none
    chunked: bool = False
    ignores_range: bool = False
    ignores_if_range: bool = False
    range_total: int | str | None = None  # the length that `Content-Range` claims
    range_start: int | None = None  # where `Content-Range` and the bytes really start
    cut_after: int | None = None  # bytes of the body that are sent before the connection is dropped
    reset: bool = False  # drop it with RST instead of FIN
    stall_after: int | None = None  # bytes of the body that are sent before silence
    piece: int = 1 << 16  # bytes sent at once
    pause_s: float = 0.0  # between pieces
    hold: threading.Event | None = None  # nothing is answered before it is set


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came in."""

    path: str
    headers: dict[str, str]  # names in lower case

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class MisbehavingServer(ThreadingHTTPServer):
    """Serves scripted replies until `stop`; use it as a context manager."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stopped = threading.Event()
        self.requests: list[Asked] = []
        self._replies: dict[str, list[Reply]] = {}
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "MisbehavingServer":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopped.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def serve(self, path: str, *replies: Reply) -> str:
        """Script a path and return its URL."""
        with self._guard:
            self._replies[path] = list(replies)
        return self.url(path)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def asked(self, path: str) -> list[Asked]:
        """Return the requests of one path so far."""
        with self._guard:
            return [asked for asked in self.requests if asked.path == path]

    def take(self, asked: Asked) -> Reply:
        """Record a request and return what it is to be answered."""
        with self._guard:
            self.requests.append(asked)
            replies = self._replies.get(asked.path.partition("?")[0])
            if not replies:
                return Reply(status=404, body=b"nothing here", content_type="text/plain")
            return replies.pop(0) if len(replies) > 1 else replies[0]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed in mid-download."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MisbehavingServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        asked = Asked(self.path, {key.lower(): value for key, value in self.headers.items()})
        reply = self.server.take(asked)
        while reply.hold and not reply.hold.wait(0.02) and not self.server.stopped.is_set():
            pass
        status, body, headers = reply.status, reply.body, dict(reply.headers)
        span = re.fullmatch(r"bytes=(\d+)-", asked.range or "")
        condition = asked.headers.get("if-range")
        holds = condition in (None, reply.etag, reply.last_modified) or reply.ignores_if_range
        if status == 200 and span and holds and not reply.ignores_range:
            start = int(span[1])
            if start >= len(body):
                status, body = 416, b""
                headers["Content-Range"] = f"bytes */{len(reply.body)}"
            else:
                status = 206
                start = start if reply.range_start is None else reply.range_start
                total = len(body) if reply.range_total is None else reply.range_total
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{total}"
                body = body[start:]
        self.send_response(status)
        for name, value in self._metadata(reply, body).items():
            self.send_header(name, value)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._send(reply, body)

    def _metadata(self, reply: Reply, body: bytes) -> dict[str, str]:
        values = {
            "Content-Type": reply.content_type,
            "ETag": reply.etag,
            "Last-Modified": reply.last_modified,
            "Connection": "close",
        }
        if reply.chunked:
            values["Transfer-Encoding"] = "chunked"
        elif reply.content_length != "":
            length = len(body) if reply.content_length is None else reply.content_length
            values["Content-Length"] = str(length)
        return {name: value for name, value in values.items() if value is not None}

    def _send(self, reply: Reply, body: bytes) -> None:
        if reply.cut_after is not None:
            body = body[: reply.cut_after]
        sent = 0
        while sent < len(body):
            end = min(sent + reply.piece, len(body))
            if reply.stall_after is not None and end > reply.stall_after:
                end = reply.stall_after
            piece = body[sent:end]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if reply.chunked else piece)
            sent = end
            if sent == reply.stall_after:
                self.server.stopped.wait()
                return
            if reply.pause_s and self.server.stopped.wait(reply.pause_s):
                return
        if reply.cut_after is None:
            if reply.chunked:
                self.wfile.write(b"0\r\n\r\n")
        elif reply.reset:
            linger = struct.pack("ii", 1, 0)  # on, 0 s: close sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.wfile.close()
            self.connection.close()
