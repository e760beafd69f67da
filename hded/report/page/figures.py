"""Plots as inline SVG: drawn by matplotlib, with colours and font of the page.

- Matplotlib draws with placeholder colours, which are then replaced by CSS variables, so that one
  SVG works in light and dark mode. Text stays text.
- Lines differ by dash as well as by colour, for greyscale print.
- Equal data give equal bytes: fixed hash salt, no date, ids prefixed by the figure's name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from hded.optics import ThinLens

INK, RULE, FAINT = "#010101", "#020202", "#030303"
SERIES = 7  # colours --s1 to --s7 of the page's style sheet
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = (
    "-", (0, (5, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 2, 1, 2, 1, 2)),
    (0, (2, 3)),
)  # fmt: skip
TERMS = {
    "total": "total loss",
    "l1": "L1, depth",
    "gradient": "gradient, depth",
    "charbonnier": "Charbonnier, image",
    "l1_image": "L1, image",
    "ssim": "1 − SSIM, image",
}
SCORES = ("rmse", "psnr", "input_psnr")  # validation scores, not terms of the loss
# size in inches, margins; phones show one figure per row
SMALL = (3.0, 1.9), {"left": 0.17, "right": 0.98, "bottom": 0.21, "top": 0.88}
WIDE = (3.8, 2.7), {"left": 0.13, "right": 0.98, "bottom": 0.16, "top": 0.98}
TALL = (3.8, 3.9), {"left": 0.15, "right": 0.98, "bottom": 0.11, "top": 0.98, "hspace": 0.15}
LOG_RATIO = 50  # a wider range of depth has a logarithmic axis
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.color": INK,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure for the page: SVG, a description in words, and a caption."""

    svg: str
    label: str
    caption: str


def coc_figure(lenses: Sequence[ThinLens], depth_m: tuple[float, float], name: str) -> Picture:
    """Return a figure of the signed CoC and sigma [px] of lenses over a range of depth [m].

    lenses: one, or several that differ in focus distance.
    """
    wide = depth_m[1] / depth_m[0] > LOG_RATIO
    x = np.geomspace(*depth_m, 400) if wide else np.linspace(*depth_m, 400)
    with mpl.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        figure = _figure(WIDE)
        axes = figure.subplots()
        for i, lens in enumerate(lenses):
            at = f" at {lens.focus_distance_m:g} m" if len(lenses) > 1 else ""
            axes.plot(x, lens.coc_px(x), color=_series(2 * i), label=f"CoC, signed{at}")
            axes.plot(
                x, lens.sigma_px(x), color=_series(2 * i + 1), linestyle=DASHES[1],
                label=f"sigma{at}",
            )  # fmt: skip
            if depth_m[0] <= lens.focus_distance_m <= depth_m[1]:
                axes.axvline(lens.focus_distance_m, color=FAINT, linewidth=0.8, linestyle=DASHES[2])
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set(xlabel="depth [m]", ylabel="blur [px]", xlim=depth_m)
        if wide:
            _log_axis(axes, "x")
        axes.legend(loc="lower right")
        svg = _svg(figure, name)
    sharp = ", ".join(f"{lens.focus_distance_m:g}" for lens in lenses)
    caption = (
        f"Circle of confusion against depth: sharp at {sharp} m (dotted), negative nearer, "
        f"positive beyond; clamped at ±{lenses[0].max_coc_px:g} px. Sigma is the Gaussian's "
        "standard deviation."
    )
    return Picture(svg, "Circle of confusion against depth", caption)


def coc_histogram(table: pd.DataFrame, name: str) -> Picture:
    """Return a figure of the share of pixels [%] over signed CoC [px].

    table: columns coc_px, share_percent.
    """
    with mpl.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        figure = _figure(WIDE)
        axes = figure.subplots()
        width = float(np.diff(table["coc_px"]).min())
        axes.bar(table["coc_px"], table["share_percent"], width=width, color=_series(0))
        axes.axvline(0, color=INK, linewidth=0.6)
        axes.set(xlabel="signed CoC [px]", ylabel="pixels [%]")
        svg = _svg(figure, name)
    caption = (
        "Histogram of the signed circle of confusion over all frames and pixels with depth: 0 is "
        "in focus, negative nearer, positive beyond; the outermost bins include clamped values."
    )
    return Picture(svg, "Histogram of the circle of confusion", caption)


def error_figure(
    curves: Mapping[str, Sequence[pd.DataFrame]],
    xlabel: str,
    name: str,
    caption: str,
    *,
    shares_of: str | None = None,
) -> Picture:
    """Return a figure of RMSE and bias [m] over one quantity, by variant, and the share of pixels.

    curves: for each variant, one table a seed with bin_low, bin_high, pixels, rmse, bias. Lines are
    means over seeds; bands reach from the lowest to the highest seed. shares_of: the variant whose
    pixels are counted, the first if None; a control's images may have another blur.
    """
    with mpl.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        figure = _figure(TALL)
        top, middle, bottom = figure.subplots(3, sharex=True, height_ratios=(3, 2, 1))
        for i, (variant, tables) in enumerate(curves.items()):
            for axes, column in ((top, "rmse"), (middle, "bias")):
                x, values = _steps(tables, column)
                axes.plot(x, values.mean(0), color=_series(i), linestyle=_dash(i), label=variant)
                if len(values) > 1:
                    low, high = values.min(0), values.max(0)
                    axes.fill_between(x, low, high, color=_series(i), alpha=0.2, linewidth=0)
        table = curves[shares_of or next(iter(curves))][0]
        centre, width = (
            (table["bin_low"] + table["bin_high"]) / 2,
            table["bin_high"] - table["bin_low"],
        )
        share = 100 * table["pixels"] / max(1, table["pixels"].sum())
        bottom.bar(centre, share, width=width, color=FAINT, linewidth=0)
        middle.axhline(0, color=INK, linewidth=0.6)
        top.set(ylabel="RMSE [m]", ylim=(0, None))
        middle.set(ylabel="bias [m]")
        bottom.set(xlabel=xlabel, ylabel="pixels [%]")
        figure.align_ylabels()
        if len(curves) > 1:
            top.legend()
        svg = _svg(figure, name)
    return Picture(svg, f"Depth error against {xlabel}", caption)


