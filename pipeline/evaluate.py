"""Stage `evaluate`: evaluate one trained network, data/evaluated/<dataset>/<variant>/<seed>.

    python -m pipeline.evaluate --dataset nyu --variant full --seed 0

Writes per-image errors (depth.csv, all_in_focus.csv), aggregates (metrics.json), the protocols
(evaluation.json), error curves, and a few examples as images.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from hded.blur.render import check_rendered
from hded.common.errors import HDEDError
from hded.common.files import finite, safe_name, write_csv, write_json
from hded.common.heads import HEADS
from hded.common.threads import limit_threads
from hded.config.params import load_params
from hded.config.schema import Evaluate, Restoration
from hded.evaluation.controls import ControlRenderings, Renderings
from hded.evaluation.evaluate import (
    Evaluation,
    EvaluationSet,
    Predict,
    SystemInput,
    evaluate,
    median_depth_m,
)
from hded.evaluation.gallery import pick_examples, write_example
from hded.evaluation.robustness import DegradedRenderings
from hded.inference import Predictor, load_predictor
from hded.inference.restoration import Deconvolution
from hded.network.files import NAME
from hded.optics.sensor import DEGRADATIONS
from hded.records import (
    BY_TRUE_DEPTH,
    EvaluationRecord,
    Metrics,
    Protocol,
    TrainingRecord,
    read_record,
    to_json,
)
from hded.store import MARKER, Store, open_store
from pipeline.lib import fingerprint, provenance, stage
from pipeline.lib.blocks import Block, Result, Task, run_task, unfinished
from pipeline.lib.device import resolve_device
from pipeline.lib.tracking import EVALUATION, OF_TRAINING, Training, flatten, track_evaluation

BLOCK = 64  # images that are measured together


@dataclass(frozen=True, slots=True)
class Cell:
    """A trained network and the dataset that it is tested on."""

    dataset: str
    variant: str
    seed: int

    @property
    def path(self) -> Path:
        """Return the cell's place in data/trained and data/evaluated."""
        return Path(self.dataset) / self.variant / str(self.seed)


@dataclass(frozen=True, slots=True)
class Trial:
    """A system, and the images that it is tested on.

    `stores` are the folders of `renderings`, where these are stored; `control` says what is not as
    in training, if anything.
    """

    how: Evaluate
    predictor: Predictor
    predict: Predict
    heads: tuple[str, ...]
    scenes: Store
    stores: list[Path]
    renderings: list[Renderings]
    control: str
    device: str
    run: TrainingRecord

    @property
    def size_px(self) -> int | None:
        """Return the side of the network's input, where its geometry is `resize`."""
        return self.predictor.size_px if self.predictor.geometry == "resize" else None

    @property
    def settings(self) -> dict[str, Any]:
        """Return what determines the results beside the files that are read."""
        cameras = [dict(each.attributes) for each in self.renderings]
        return {"evaluate": self.how.model_dump(), "cameras": cameras}

    @property
    def digest(self) -> str:
        """Return a digest of the settings."""
        return fingerprint.of_settings(self.settings)

    def images(self, median_m: float) -> EvaluationSet:
        """Return the test images."""
        return EvaluationSet(
            self.scenes, self.renderings,
            heads=self.heads, size_px=self.size_px, median_m=median_m,
        )  # fmt: skip


