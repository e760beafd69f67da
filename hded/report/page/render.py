"""The report's page: one HTML file with everything inlined; equal inputs give equal bytes.

Text passes jinja2's autoescape; only our own SVG, style and script are marked as safe. A content
security policy forbids all requests, and all scripts except the page's own.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from hded.common.errors import HDEDError, hide_secrets
from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.optics import recorded_lens
from hded.report.page.figures import (
    Picture,
    coc_figure,
    coc_histogram,
    error_figure,
    training_figures,
)
from hded.report.page.headline import Fact, headline
from hded.report.page.pictures import SceneView, build_gallery
from hded.report.page.side_by_side import SideBySide, compare_systems
from hded.report.read.runs import Run, Selection, comparable
from hded.report.tables.blur import Defocused, blur_sentence
from hded.report.tables.build import MAIN_VARIANT
from hded.report.tables.captions import (
    camera_sentence,
    dataset_title,
    sample_warning,
    seeds_sentence,
)
from hded.report.tables.model import Table, number
from hded.report.tables.published import PAPER

PAGE_BYTES = 9_500_000  # below 10 MB, since the size is only estimated
LEAST_PICTURE_BYTES = 1_000_000
UI_ADDRESS = "http://127.0.0.1:5000"  # where `mlflow ui` listens by default
NEAREST_M = 0.3  # the camera's curve begins here, or nearer for a near focus distance


@dataclass(frozen=True, slots=True)
class Network:
    """One variant's examples and training curves; `why_no_*` explains a missing output."""

    variant: str
    anchor: str
    description: str
    run: Run  # the first seed, whose examples are shown
    scenes: Sequence[SceneView]
    training: Sequence[Picture]
    why_no_depth: str
    why_no_image: str


@dataclass(frozen=True, slots=True)
class CameraView:
    """The renderings of a dataset by one camera."""

    name: str
    sentence: str
    plots: Sequence[Picture]  # the camera's curve, unless the lens is random; the histogram
    drawn: bool
    blur: str
    sheet: str


@dataclass(frozen=True, slots=True)
class DatasetView:
    """One dataset's section."""

    name: str
    anchor: str
    title: str
    warnings: Sequence[str]
    main: str  # the variant of the headline
    facts: Sequence[Fact]
    networks: Sequence[Network]  # the main one first
    errors: Sequence[Picture]
    why_no_errors: str
    cameras: Sequence[CameraView]
    systems: SideBySide | None
    seeds: int


def render_page(
    selection: Selection,
    defocused: Mapping[str, Mapping[str, Defocused]],
    tables: Sequence[Table],
    descriptions: Mapping[str, str],
    params_yaml: str,
) -> str:
    """Render the page as HTML text; defocused: by dataset and camera."""
    figures = {run.name: _training(selection, run) for run in _shown(selection)}
    cameras = {
        name: [_camera(selection.of(name), *item) for item in defocused[name].items()]
        for name in selection.datasets
    }
    errors = {name: _errors(selection.of(name)) for name in selection.datasets}
    systems = {
        name: compare_systems([run for run in _shown(selection) if run.dataset == name])
        for name in selection.datasets
    }
    svgs = [
        *(p for some in figures.values() for p in some),
        *(p for some, _ in errors.values() for p in some),
        *(p for views in cameras.values() for view in views for p in view.plots),
    ]
    # everything except the examples: tables, notes, parameters, plots
    rest = 200_000 + 4 * len(params_yaml) + sum(len(p.svg) for p in svgs)
    rest += sum(len(view.sheet) for views in cameras.values() for view in views)
    rest += 600 * sum(len(part.rows) * len(part.columns) for t in tables for part in t.parts)
    rest += sum(each.characters for each in systems.values() if each is not None)
    main = frozenset(r.name for r in _shown(selection)[: len(selection.datasets)])
    budget = max(LEAST_PICTURE_BYTES, PAGE_BYTES - rest)
    gallery = build_gallery(_shown(selection), main, budget)

    def network(run: Run) -> Network:
        return Network(
            variant=run.variant,
            anchor=f"{run.dataset}-{run.variant}",
            description=descriptions.get(run.variant, ""),
            run=run,
            scenes=gallery.views.get(run.name, ()),
            training=figures[run.name],
            why_no_depth=_sentence(run.lacks(DEPTH)),
            why_no_image=_sentence(run.lacks(ALL_IN_FOCUS)),
        )

    views = []
    for name in selection.datasets:
        runs = selection.of(name)
        shown = [run for run in _shown(selection) if run.dataset == name]
        views.append(
            DatasetView(
                name=name,
                anchor=f"dataset-{name}",
                title=dataset_title(runs[0]),
                warnings=list(sample_warning(runs)),
                main=shown[0].variant,
                facts=headline(selection.of(name, shown[0].variant)),
                networks=[network(run) for run in shown],
                errors=errors[name][0],
                why_no_errors=errors[name][1],
                cameras=cameras[name],
                systems=systems[name],
                seeds=len(selection.seeds),
            )
        )
    return render(
        "index.html.j2",
        paper=PAPER,
        datasets=views,
        tables=tables,
        selection=selection,
        left_out=gallery.left_out,
        params_yaml=hide_secrets(params_yaml),
        seeds=seeds_sentence(selection.seeds).capitalize(),
        local_uris=_local_uris(selection.runs),
        ui_address=UI_ADDRESS,
    )


