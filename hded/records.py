"""The JSON files that the stages write for later stages: run.json, evaluation.json, metrics.json.

Writer and reader of a file share one frozen model. The writer dumps it, the reader validates the
file: an unknown key, a missing one or a wrong type raises HDEDError with one line that names the
file and the key. Values are not converted. NaN and infinity are valid numbers: an image without
valid depth has no RMSE, and a perfect image has an infinite PSNR.
"""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hded.common.errors import HDEDError, first_line
from hded.common.heads import HEADS, Head

REPAIR = "run `dvc repro`"
BY_TRUE_DEPTH = "ground truth depth"  # how EvaluationRecord.restoration ends for that control
Scores = dict[str, dict[str, dict[str, float]]]  # protocol -> method -> metric -> value


class Record(BaseModel):
    """A frozen JSON object that refuses unknown keys and does not convert types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


R = TypeVar("R", bound=Record)


class Architecture(Record):
    """The arguments of the network, `hded.network.HDEDNet`."""

    encoder: str
    decoder: str
    heads: tuple[str, ...]
    width: float  # factor on every channel count; the paper's is 1.0
    shots: int  # images that are read together
    depth_scale_m: float
    depth_range_m: tuple[float, float]
    readout: str
    confidence: bool
    reads_lens: bool
    context: str
    cascade: str
    denoiser: bool
    dropout: float
    joint: str
    output: str
    init: str


class TrainingRecord(Record):
    """run.json: one trained network, the settings and the data it came from, and its MLflow run."""

    fit: str  # key of the fit, see pipeline.lib.fingerprint
    dataset: str  # whose images trained the network
    cameras: tuple[dict[str, Any], ...]  # by which they were defocused, read together
    model: Architecture
    train: dict[str, Any]  # the section `train` of params.yaml, with the variant's changes
    weights: str  # at the start: none, imagenet, a path or an address
    weights_for: Literal["encoder", "network"] = "encoder"  # what they were loaded into
    weights_loaded: dict[str, Any] | None  # which of their tensors were used
    parameters: int
    params_digest: str
    epochs: int
    best_epoch: int
    train_frames: int
    val_frames: int
    wall_s: float  # time spent training, summed over interruptions [s]
    resident: bool  # True: the frames were kept in the GPU's memory
    devices: int
    hardware: str
    versions: dict[str, str]
    commit: str
    run_id: str
    run_name: str
    experiment: str
    tracking_uri: str

    @property
    def weighting(self) -> str:
        """Return how the losses of the two tasks were weighted: lambda, or the method's name."""
        loss = self.train["loss"]
        return f"λ = {loss['lambda']:g}" if loss["weighting"] == "fixed" else loss["weighting"]


class Protocol(Record):
    """An evaluation protocol; its statement is printed below every table that uses it."""

    name: str
    kind: Head
    title: str
    statement: str
    available: bool
    why_not: str | None


class EvaluationRecord(Record):
    """evaluation.json: which network was evaluated, on which frames, by which protocols."""

    dataset: str
    format: str  # nyu | make3d | folder
    source: str  # sample | official | folder | local
    variant: str
    seed: int
    heads: tuple[str, ...]  # whose outputs were compared with a truth
    truths: tuple[Head, ...] = HEADS  # those that the test frames have
    geometry: str  # crop | resize
    size: tuple[int, int]  # of the test images (H, W)
    cameras: tuple[dict[str, Any], ...]  # by which the images were defocused, read together
    reads: Literal["defocused", "sharp"]  # what the network's input is
    restoration: str  # the method of deconvolution, and whose depth; "" where the network restores
    hflip: bool = False  # whether outputs are averaged with those of the mirrored image
    median_depth_m: float  # of the training frames: the constant prediction to compare with
    truth: str  # hash of the test frames' depth, because equal names may denote different frames
    frames: int
    robustness_frames: int  # test images that were also degraded
    skipped: tuple[str, ...]
    control: str  # how the test frames differ from the dataset's; "" where they do not
    digest: str = ""  # of the evaluation's settings and data, by which MLflow's run is found
    protocols: tuple[Protocol, ...]


class Metrics(Record):
    """metrics.json: every aggregate, and those of subsets of the test images.

    `focus`: of each focus distance, where there are several; `robustness`: of degraded images, by
    the name of the degradation.
    """

    depth: Scores
    all_in_focus: Scores
    focus: dict[str, dict[Head, Scores]] = {}
    robustness: dict[str, dict[Head, Scores]] = {}


def to_json(record: Record) -> dict[str, Any]:
    """Return a record as plain values for JSON, without defaults that nobody set."""
    return record.model_dump(exclude_unset=True)


def read_record(kind: type[R], path: Path) -> R:
    """Return the record in a JSON file; raises HDEDError where it is missing or does not fit."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise HDEDError(f"{path}: is missing; {REPAIR}") from None
    except OSError as error:
        raise HDEDError(f"{path}: cannot be read ({first_line(error)}); {REPAIR}") from error
    except ValidationError as error:
        raise HDEDError(f"{path}: {_explain(error)}; {REPAIR}") from None


def _explain(error: ValidationError) -> str:
    # report an unknown key first: it often is the old name of one that is then missing
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if not key:
        return f"cannot be read ({first['msg']})"
    if first["type"] == "extra_forbidden":
        return f"{key} is not a known key; another version of this program wrote it"
    if first["type"] == "missing":
        return f"{key} is missing; another version of this program wrote it"
    return f"{key} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