def open_trial(cell: Cell) -> Trial:
    """Load a cell's network and open its images."""
    params = load_params(stage.PARAMS)
    trained = stage.TRAINED / cell.path
    _, train, how = params.variant(cell.variant)
    names = params.test_camera_names(cell.variant, cell.dataset)
    scenes = open_store(stage.FRAMES / cell.dataset)
    stores = [stage.DEFOCUSED / cell.dataset / name for name in names]
    renderings: list[Renderings] = [open_store(store) for store in stores]
    refocused = params.test_cameras(cell.variant, cell.dataset, how)
    controls = []
    if refocused:
        renderings = [
            ControlRenderings(scenes, c, params.defocus.renderer, params.defocus.seed)
            for c in refocused
        ]
        controls.append(f"tested on images focused at {how.focus_distance_m:g} m")
    elif how.network_input == "sharp":
        renderings = [ControlRenderings(scenes, None)]
    elif names != params.camera_names(cell.variant, cell.dataset):
        trained_on = params.training_dataset(cell.variant, cell.dataset)
        trained_by = params.camera_names(cell.variant, trained_on)
        verb, cameras = ("trained", trained_by) if trained_by != names else ("tested", names)
        controls.append(f"{verb} through {' and '.join(cameras)}")
    if how.network_input != train.network_input:
        kind = "all-in-focus" if how.network_input == "sharp" else "defocused"
        controls.append(f"tested on {kind} images")
    if how.restoration.reads_true_depth:
        controls.append("restored with the true depth")
    _check_truths(scenes, how)
    for each in renderings:
        check_rendered(cell.dataset, scenes.attributes["truths"], each.attributes["camera"])
    device = resolve_device(how.device, "evaluate.device")
    limit_threads()
    predictor = load_predictor(trained / NAME, device, hflip=how.hflip)
    predict, heads = _system(predictor, how)
    run = read_record(TrainingRecord, trained / "run.json")
    return Trial(
        how, predictor, predict, heads, scenes, stores, renderings, "; ".join(controls), device, run
    )


class Measurement:
    """Work that measures a cell's test images; a copy elsewhere loads the network anew."""

    def __init__(self, cell: Cell, median_m: float, digest: str, trial: Trial) -> None:
        self._cell, self._median_m, self._digest, self._trial = cell, median_m, digest, trial

    def __reduce__(self) -> tuple[Callable[..., "Measurement"], tuple[Cell, float, str]]:
        return _measurement, (self._cell, self._median_m, self._digest)

    def __call__(self, block: Block) -> list[Result]:
        """Return the errors of the images."""
        trial = self._trial
        if trial.digest != self._digest:
            raise HDEDError("params.yaml was changed while this network was measured; run it again")
        images = trial.images(self._median_m)
        return [*images.measure(trial.predict, block.frames, trial.how.batch_size, block.watch)]


def _measurement(cell: Cell, median_m: float, digest: str) -> Measurement:
    """Return the work in another process, which opens the images and the network itself."""
    return Measurement(cell, median_m, digest, open_trial(cell))


