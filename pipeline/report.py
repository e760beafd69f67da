"""Stage `report`: Tables I to IV and a page, from everything that was evaluated.

python -m pipeline.report
"""

from hded.config.params import load_params
from hded.report.write import write_report
from pipeline.lib import stage


def main() -> None:
    """Run the stage."""
    stage.parser(__doc__).parse_args()
    params = load_params(stage.PARAMS)
    write_report(
        stage.EVALUATED,
        stage.TRAINED,
        stage.DEFOCUS_REPORT,
        stage.REPORTS,
        datasets=params.run.datasets,
        variants=params.run.variants,
        seeds=params.run.seeds,
        all_variants={name: variant.description for name, variant in params.variants.items()},
        paper_rows=params.paper_rows,
        params_yaml=stage.PARAMS.read_text(encoding="utf-8"),
        benchmark=stage.BENCHMARK,
    )


if __name__ == "__main__":
    stage.run(main)
