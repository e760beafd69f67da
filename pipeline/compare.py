"""Compare two runs: differences with their intervals, changed settings, the same test frames.

    python -m pipeline.compare RUN RUN [--out reports/comparison.html]

RUN is a trained network such as nyu/full/0, or an MLflow run: its id, the beginning of it, or its
name (of several, the latest). Everything is read from MLflow, so that a run can still be compared
after a later `dvc repro` has replaced its files.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from hded.common.errors import HDEDError
from hded.records import EvaluationRecord, TrainingRecord, read_record
from hded.report.comparison import write_comparison
from hded.report.read.runs import read_run
from pipeline.lib import stage
from pipeline.lib.tracking import Evaluated, find_evaluated

SHORT_ID = 8


def main() -> None:
    """Write the page and print the differences."""
    parser = stage.parser(__doc__)
    parser.add_argument("runs", nargs=2, metavar="RUN")
    parser.add_argument("--out", type=Path, default=stage.REPORTS / "comparison.html")
    args = parser.parse_args()
    found = [find_evaluated(*_run_of(text)) for text in args.runs]
    if found[0].run_id == found[1].run_id:
        raise HDEDError(
            f"compare: {args.runs[0]} and {args.runs[1]} are one run, {found[0].run_id}; if "
            "several runs have this name, give their ids"
        )
    with TemporaryDirectory() as folder:
        runs = []
        for each in found:
            place = Path(folder) / each.run_id
            each.fetch(place)
            runs.append(read_run(place / "evaluation", place))
        settings = found[0].params, found[1].params
        print(write_comparison((runs[0], runs[1]), _names(*found), settings, args.out))
    print(f"{args.out}: the two runs side by side")


def _run_of(text: str) -> tuple[str, str]:
    """Return the MLflow run id of a trained network's folder, and the digest of its evaluation.

    Any other text is not changed.
    """
    trained, evaluated = stage.TRAINED / text / "run.json", stage.EVALUATED / text
    if not trained.is_file():
        return text, ""
    record = evaluated / "evaluation.json"
    digest = read_record(EvaluationRecord, record).digest if record.is_file() else ""
    return read_record(TrainingRecord, trained).run_id, digest


def _names(first: Evaluated, second: Evaluated) -> tuple[str, str]:
    """Return the names of two runs, with their ids where the names are equal."""
    if first.name != second.name:
        return first.name, second.name
    return f"{first.name} {first.run_id[:SHORT_ID]}", f"{second.name} {second.run_id[:SHORT_ID]}"


if __name__ == "__main__":
    stage.run(main)