@contextmanager
def measured(cell: Cell, trial: Trial, scheduler: str | None) -> Iterator[Evaluation]:
    """Yield the evaluation of a cell's network on all of its test images.

    Its blocks are kept until the caller has done all that follows: a later failure, as of an MLflow
    server, costs no measurement.
    """
    if len(trial.scenes.indices("train")):
        median_m = median_depth_m(trial.scenes)
    else:  # photographs for a test alone
        median_m = median_depth_m(open_store(stage.FRAMES / trial.run.dataset))
    images = trial.images(median_m)
    # a block is of whole batches, so that their contents do not depend on how they are shared out
    size = -(-BLOCK // trial.how.batch_size) * trial.how.batch_size
    count = len(images)
    blocks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    work = Measurement(cell, median_m, trial.digest, trial)
    name = f"evaluate {cell.path.as_posix()}"
    task = Task(name, work, blocks, images.names, same_threads=True)
    markers = [folder / MARKER for folder in (trial.scenes.folder, *trial.stores)]
    files = [*markers, stage.TRAINED / cell.path / NAME]
    with unfinished(f"evaluate/{cell.path.as_posix()}", trial.settings, files) as folder:
        yield images.summarise(run_task(task, folder, scheduler))


def main() -> None:
    """Run the stage."""
    args = stage.parser(__doc__, "dataset", "variant", "seed", scheduler=True).parse_args()
    cell = Cell(args.dataset, args.variant, args.seed)
    trial = open_trial(cell)
    with measured(cell, trial, args.scheduler) as result:
        _report(cell, trial, result)


def _report(cell: Cell, trial: Trial, result: Evaluation) -> None:
    """Test degraded images, too; write everything and log it to MLflow."""
    trained, out = stage.TRAINED / cell.path, stage.EVALUATED / cell.path
    how, predictor, predict, heads = trial.how, trial.predictor, trial.predict, trial.heads
    scenes, renderings, control = trial.scenes, trial.renderings, trial.control
    defocused, run = renderings[0], trial.run
    degraded = 0 if control else min(how.robustness_frames, len(defocused.indices("test")))
    robustness = {}
    for degradation in DEGRADATIONS if degraded else ():
        inputs = [
            DegradedRenderings(each, degradation, degraded, shot)
            for shot, each in enumerate(renderings)
        ]
        found = evaluate(
            predict, scenes, inputs,
            heads=heads, size_px=trial.size_px, batch_size=how.batch_size,
            median_m=result.median_depth_m,
        )  # fmt: skip
        robustness[degradation.name] = {k: found.metrics[k] for k in HEADS}
    if degraded:
        result.metrics["robustness"] = robustness
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "depth.csv", result.depth)
    if "all_in_focus" not in scenes.attributes["truths"]:
        heads = tuple(head for head in heads if head != "all_in_focus")
    if "all_in_focus" in heads:
        write_csv(out / "all_in_focus.csv", result.all_in_focus)
    if "depth" in heads:
        write_csv(out / "error_by_depth.csv", result.by_depth.table())
        write_csv(out / "error_by_coc.csv", result.by_coc.table())
    metrics = Metrics.model_validate(result.metrics)
    write_json(out / "metrics.json", to_json(metrics), allow_nan=True)
    attributes = scenes.attributes
    data = fingerprint.of_data(stage.FRAMES / cell.dataset, *trial.stores)
    record = EvaluationRecord(
        dataset=cell.dataset,
        format=attributes["format"],
        source=attributes["source"],
        variant=cell.variant,
        seed=cell.seed,
        heads=heads,
        truths=tuple(attributes["truths"]),
        geometry=predictor.geometry,
        size=tuple(attributes["size"]),
        cameras=tuple(each.attributes["camera"] for each in renderings),
        reads=how.network_input,
        restoration=_describe(how.restoration),
        hflip=how.hflip,
        median_depth_m=result.median_depth_m,
        truth=result.truth,
        frames=len(defocused.indices("test")),
        robustness_frames=degraded,
        skipped=tuple(attributes["skipped"]),
        control=control,
        digest=fingerprint.of_settings(trial.settings | {"dataset": cell.dataset, "data": data}),
        protocols=tuple(Protocol(**block) for block in result.protocols),
    )
    write_json(out / "evaluation.json", to_json(record))
    name = (cell.dataset, cell.variant, cell.seed)
    summary = summarise(result)
    write_json(stage.plot_path(stage.METRICS, *name, ".json"), summary)
    errors = result.by_depth.table()  # empty if the network has no depth head
    errors["depth_m"] = (errors["bin_low"] + errors["bin_high"]) / 2
    errors = errors.rename(columns={"rmse": "rmse_m"})[["depth_m", "rmse_m"]]
    write_csv(stage.plot_path(stage.ERRORS, *name, ".csv"), errors)
    picked = pick_examples(result, how.examples)
    write_csv(out / "examples.csv", picked)
    for frame in picked["frame"]:
        write_example(out / "scenes" / safe_name(frame), frame, predict, scenes, renderings)
    tags = {
        "variant": cell.variant,
        "seed": str(cell.seed),
        "tested_on": cell.dataset,
        "test_camera": "+".join(each.attributes["camera"]["name"] for each in renderings),
        "evaluation_commit": provenance.commit(),
        "evaluation_device": provenance.hardware(torch.device(trial.device)),
        "stage": "evaluate",
    }
    settings = {"evaluate": how.model_dump()}
    with track_evaluation(_training(run), record.digest, tags, settings) as tracker:
        tracker.metrics(summary)  # short names, so that MLflow lists them before the others
        tracker.metrics(flatten(result.metrics, "test/", separator="/"))
        tracker.dataset(
            cell.dataset,
            data,
            attributes["source"],
            "testing",
            camera=tags["test_camera"],
            frames=record.frames,
        )
        tracker.artifacts(out, EVALUATION)
        for file in OF_TRAINING:
            tracker.artifacts(trained / file)
        for frame in picked["frame"]:
            place = safe_name(frame)
            tracker.image(out / "scenes" / place / "grid.png", f"scenes/{place}")


