"""Results to be committed: a short page, figures and plots, without images of the dataset.

The report is overwritten by the next `dvc repro`. These files record a run of hours on data that
may not be published.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hded.common.files import write_csv, write_text
from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.report.page.headline import headline
from hded.report.read.runs import Run, Selection, comparable
from hded.report.tables.build import build_tables
from hded.report.tables.captions import dataset_title, describe_camera, describe_networks
from hded.report.tables.controls import build_controls, with_control
from hded.report.tables.differences import build_differences
from hded.report.tables.held_out import build_held_out
from hded.report.tables.loss_weighting import build_balance
from hded.report.tables.model import Table, number
from hded.report.tables.rendering import to_markdown
from hded.report.tables.robustness import build_robustness
from hded.report.tables.speed import NO_SPEEDS, Speeds

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "x"}
DEPTH_COLUMNS = ("rmse", "abs_rel", "log10", "delta1")
IMAGE_COLUMNS = ("psnr", "ssim")
LOSSES = {  # the main term of each kind, by its line
    "-": ("l1", "log_l1", "ordinal", "surface", "l1_coc", "reblur"),
    "--": ("charbonnier", "l1_image", "mse_image"),
}
MOST_COLORS = 10  # of matplotlib's own cycle


def write_results(
    selection: Selection,
    descriptions: Mapping[str, str],
    out: Path,
    paper_rows: Mapping[str, str] | None = None,
    speeds: Speeds = NO_SPEEDS,
) -> None:
    """Write out/README.md, summary.csv, per_image.csv, history.csv, errors.csv and plots.png.

    Equal inputs give equal bytes, except for the plots, which depend on matplotlib and its fonts.
    """
    out.mkdir(parents=True, exist_ok=True)
    runs = list(selection.runs)
    write_text(out / "README.md", _page(selection, descriptions, paper_rows, speeds))
    write_csv(out / "summary.csv", _summary(runs), float_format="%.6g")
    images = pd.concat([_images(run) for run in runs], ignore_index=True)
    write_csv(out / "per_image.csv", images, float_format="%.6g")
    history = pd.concat([_named(run, run.history) for run in runs], ignore_index=True)
    write_csv(out / "history.csv", history, float_format="%.6g")
    curves = [
        _named(run, table.assign(over=over))
        for run in runs
        for over, table in (("depth_m", run.by_depth), ("coc_px", run.by_coc))
        if table is not None and (run.blurred or over == "depth_m")
    ]
    errors = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()
    write_csv(out / "errors.csv", errors, float_format="%.6g")
    plot_results(history, errors, images).savefig(
        out / "plots.png", dpi=160, metadata={"Software": None}
    )


def _named(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    names = {"dataset": run.dataset, "variant": run.variant, "seed": run.seed}
    return pd.concat([pd.DataFrame(names, index=table.index), table], axis=1)


def _summary(runs: Sequence[Run]) -> pd.DataFrame:
    rows = [
        {"dataset": run.dataset, "variant": run.variant, "seed": run.seed, "kind": kind,
         "protocol": protocol, "method": method, "metric": metric, "value": value}
        for run in runs
        for kind, protocols in run.metrics.items()
        for protocol, methods in protocols.items()
        for method, values in methods.items()
        for metric, value in values.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _images(run: Run) -> pd.DataFrame:
    """Return a row for each test image, under the first protocol of depth and of all_in_focus."""
    table = pd.DataFrame({"frame": run.frames})
    for kind, columns in ((DEPTH, DEPTH_COLUMNS), (ALL_IN_FOCUS, IMAGE_COLUMNS)):
        for protocol in run.protocols_of(kind)[:1]:
            for method, prefix in (("network", ""), ("input", "input_")):
                for column in columns:
                    values = run.per_image(kind, protocol.name, method, column)
                    if values is not None:
                        table[f"{prefix}{column}"] = values.to_numpy()
    return _named(run, table)


def _page(
    selection: Selection,
    descriptions: Mapping[str, str],
    paper_rows: Mapping[str, str] | None,
    speeds: Speeds,
) -> str:
    firsts = [comparable(selection.of(dataset))[0] for dataset in selection.datasets]
    titles = [
        f"{dataset_title(r)}, {len(r.frames)} test images (source: {r.source})" for r in firsts
    ]
    lines = [f"# {'; '.join(titles)}", ""]
    for first in firsts:
        whose = f" of {first.dataset}" if len(firsts) > 1 else ""
        for label, sentence in describe_camera(comparable(selection.of(first.dataset))):
            lines += [f"{label}{whose}: {sentence}", ""]
    lines += ["![Training loss, error against depth and blur, PSNR gain](plots.png)", ""]
    for first in firsts:
        for variant in selection.variants:
            name = f"{first.dataset}/{variant}" if len(firsts) > 1 else variant
            runs = selection.of(first.dataset, variant)
            lines += [f"## `{name}`", "", *_network(runs, descriptions.get(variant, "")), ""]
    lines += [
        "Files: `summary.csv` (every metric under every protocol), `per_image.csv`, `history.csv` "
        "(a row for each epoch), `errors.csv` (over depth and over the circle of confusion). "
        "Written by `python -m pipeline.publish`.",
        "",
    ]
    tables = (
        build_differences(selection),
        build_controls(selection, descriptions),
        build_balance(selection),
        build_robustness(selection),
        build_held_out(selection, descriptions),
        *filter(_was_run, build_tables(selection, descriptions, paper_rows, speeds)),
    )
    for table in (table for table in tables if table is not None):
        # shift headings to one level below the page's title
        lines += [
            f"#{line}" if line.startswith("#") else line for line in _lines(to_markdown(table))
        ]
    return "\n".join(lines).rstrip() + "\n"


def _was_run(table: Table) -> bool:
    """Return whether the table has a figure of any of our networks."""
    rows = [row for part in table.parts for row in part.rows if row.kind == "ours"]
    return any(cell.value for row in rows for cell in row.cells)


def _lines(text: str) -> Iterator[str]:
    yield from text.splitlines()
    yield ""


def _network(runs: Sequence[Run], description: str) -> list[str]:
    t = runs[0].training
    minutes = mean(run.training.wall_s for run in runs) / 60
    lines = [f"{with_control(description, runs[0])}.", ""]
    lines += ["| | | |", "|:--|--:|:--|"]
    for fact in headline(runs):
        lines.append(f"| {fact.label}, {fact.protocol} | **{fact.value}** | {fact.comparison} |")
    networks = "; ".join(text for _, text in describe_networks(runs))
    versions = ", ".join(f"{name} {v}" for name, v in sorted(t.versions.items()))
    lines += [
        "",
        f"{networks}. {t.weighting}. Trained in {number(minutes, 0)} minutes on {t.hardware}; "
        f"params digest {t.params_digest}, commit {t.commit}, {versions}.",
    ]
    return lines


def plot_results(history: pd.DataFrame, errors: pd.DataFrame, images: pd.DataFrame) -> Figure:
    """Return the panels that have anything to show, with one legend.

    history, errors, images: the tables as they are written, of which the latter two may be empty.
    """
    several = history["dataset"].nunique() > 1
    looks = _looks(history, several)
    panels: list[Callable[[Axes], None]] = [partial(_plot_training, history, several, looks)]
    for over, label in (
        ("depth_m", "depth [m]"), ("coc_px", "signed circle of confusion [px]"),
    ):  # fmt: skip
        table = errors[errors["over"] == over] if len(errors) else errors
        if len(table):
            panels.append(partial(_plot_errors, table, label, several, looks))
    if "psnr" in images and images["psnr"].notna().any():
        panels.insert(2, partial(_plot_gains, images, several, looks))
    with mpl.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        rows = math.ceil(len(panels) / 2)
        figure = Figure(figsize=(8.4, 3 * rows), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            panel(axes)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        lines = [Line2D([], [], label=name, **look) for name, look in looks.items()]
        figure.legend(handles=lines, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
        return figure


Looks = Mapping[str, Mapping[str, Any]]


def _plot_training(history: pd.DataFrame, several: bool, looks: Looks, axes: Axes) -> None:
    for name, table in _by_network(history, several):
        for dash, terms in LOSSES.items():
            for column in (f"train/{term}" for term in terms):
                if column in table and table[column].notna().any():
                    axes.plot(
                        table["epoch"], table[column] / table[column].iloc[0], dash, **looks[name]
                    )
    axes.set(
        yscale="log",
        xlabel="epoch",
        ylabel="loss / that of the first epoch",
        title="training loss: depth (solid), image (dashed)",
    )


def _plot_errors(errors: pd.DataFrame, label: str, several: bool, looks: Looks, axes: Axes) -> None:
    for name, table in _by_network(errors, several):
        axes.plot((table["bin_low"] + table["bin_high"]) / 2, table["rmse"], **looks[name])
    axes.set(xlabel=label, ylabel="RMSE [m]", ylim=(0, None), title=f"error against {label}")


def _plot_gains(images: pd.DataFrame, several: bool, looks: Looks, axes: Axes) -> None:
    for name, table in _by_network(images, several):
        values = (table["psnr"] - table["input_psnr"]).replace([np.inf, -np.inf], np.nan)
        if values.notna().any():
            axes.ecdf(values.dropna(), **looks[name])
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set(
        xlabel="gain over the input [dB]",
        ylabel="cumulative share of images",
        title="PSNR gain of each image",
    )


def _looks(table: pd.DataFrame, several: bool) -> dict[str, dict[str, Any]]:
    """Return one line style for each network in all panels; of equal lines the first is on top."""
    names = list(dict.fromkeys(name for name, _ in _by_network(table, several)))
    colors = mpl.colormaps["tab10" if len(names) <= MOST_COLORS else "tab20"]
    return {
        name: {"color": colors(i % colors.N), "linewidth": 1.2, "zorder": 3 - 0.01 * i}
        for i, name in enumerate(names)
    }


def _by_network(table: pd.DataFrame, several: bool) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows of each dataset, variant and seed, with the name of their line.

    several: whether the plots are of several datasets, which the names then tell apart.
    """
    for (dataset, variant, _), rows in table.groupby(["dataset", "variant", "seed"], sort=False):
        yield f"{dataset}/{variant}" if several else str(variant), rows
