"""Tables I-IV beside the published numbers, and a self-contained page to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hded.report.architecture import build_architecture
from hded.report.page import render_page
from hded.report.rendering import to_csv, to_latex, to_markdown
from hded.report.runs import read_selection
from hded.report.tables import build_tables

__all__ = ["write_report"]


def write_report(
    evaluated: Path,
    trained: Path,
    out: Path,
    *,
    datasets: Sequence[str],
    variants: Sequence[str],
    seeds: Sequence[int],
    all_variants: Mapping[str, str],
    params_yaml: str,
) -> None:
    """Write out/tables/table{1,2,3,4}.{md,csv,tex} and out/index.html.

    evaluated, trained: trees of <dataset>/<variant>/<seed>; all_variants: every variant that
    params.yaml defines, and its one-line description; params_yaml: the file's text. Equal inputs
    give equal bytes. Raises HDEDError for a selected run that is missing, damaged or foreign.
    """
    selection = read_selection(evaluated, trained, datasets, variants, seeds)
    tables = (build_architecture(selection.runs), *build_tables(selection, all_variants))
    page = render_page(selection, tables, all_variants, params_yaml)
    folder = out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        for suffix, render in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex)):
            path = folder / f"{table.name}.{suffix}"
            path.write_text(render(table), encoding="utf-8", newline="\n")
    (out / "index.html").write_text(page, encoding="utf-8", newline="\n")
