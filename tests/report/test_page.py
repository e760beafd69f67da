"""The page: self-contained, escaped, deterministic, and alive in a browser."""

import base64
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.browser import chromium, needs_chromium, probed, result
from support.report_fixtures import VARIANTS, Tree, write_tree

from hded.optics import ThinLens
from hded.report.page.colour import HATCH, Scale
from hded.report.page.figures import coc_figure
from hded.report.page.render import draw_optics
from hded.report.read.runs import read_selection
from hded.report.write import write_report

NASTY = "<script>alert('x')</script> & \"q\""
TABLES = (
    "table1", "table2", "table3", "table4", "cameras", "balance", "differences", "robustness",
    "held_out",
)  # fmt: skip
FILES = ["index.html", *(f"tables/{name}.{s}" for name in TABLES for s in ("csv", "md", "tex"))]


class Elements(HTMLParser):
    """Every element's attributes, by tag, and the text inside <script>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def report(tree: Tree, out: Path, **changes: object) -> str:
    options = {**tree.options(), **changes}
    write_report(tree.evaluated, tree.trained, tree.defocus, out, **options)
    return (out / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, Path]:
    root = tmp_path_factory.mktemp("page")
    variants = ("depth_only", "full", "deblur_only")
    tree = write_tree(root, variants=variants, seeds=(0, 1), frames=4, pictured=4)
    report(tree, root / "out")
    return tree, root / "out"


@pytest.fixture(scope="module")
def page(several: tuple[Tree, Path]) -> str:
    return (several[1] / "index.html").read_text(encoding="utf-8")


def test_the_report_is_one_page_and_four_tables_in_three_notations(
    several: tuple[Tree, Path],
) -> None:
    written = (p for p in several[1].rglob("*") if p.is_file())
    assert sorted(p.relative_to(several[1]).as_posix() for p in written) == sorted(FILES)


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    assert len(page.encode()) < 10_000_000
    for tag, attributes in Elements(page).found:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            value = attributes.get(name)
            local = value is None or value.startswith(("data:", "#"))
            assert local or (tag == "a" and name == "href"), (tag, value)
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|<iframe|<object", page)
    assert "default-src 'none'" in page


def test_ids_are_unique_and_the_contents_lead_somewhere(page: str) -> None:
    found = Elements(page).found
    ids = [a["id"] for _, a in found if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a["href"] for t, a in found if t == "a" and str(a.get("href")).startswith("#")]
    assert len(targets) >= 12
    assert {str(target)[1:] for target in targets} <= set(ids)
    clips = set(re.findall(r"url\(#([^)]+)\)", page))
    assert clips
    assert clips <= set(ids)


def test_every_picture_has_words(page: str) -> None:
    images = Elements(page).of("img")
    assert images
    assert all(image.get("alt") is not None for image in images)
    inputs = [a for a in Elements(page).of("input") if a["type"] == "range"]
    assert inputs
    assert all(a.get("aria-label") for a in inputs)


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    first = write_tree(tmp_path / "a", frames=2, pictured=2)
    second = write_tree(tmp_path / "elsewhere" / "b", frames=2, pictured=2)
    report(first, tmp_path / "one")
    report(second, tmp_path / "two")
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert str(tmp_path) not in (tmp_path / "one" / "index.html").read_text(encoding="utf-8")


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, frames=2, pictured=2)
    path = tree.trained / "nyu" / "full" / "0" / "run.json"
    run = json.loads(path.read_text())
    changes = dict.fromkeys(("run_name", "hardware", "commit", "params_digest", "run_id"), NASTY)
    run |= {**changes, "versions": {NASTY: NASTY}, "tracking_uri": "javascript:alert(1)"}
    path.write_text(json.dumps(run))
    path = tree.folder() / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation |= {"skipped": [NASTY], "source": NASTY}
    for protocol in evaluation["protocols"]:
        protocol["statement"] = protocol["title"] = NASTY
    path.write_text(json.dumps(evaluation))
    described = {name: NASTY for name in VARIANTS}
    text = report(tree, tmp_path / "out", all_variants=described, params_yaml=NASTY)
    assert len(Elements(text).of("script")) == 1
    assert text.count("&lt;script&gt;alert(") > 10
    links = [str(a.get("href")) for a in Elements(text).of("a")]
    assert all(link.startswith(("#", "http://127.0.0.1:5000/#/runs/")) for link in links)
    assert "<script" not in (tmp_path / "out/tables/table2.md").read_text().replace("\\<script", "")


def test_runs_are_named_and_linked(several: tuple[Tree, Path], page: str, tmp_path: Path) -> None:
    links = {str(a.get("href")) for a in Elements(page).of("a")}
    for seed in several[0].seeds:
        assert f"nyu-full-seed{seed}" in page
        run_id = f"{seed:02d}{'0123456789abcdef' * 2}"[:32]
        assert f"http://127.0.0.1:5000/#/runs/{run_id}" in links
    assert all(text in page for text in ("34e88cb0a1b2", "0123456789ab", "torch 2.13.0", "2 CPU"))
    tree = write_tree(tmp_path, frames=2, pictured=1)
    path = tree.trained / "nyu" / "full" / "0" / "run.json"
    server = {"tracking_uri": "https://mlflow.example/"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **server}))
    text = report(tree, tmp_path / "out")
    assert 'href="https://mlflow.example/#/runs/000123456789abcdef' in text
    assert "mlflow ui" not in text


def test_what_a_variant_cannot_show_is_explained(page: str) -> None:
    assert "No all-in-focus head: depth_only restores no image." in page
    assert "No depth head: deblur_only estimates no depth." in page
    # the main variant comes first, whatever the order of the selection
    assert page.index('id="nyu-full"') < page.index('id="nyu-depth_only"')
    assert "seeds (0, 1): mean ± sample standard deviation" in page


def test_variants_without_a_head_alone_make_a_page(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, variants=("deblur_only",), frames=2, pictured=2, camera="syndof")
    text = report(tree, tmp_path / "out")
    assert "No depth error is shown: deblur_only has no depth head" in text
    assert "No curve: this camera is drawn anew for each frame." in text
    assert "focal length drawn for each frame" in text
    assert "One seed (0): single values" in text


def test_the_headline_stands_beside_its_baselines(page: str, several: tuple[Tree, Path]) -> None:
    metrics = [json.loads((several[0].folder(seed=s) / "metrics.json").read_text()) for s in (0, 1)]
    scores = [m["all_in_focus"]["native"] for m in metrics]
    psnr = sum(s["network"]["psnr"] for s in scores) / 2
    gain = sum(s["network"]["psnr"] - s["input"]["psnr"] for s in scores) / 2
    assert re.search(rf'class="value">{psnr:.2f} <small>± ', page)
    assert re.search(
        rf"\+{gain:.2f} ± [\d.]+ against the defocused input.{{1,6}}s {psnr - gain:.2f}<", page
    )
    depth = [m["depth"]["headline"] for m in metrics]
    ratio = sum(d["network"]["rmse"] for d in depth) / 2 / depth[0]["median"]["rmse"]
    assert f"{ratio:.2f} times the {depth[0]['median']['rmse']:.3f} m" in page


# ---- pictures ----


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


def test_equal_depths_have_equal_colours_and_unknown_ones_are_hatched() -> None:
    truth = np.full((64, 96), 2.0)
    truth[:, 48:] = 4.0
    scale = Scale.of_depth(truth, 5)
    truth[:32, :32] = np.nan
    estimate = np.full((64, 96), 4.0)
    drawn, other = (decode(scale.draw(v, 640, 90).uri).astype(int) for v in (truth, estimate))
    # away from edges, where JPEG is free to ring
    assert abs(drawn[:, 64:] - other[:, 64:]).max() <= 3
    assert abs(drawn[48:, :32] - other[48:, :32]).max() > 40
    grey = drawn[2:24, 2:24].reshape(-1, 3)
    near = [abs(grey - colour).max(1) < 24 for colour in HATCH]
    assert (near[0] | near[1]).all()
    assert near[0].any()
    assert near[1].any()


@pytest.mark.parametrize("colours", ["viridis", "magma", "cividis"])
def test_colours_rise_in_lightness_so_that_grey_print_keeps_the_order(colours: str) -> None:
    bar = decode(Scale(0, 1, "m", colours, 5).bar.gradient).astype(float)[0]
    luminance = bar @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -0.6).all()
    assert luminance[-1] - luminance[0] > 150


def test_a_colour_bar_has_metres_at_the_right_places() -> None:
    bar = Scale(0.0, 10.0, "m", "viridis", 5, open_end=True).bar
    assert bar.ticks == ((0, "0"), (20, "2"), (40, "4"), (60, "6"), (80, "8"), (100, "≥ 10 m"))
    log = Scale(1.0, 100.0, "m", "viridis", 5, log=True).bar
    assert (50.0, "10") in log.ticks


def test_the_cameras_curve_has_its_softness(several: tuple[Tree, Path]) -> None:
    tree = several[0]
    (run,) = read_selection(tree.evaluated, tree.trained, ["nyu"], ["full"], [0]).runs
    (hard,), (soft,) = (draw_optics(run, {**run.camera, "softness_px": px}) for px in (0.0, 2.0))
    assert hard.svg != soft.svg


def test_the_cameras_curve_is_the_lens() -> None:
    lens = ThinLens(
        focal_length_m=0.07, aperture_m=0.0448, focus_distance_m=2.0, pixel_pitch_m=0.036 / 640
    )
    svg = coc_figure([lens], (1.0, 10.0), "x").svg
    paths = re.findall(r'<path d="([^"]+)"[^>]*var\(--s1\)', svg)
    curve = max(paths, key=len)
    points = [line.split()[1:3] for line in curve.strip().splitlines() if line[0] in "ML"]
    x, y = np.asarray(points, float).T
    depth_m = 1.0 + 9.0 * (x - x[0]) / (x[-1] - x[0])
    coc_px = lens.coc_px(depth_m)
    drawn_px = np.polyval(np.polyfit(y, coc_px, 1), y)
    assert len(x) > 10
    assert abs(drawn_px - coc_px).max() < 0.05


def test_the_camera_section_shows_the_blur_and_the_inputs_score(page: str) -> None:
    assert "The defocused input alone scores 27.50 dB and SSIM 0.810" in page
    assert "Histogram of the circle of confusion" in page
    sheets = [i for i in Elements(page).of("img") if str(i["alt"]).startswith("Test frames")]
    assert [str(i["src"])[:23] for i in sheets] == ["data:image/jpeg;base64,"]


def test_several_focus_distances_are_several_curves() -> None:
    lenses = [
        ThinLens(focal_length_m=0.07, aperture_m=0.0448, focus_distance_m=f, pixel_pitch_m=6e-5)
        for f in (1.0, 2.0, 4.0)
    ]
    picture = coc_figure(lenses, (0.5, 10.0), "x")
    assert "sharp at 1, 2, 4 m" in picture.caption
    assert all(f"CoC, signed at {f} m" in picture.svg for f in (1, 2, 4))


# ---- in a browser ----


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(1280, ()), (390, ("--force-dark-mode",))])
def test_the_page_opens_quietly_and_its_slider_moves(
    page: str, tmp_path: Path, width: int, scheme: Sequence[str]
) -> None:
    if scheme:
        scheme = (*scheme, "--blink-settings=preferredColorScheme=0")
    path = probed(page, tmp_path, width)
    dump, console = chromium(tmp_path / "profile", path, 1400, "--dump-dom", *scheme)
    seen = result(dump)
    assert console == []
    assert seen["errors"] == []
    assert seen["requests"] == []
    assert seen["broken"] == 0
    assert seen["width"] == width
    assert seen["overflow"] <= 0
    assert seen["focused"]
    assert dict(seen["before"]) == {
        "defocused": "inset(0px 50% 0px 0px)",
        "all-in-focus": "inset(0px 0px 0px 50%)",
    }
    assert dict(seen["after"])["all-in-focus"] == "inset(0px 0px 0px 80%)"
    assert [label for label, _ in seen["other"]] == ["all-in-focus", "sharp"]
    assert seen["tags"] == ["all-in-focus", "sharp"]
    assert seen["words"] == "80% all-in-focus, the rest sharp"
    assert seen["dark"] == bool(scheme)
    assert (seen["background"] == "rgb(255, 255, 255)") != bool(scheme)


@needs_chromium
def test_a_request_would_be_noticed(page: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page.replace("<h1>", '<h1><img src="http://127.0.0.1:9/x.png">', 1), "utf-8")
    _, console = chromium(tmp_path / "profile", path, 800, "--dump-dom")
    assert any("Content Security Policy" in line for line in console)


@needs_chromium
def test_screenshots_show_a_page(several: tuple[Tree, Path], tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    _, console = chromium(
        tmp_path / "profile", several[1] / "index.html", 390, f"--screenshot={shot}"
    )
    assert console == []
    with Image.open(shot) as image:
        assert image.size == (390, 1600)
        assert np.asarray(image.convert("L")).std() > 15


def test_no_secret_of_a_url_reaches_the_page(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, frames=1, pictured=1)
    secret = "source: https://alice7:hunter2@example.org/nyu?token=abc123#sha256=00"
    page = report(tree, tmp_path / "out", params_yaml=f"download: {{nyu: {{{secret}}}}}\n")
    assert "https://...@example.org/nyu?...#sha256=00" in page
    for text in ("hunter2", "abc123", "alice7"):
        assert text not in page


def test_one_image_is_shown_as_every_network_sees_it(tmp_path: Path) -> None:
    variants = ("full", "depth_only", "deblur_only")
    tree = write_tree(tmp_path / "tree", variants=variants, frames=4, pictured=4)
    page = report(tree, tmp_path / "out")
    start = page.index("One image by every network: ")
    section = page[start : page.index("</section>", start)]
    titles = re.findall(r"<figcaption>([^<]*?)\s*<", section)
    assert titles == [
        "all in focus", "defocused", "full", "deblur_only", "true depth", "full", "depth_only",
    ]  # fmt: skip
    run = pd.read_csv(tree.folder() / "examples.csv", dtype={"frame": str}).set_index("frame")
    frame = section.split(": ")[1].split("<")[0]
    assert f"{run.loc[frame, 'psnr']:.2f} dB" in section
    assert f"{run.loc[frame, 'rmse']:.3f} m" in section


def test_one_network_alone_has_nothing_beside_it(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", frames=3, pictured=3)
    assert "One image by every network" not in report(tree, tmp_path / "out")
