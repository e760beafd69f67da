"""Write Tables I to IV beside the published numbers, and a self-contained HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hded.common.files import write_text
from hded.report.page.render import render_page
from hded.report.read.runs import read_selection
from hded.report.tables.architecture import build_architecture
from hded.report.tables.blur import build_cameras, build_focus, cameras_of, read_defocused
from hded.report.tables.build import build_tables
from hded.report.tables.controls import build_controls
from hded.report.tables.differences import build_differences
from hded.report.tables.held_out import build_held_out
from hded.report.tables.loss_weighting import build_balance
from hded.report.tables.rendering import to_csv, to_latex, to_markdown
from hded.report.tables.robustness import build_robustness
from hded.report.tables.speed import build_speed, read_speeds

__all__ = ["write_report"]


def write_report(
    evaluated: Path,
    trained: Path,
    defocus: Path,
    out: Path,
    *,
    datasets: Sequence[str],
    variants: Sequence[str],
    seeds: Sequence[int],
    all_variants: Mapping[str, str],
    paper_rows: Mapping[str, str] | None = None,
    params_yaml: str,
    benchmark: Path | None = None,
) -> None:
    """Write out/tables/{table1,table2,table3,table4,cameras,...}.{md,csv,tex} and out/index.html.

    evaluated, trained: trees of <dataset>/<variant>/<seed>; defocus: reports of the stage
    `defocus`, by dataset and camera; benchmark: the file of `make benchmark`, if any; all_variants:
    every variant of params.yaml and its one-line description; paper_rows: see `build_tables`;
    params_yaml: the file's text.
    Equal inputs give equal bytes. Raises HDEDError for a selected run that is missing, damaged or
    foreign.
    """
    selection = read_selection(evaluated, trained, datasets, variants, seeds)
    defocused = {
        name: {
            camera: read_defocused(defocus / name / camera)
            for camera in cameras_of(selection.of(name))
        }
        for name in selection.datasets
    }
    extra = (
        build_cameras(selection, defocused),
        build_focus(selection),
        build_speed(benchmark),
        build_controls(selection, all_variants),
        build_balance(selection),
        build_differences(selection),
        build_robustness(selection),
        build_held_out(selection, all_variants),
    )
    tables = (
        build_architecture(selection.runs),
        *build_tables(selection, all_variants, paper_rows, read_speeds(benchmark)),
        *(table for table in extra if table is not None),
    )
    page = render_page(selection, defocused, tables, all_variants, params_yaml)
    folder = out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        for suffix, render in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex)):
            path = folder / f"{table.name}.{suffix}"
            write_text(path, render(table))
    write_text(out / "index.html", page)
