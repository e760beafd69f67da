"""The page on this computer: what it computes, and what a browser sees of it."""

import sys
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import psutil
import pytest
from inference.test_photo import command, photo
from inference.test_view import STATED, saved, taken
from PIL import Image
from support.browser import needs_chromium
from support.cameras import PAPER
from support.cdp import browser
from support.imports import ROOT
from support.servers import free_port, serving

from hded.commands.demo import LARGEST_BYTES, Desk
from hded.common.errors import HDEDError
from hded.inference import load_predictor
from hded.optics.photograph import StatedLens


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("network") / "weights.safetensors")


def content(height: int, width: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(photo(height, width)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_large_photograph_is_shown_smaller_and_depth_is_read_where_it_is_clicked(network) -> None:
    desk = Desk(load_predictor(network))
    desk.open(content(300, 2048))
    desk.estimate(STATED)
    assert desk.sharp is not None and desk.sharp.shape == (150, 1024, 3)
    assert desk.defocused.size == (1024, 150) and desk.depth_shown is not None
    assert desk.depth is not None
    assert desk.depth_at(100.7, 20.2) == desk.depth[20, 100]
    assert desk.depth_at(5000, -3) == desk.depth[0, 1023]
    near, far = (np.asarray(desk.refocus(distance, 1.4)) for distance in (0.5, 8.0))
    assert near.shape == (150, 1024, 3) and not np.array_equal(near, far)


def test_without_a_focus_distance_refocusing_works_in_units_of_it(network) -> None:
    known = StatedLens(focal_length_m=0.07, f_number=70 / 44.8, sensor_width_m=0.036)
    desk = Desk(load_predictor(network))
    desk.open(content(60, 90))
    desk.estimate(STATED)
    expected = desk.refocus(3.0, 2.0)
    desk.estimate(known)
    assert desk.view.unit == "focus distance"
    np.testing.assert_array_equal(np.asarray(desk.refocus(1.5, 2.0)), np.asarray(expected))


def test_without_any_lens_the_training_cameras_or_a_sentence(network, tmp_path) -> None:
    desk = Desk(load_predictor(network))
    desk.open(content(60, 90))
    desk.estimate(StatedLens())
    with pytest.raises(HDEDError, match="focal_length_m, sensor_width_m is not known"):
        desk.refocus(1.0, 2.0)
    desk = Desk(load_predictor(saved(tmp_path / "one.safetensors", PAPER)))
    desk.open(content(60, 90))
    desk.estimate(StatedLens())
    assert desk.refocus(1.0, 2.0).size == (90, 60)
    with pytest.raises(HDEDError, match="cannot be read"):
        desk.open(b"no image")


def test_a_missing_package_is_one_line(network, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nicegui", None)
    done = command("demo", "--checkpoint", network)
    assert done.returncode == 2 and "pip install -e '.[demo]'" in done.stderr


@needs_chromium
@pytest.mark.slow
def test_a_browser_drops_a_photograph_and_clicks_and_nothing_leaves_the_computer(
    network: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nicegui")
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    arguments = ["-m", "hded", "demo", "--checkpoint", str(network), "--port", str(port)]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    with serving([sys.executable, *arguments], url, tmp_path / "server", env):
        open_sockets = psutil.net_connections("tcp")
        listening = [tuple(c.laddr) for c in open_sockets if c.status == psutil.CONN_LISTEN]
        # other computers are not answered
        assert {ip for ip, at in listening if at == port} == {"127.0.0.1"}
        # a page elsewhere, whose name was made to lead to this computer, is not answered either
        with pytest.raises(HTTPError, match="400"):
            urlopen(Request(url, headers={"Host": "example.org"}))
        with browser(tmp_path / "profile", url) as tab:
            tab.wait("!!document.querySelector('input[type=file]')")
            tab.drop(taken(tmp_path / "photos" / "a.jpg", (600, 900)))
            tab.wait("!!document.querySelector('[data-testid=depth] img')?.naturalWidth")
            fields = "[...document.querySelectorAll('input[type=number]')].map((e) => e.value)"
            assert tab.run(fields)[:3] == ["35", "2.8", "1.7"]
            before = "document.querySelector('[data-testid=refocused] img').src"
            first = tab.run(before)
            tab.click("[data-testid=depth] img", 0.3, 0.6)
            tab.wait("document.querySelector('[data-testid=message]').innerText.startsWith('Foc')")
            tab.wait(f"{before} !== '{first}'")
            tab.drop(_text(tmp_path / "a.txt"))
            tab.wait("document.querySelector('[data-testid=message]').innerText.includes('read')")
            with (tmp_path / "large.jpg").open("wb") as file:
                file.truncate(LARGEST_BYTES + 1)
            tab.drop(tmp_path / "large.jpg")
            tab.wait("document.querySelector('[data-testid=message]').innerText.includes('200 MB')")
            tab.picture(tmp_path / "page.png")
            local = ("data:", "blob:", url, f"ws://127.0.0.1:{port}/")
            assert [r for r in tab.requests if not r.startswith(local)] == []
            assert tab.errors == [] and len(tab.requests) > 5


def _text(path: Path) -> Path:
    path.write_text("no image")
    return path