def render(template: str, **content: object) -> str:
    """Return a page from a template that extends `base.html.j2`, with style and script inlined."""
    script, style = _template("page.js"), _template("page.css")
    return _environment().get_template(template).render(
        **content,
        run_link=_run_link,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )  # fmt: skip


def _shown(selection: Selection) -> list[Run]:
    """Return the runs whose examples are shown, one seed per variant: main first, controls last."""
    controls = {run.variant for run in selection.runs if run.control}
    variants = sorted(selection.variants, key=lambda v: (v != MAIN_VARIANT, v in controls))
    return [selection.of(d, v)[0] for v in variants for d in selection.datasets]


def _sentence(reason: str) -> str:
    return f"{reason[0].upper()}{reason[1:]}." if reason else ""


def _training(selection: Selection, run: Run) -> list[Picture]:
    runs = selection.of(run.dataset, run.variant)
    histories = {r.seed: r.history for r in runs}
    return training_figures(histories, f"training-{run.dataset}-{run.variant}")


def _errors(runs: Sequence[Run]) -> tuple[list[Picture], str]:
    """Return plots of depth error against depth and CoC, or the reason why there are none."""
    with_depth = [run for run in runs if run.by_depth is not None and len(run.by_depth)]
    if not with_depth:
        names = ", ".join(dict.fromkeys(run.variant for run in runs))
        return [], f"No depth error is shown: {names} has no depth head, or no pixel has depth."
    by_depth: dict[str, list] = {}
    by_coc: dict[str, list] = {}
    for run in with_depth:
        by_depth.setdefault(run.variant, []).append(run.by_depth)
        if run.blurred:  # otherwise every pixel has a circle of confusion of 0
            by_coc.setdefault(run.variant, []).append(run.by_coc)
    name = runs[0].dataset
    plots = [
        error_figure(
            by_depth, "true depth [m]", f"error-depth-{name}",
            "Depth error against true depth: RMSE, bias (estimate minus truth) and the share of "
            "pixels, over all test pixels with depth up to the dataset's maximum, to which "
            "estimates are clipped.",
        )
    ]  # fmt: skip
    if by_coc:
        text = (
            "Depth error against the circle of confusion: 0 is in focus, negative is nearer than "
            "the focus distance. A network that used only blur could not resolve depth around 0 "
            "and would confuse the two sides."
        )
        shown = comparable([run for run in with_depth if run.blurred])[0].variant
        if len(by_coc) > 1:
            text += f" The share of pixels is that of {shown}'s test renderings."
        label, key = "signed CoC [px]", f"error-coc-{name}"
        plots.append(error_figure(by_coc, label, key, text, shares_of=shown))
    return plots, ""


def _camera(runs: Sequence[Run], name: str, defocused: Defocused) -> CameraView:
    cameras = ((run, c) for run in comparable(runs) for c in run.cameras if c["name"] == name)
    run, camera = next(cameras)
    curve = draw_optics(run, camera)
    return CameraView(
        name=name,
        sentence=camera_sentence(camera),
        plots=[*curve, coc_histogram(defocused.histogram, f"histogram-{run.dataset}-{name}")],
        drawn=not curve,
        blur=blur_sentence(defocused),
        sheet=defocused.sheet,
    )


def draw_optics(run: Run, camera: Mapping[str, Any]) -> list[Picture]:
    """Return the camera's curve; no curve for a camera that is drawn anew for each frame."""
    focus = camera.get("focus_distance_m")
    focus = focus if isinstance(focus, list) else [focus]
    found = [recorded_lens({**camera, "focus_distance_m": f}, {}) for f in focus]
    lenses = [lens for lens in found if lens is not None]
    if len(lenses) < len(found):
        return []
    focus = [lens.focus_distance_m for lens in lenses]
    far = 2 * max(focus)
    if run.by_depth is not None and len(run.by_depth):
        far = max(far, float(run.by_depth["bin_high"].max()))
    near = min(NEAREST_M, min(focus) / 2)
    return [coc_figure(lenses, (near, far), f"optics-{run.dataset}-{camera['name']}")]


def _run_link(run: Run) -> str:
    """Return the run's URL in MLflow's UI; for a local database, at the address of `mlflow ui`."""
    uri = run.training.tracking_uri
    server = uri.rstrip("/") if uri.startswith(("http://", "https://")) else UI_ADDRESS
    return f"{server}/#/runs/{quote(run.training.run_id, safe='')}"


def _local_uris(runs: Sequence[Run]) -> list[str]:
    uris = dict.fromkeys(run.training.tracking_uri for run in runs)
    return [uri for uri in uris if not uri.startswith(("http://", "https://"))]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "svg": lambda picture: Markup(picture.svg),
        "figure": number,
        "duration": _duration,
    }
    return environment


def _template(name: str) -> str:
    try:
        return resources.files("hded.report").joinpath("templates", name).read_text("utf-8")
    except FileNotFoundError:
        raise HDEDError(f"hded/report/templates/{name}: is missing; reinstall hded") from None
