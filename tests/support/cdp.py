"""A headless Chromium that is driven: pages that answer, files that are dropped, clicks."""

import json
import os
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from support.browser import CHROMIUM


class Tab:
    """A page in the browser, spoken to by the Chrome DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._last = socket, 0
        self.requests: list[str] = []
        self.errors: list[str] = []
        for domain in ("Network", "Runtime", "Page", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its answer; what happens meanwhile is noted."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._last:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))

    def run(self, script: str) -> Any:
        """Return the value of a script in the page."""
        return self.send("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def wait(self, script: str, seconds: float = 60) -> None:
        """Wait until a script's value is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, (
                f"never true: {script}; {self.run('document.body.innerText')}"
            )
            time.sleep(0.1)

    def drop(self, path: Path) -> None:
        """Give a file to the page's file input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        entry = self.send("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=entry)

    def click(self, selector: str, right: float = 0.5, down: float = 0.5) -> None:
        """Click at a place of an element, in shares of its size."""
        rectangle = self.run(
            f"(() => {{ const e = document.querySelector('{selector}');"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x, r.y, r.width, r.height]; })()"
        )
        x, y, width, height = rectangle
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent", type=kind, x=x + right * width, y=y + down * height,
                button="left", clickCount=1,
            )  # fmt: skip

    def picture(self, path: Path) -> None:
        """Write what the page looks like as a PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(b64decode(shot["data"]))


@contextmanager
def browser(folder: Path, url: str) -> Iterator[Tab]:
    """Open a page in a browser of its own."""
    client = pytest.importorskip("websockets.sync.client")
    assert CHROMIUM is not None
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [
        CHROMIUM, "--headless=new", *root, "--disable-gpu", "--no-first-run",
        "--disable-dev-shm-usage", f"--user-data-dir={folder}", "--remote-debugging-port=0",
        "--window-size=1200,1600", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ready, end = folder / "DevToolsActivePort", time.monotonic() + 60
        while not (ready.is_file() and ready.read_text()):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.1)
        port = ready.read_text().splitlines()[0]
        with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [entry for entry in json.load(answer) if entry["type"] == "page"]
        with client.connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as socket:
            tab = Tab(socket)
            tab.send("Page.navigate", url=url)
            yield tab
    finally:
        process.kill()
        process.wait()