def _training(run: TrainingRecord) -> Training:
    """Return the MLflow run of a training, by its record."""
    cameras = {camera["name"]: camera for camera in run.cameras}
    tags = {
        "dataset": run.dataset,
        "camera": "+".join(cameras),
        "params_digest": run.params_digest,
        "commit": run.commit,
        "device": run.hardware,
    }
    settings = {"network": run.model.model_dump(), "train": run.train, "cameras": cameras}
    return Training(run.run_id, run.run_name, tags, settings)


def _check_truths(scenes: Store, how: Evaluate) -> None:
    """Raise HDEDError where the test reads a truth that the images lack."""
    needs = {
        "all_in_focus": how.network_input == "sharp",
        "depth": how.restoration.reads_true_depth,
    }
    for truth in (name for name, needed in needs.items() if needed):
        if truth not in scenes.attributes["truths"]:
            raise HDEDError(
                f"{scenes.attributes['dataset']}: its frames hold no true "
                f"{truth.replace('_', '-')}, which this variant's test reads; leave the variant out"
            )


def _describe(restoration: Restoration) -> str:
    if restoration.method == "none":
        return ""
    depth = BY_TRUE_DEPTH if restoration.reads_true_depth else "estimated depth"
    return f"{restoration.method.replace('_', ' ')}, {depth}"


def _system(predictor: Predictor, how: Evaluate) -> tuple[Predict, tuple[str, ...]]:
    """Return what estimates the outputs of test images, and which outputs.

    It is the network, perhaps with a deconvolution in place of its all-in-focus head.
    """
    network = predictor.network
    if how.restoration.method == "none":
        return partial(_outputs, predictor), network.heads
    restore = Deconvolution(how.restoration, network.denoiser)

    def predict(images: Sequence[SystemInput]) -> list[dict[str, NDArray]]:
        found = _outputs(predictor, images)
        for image, outputs in zip(images, found, strict=True):
            if image.lens is None:
                raise HDEDError(
                    "evaluate.restoration: needs the lens of each picture, which the defocused "
                    "store lacks"
                )
            true = how.restoration.reads_true_depth
            depth_m = image.depth_m if true else outputs["depth"]
            outputs["all_in_focus"] = restore(image.rgb[..., :3], depth_m, image.lens)
        return found

    return predict, HEADS


def _outputs(predictor: Predictor, images: Sequence[SystemInput]) -> list[dict[str, NDArray]]:
    return predictor.batch([image.rgb for image in images], [image.lens for image in images])


def summarise(result: Evaluation) -> dict[str, float]:
    """Return the figures for `dvc metrics show`: headline depth, native all_in_focus, baselines.

    The infinite PSNR of a perfect image is left out: JSON cannot represent it.
    """
    summary: dict[str, float] = {}
    depth = next(iter(result.metrics["depth"].values()))
    if "network" in depth:
        summary |= depth["network"]
    summary["median_depth_rmse"] = depth["median"]["rmse"]
    for scores in list(result.metrics["all_in_focus"].values())[:1]:
        summary |= {**scores["network"], "psnr_gain": scores["gain"]["psnr"]}
        summary["input_psnr"] = scores["input"]["psnr"]
    return finite(summary)


if __name__ == "__main__":
    # by its name: workers import what is sent to them
    from pipeline import evaluate as by_name

    stage.run(by_name.main)
