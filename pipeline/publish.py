"""Write the results that `run` of params.yaml selects to reports/results/NAME, to be committed.

    python -m pipeline.publish --name nyu      # after `dvc repro`

Images of the dataset are not written.
"""

from hded.config.params import load_params
from hded.report.publish import write_results
from hded.report.read.runs import read_selection
from hded.report.tables.speed import read_speeds
from pipeline.lib import stage


def main() -> None:
    """Write the page, its figures and its plots."""
    name = stage.parser(__doc__, "name").parse_args().name
    params = load_params(stage.PARAMS)
    run = params.run
    selection = read_selection(
        stage.EVALUATED, stage.TRAINED, run.datasets, run.variants, run.seeds
    )
    descriptions = {name: variant.description for name, variant in params.variants.items()}
    out = stage.REPORTS / "results" / name
    write_results(selection, descriptions, out, params.paper_rows, read_speeds(stage.BENCHMARK))
    print(f"{out}: written, {len(selection.runs)} results; commit it")


if __name__ == "__main__":
    stage.run(main)