def training_figures(histories: Mapping[int, pd.DataFrame], name: str) -> list[Picture]:
    """Return a small figure for each loss term and validation score, by seed and split.

    histories: history.csv by seed. Terms are unweighted. Lines connect the epochs for which there
    is a value.
    """
    columns = [c for table in histories.values() for c in table.columns]
    split = [c.split("/", 1) for c in columns if "/" in c]
    names = list(dict.fromkeys(name for kind, name in split if kind in ("train", "val")))
    plan: list[tuple[str, str, dict[str, str], bool]] = [
        (
            term,
            TERMS.get(term, term),
            {f"train/{term}": "training", f"val/{term}": "validation"},
            True,
        )
        for term in names
        if term not in SCORES
    ]
    if "rmse" in names:
        plan.append(("rmse", "validation RMSE [m]", {"val/rmse": "validation"}, False))
    if "psnr" in names:
        lines = {"val/psnr": "all_in_focus", "val/input_psnr": "defocused input"}
        plan.append(("psnr", "validation PSNR [dB]", lines, False))
    if "grad/all_in_focus" in columns and "grad/depth" in columns:
        lines = {"grad/depth": "depth", "grad/all_in_focus": "deblurring"}
        plan.append(("encoder", "gradient at the encoder, as weighted", lines, True))
    if "lr" in columns:
        plan.append(("lr", "learning rate", {"lr": "learning rate"}, False))
    return [
        _term_figure(histories, lines, title, f"{name}-{key}", log=log)
        for key, title, lines, log in plan
    ]


def _term_figure(
    histories: Mapping[int, pd.DataFrame],
    lines: Mapping[str, str],
    title: str,
    name: str,
    log: bool,
) -> Picture:
    with mpl.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        figure = _figure(SMALL)
        axes = figure.subplots()
        smallest = np.inf
        for i, (column, label) in enumerate(lines.items()):
            for n, table in enumerate(t for t in histories.values() if column in t):
                rows = table[np.isfinite(table[column].astype(float))]
                smallest = min(smallest, rows[column].min()) if len(rows) else smallest
                axes.plot(
                    rows["epoch"], rows[column], color=_series(i), linestyle=_dash(i),
                    linewidth=1.2, label=label if n == 0 else None,
                    marker="." if len(rows) == 1 else None,
                )  # fmt: skip
        if log and 0 < smallest < np.inf:
            _log_axis(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        last = max(table["epoch"].max() for table in histories.values())
        axes.set(xlabel="epoch", title=title, xlim=(0, last + 0.5))
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend()
        return Picture(_svg(figure, name), f"Training curve: {title}", "")


def _steps(tables: Sequence[pd.DataFrame], column: str) -> tuple[NDArray, NDArray]:
    """Return the seeds' values in common bins, as steps: x (2n,), values (seeds, 2n).

    A bin that a seed lacks is NaN, as is the gap between bins that are not adjacent.
    """
    frames = [t.set_index(["bin_low", "bin_high"])[column] for t in tables]
    joined = pd.concat(frames, axis=1).sort_index()
    low, high = (joined.index.get_level_values(i).to_numpy() for i in (0, 1))
    values = joined.to_numpy().T
    gaps = np.flatnonzero(low[1:] > high[:-1]) + 1
    low, high = np.insert(low, gaps, high[gaps - 1]), np.insert(high, gaps, low[gaps])
    values = np.insert(values, gaps, np.nan, axis=1)
    return np.column_stack([low, high]).ravel(), np.repeat(values, 2, axis=1)


def _log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _figure(shape: tuple[tuple[float, float], Mapping[str, float]]) -> Figure:
    # fixed margins, because matplotlib's layout engines take as long as the drawing itself
    size, margins = shape
    figure = Figure(figsize=size)
    figure.subplots_adjust(**margins)
    return figure


def _series(index: int) -> str:
    return f"#0400{index % SERIES:02x}"


def _dash(index: int) -> str | tuple[int, tuple[int, ...]]:
    return DASHES[index % len(DASHES)]


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as inline <svg> with the page's colours and font."""
    buffer = StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # a style element in an SVG would apply to the whole page
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    for marker, colour in _colours():
        svg = svg.replace(marker, colour)
    # ids must be unique in a page with many figures
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{_identifier(name)}-", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family:[^;\"]*;?", "", svg)
    return re.sub(r"<svg ([^>]*)>", '<svg \\1 aria-hidden="true" focusable="false">', svg, count=1)


def _colours() -> Iterable[tuple[str, str]]:
    yield INK, "currentColor"
    yield RULE, "var(--rule)"
    yield FAINT, "var(--faint)"
    for i in range(SERIES):
        yield _series(i), f"var(--s{i + 1})"


def _identifier(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", name)
