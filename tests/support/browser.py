"""A real browser, headless: what a page looks like and does there."""

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium: `apt-get install chromium` (or put it on PATH)"
)
PROBE = """
const seen = {errors: []};
addEventListener("error", (event) => seen.errors.push(event.message));
document.addEventListener("securitypolicyviolation", (e) => seen.errors.push(e.blockedURI));
addEventListener("load", () => setTimeout(() => {
  const compare = document.querySelector(".compare");
  const range = compare.querySelector("input[type=range]");
  const visible = () => [...compare.querySelectorAll(".layer")]
    .filter((e) => getComputedStyle(e).visibility === "visible")
    .map((e) => [e.dataset.label, getComputedStyle(e).clipPath]);
  seen.before = visible();
  range.focus();
  seen.focused = document.activeElement === range;
  range.value = "80";
  range.dispatchEvent(new Event("input"));
  seen.after = visible();
  compare.querySelector("input[value=PAIR]").click();
  seen.other = visible();
  seen.tags = [...compare.querySelectorAll(".tag")].map((e) => e.textContent);
  seen.words = range.getAttribute("aria-valuetext");
  seen.requests = performance.getEntriesByType("resource").map((e) => e.name)
    .filter((name) => !name.startsWith("data:"));
  seen.broken = [...document.images].filter((e) => !e.complete || !e.naturalWidth).length;
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  seen.width = innerWidth;
  seen.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  seen.background = getComputedStyle(document.body).backgroundColor;
  parent.postMessage(JSON.stringify(seen), "*");
}, 0));
"""


def chromium(profile: Path, page: Path, width: int, *options: str) -> tuple[str, list[str]]:
    """Open a page; gives what was dumped, and the console's lines."""
    assert CHROMIUM is not None
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [
        CHROMIUM, "--headless=new", *root, "--disable-gpu", "--hide-scrollbars", "--no-first-run",
        "--disable-dev-shm-usage", f"--user-data-dir={profile}", f"--window-size={width},1600",
        "--virtual-time-budget=3000", "--enable-logging=stderr", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def probed(page: str, folder: Path, width: int, pair: str = "all_in_focus-sharp") -> Path:
    """Write the page with the probe in it, in a frame: a window is never as narrow as a phone.

    The probe moves the first slider to 80 and chooses `pair`.
    """
    probe = PROBE.replace("PAIR", pair)
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    page = page.replace("<style>", f"<script>{probe}</script><style>", 1)
    (folder / "page.html").write_text(page, "utf-8")
    frame = folder / "frame.html"
    frame.write_text(
        "<!DOCTYPE html><meta name='color-scheme' content='light dark'>"
        "<script>onmessage = (e) => { document.documentElement.dataset.probe = e.data; }</script>"
        f"<iframe src='page.html' style='width: {width}px; height: 1600px; border: 0'></iframe>"
    )
    return frame


def result(dump: str) -> dict:
    found = re.search(r'data-probe="([^"]*)"', dump)
    assert found, "the page's scripts did not run"
    return json.loads(html.unescape(found[1]))
