"""Sentences about runs for tables and page: data, camera, networks, seeds."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from hded.config.schema import OFFICIAL
from hded.optics import NOT_DEFOCUSED
from hded.records import Protocol, TrainingRecord
from hded.report.read.runs import Run

ENCODER_TITLES = {
    "densenet121": "DenseNet-121",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite2": "EfficientNet-Lite2",
    "unet": "U-Net",
    "none": "no encoder",
}
SIGMA_RULES = {"quarter": "|CoC|/4", "syndof": "(|CoC| − 1)/4", "d3net": "0.3 |CoC|"}


def dataset_title(run: Run) -> str:
    """Return a dataset's title."""
    return OFFICIAL.get(run.format, run.dataset)


def sample_warning(runs: Sequence[Run]) -> Iterable[str]:
    """Return the warning above every table of the embedded sample."""
    if runs and runs[0].source == "sample":
        yield (
            "Not comparable with published numbers: our results are on generated scenes (source: "
            f"sample), not on {dataset_title(runs[0])}."
        )


def describe_protocols(
    runs: Sequence[Run], protocols: Iterable[Protocol]
) -> Iterable[tuple[str, str]]:
    """Return each protocol's statement, with the number of images if some have no valid pixel."""
    for protocol in protocols:
        tail, total = "", len(runs[0].frames)
        for count in [r.measured[protocol.name] for r in runs if protocol.name in r.measured][:1]:
            if count < total:
                tail = f"; {count} of {total} images have a valid pixel, the others are left out"
        yield protocol.title, protocol.statement + tail


def describe_camera(runs: Sequence[Run]) -> Iterable[tuple[str, str]]:
    """Return a sentence on each camera of the test images, and which variants read its images."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for camera in run.cameras:
            found.setdefault(camera_sentence(camera), []).append(run.variant)
    for sentence, variants in found.items():
        whose = f" ({', '.join(dict.fromkeys(variants))})" if len(found) > 1 else ""
        yield f"Camera{whose}", sentence


def camera_sentence(camera: Mapping[str, Any]) -> str:
    """Return a camera in one line; settings that are drawn for each frame are named as such."""
    if camera["name"] == NOT_DEFOCUSED:
        return "none: the images are all in focus"
    drawn = "drawn for each frame"

    def length(key: str, scale: float, unit: str) -> str:
        value = camera.get(key)
        if isinstance(value, list):
            each = ", ".join(f"{v * scale:.4g}" for v in value)
            return f"{each} {unit} (one rendering for each)"
        return drawn if value is None else f"{value * scale:.4g} {unit}"

    parts = [
        f"{camera['name']}: focal length {length('focal_length_m', 1e3, 'mm')}",
        f"aperture {length('aperture_m', 1e3, 'mm')}",
        f"focus distance {length('focus_distance_m', 1, 'm')}",
        f"pixel pitch {length('pixel_pitch_m', 1e6, 'µm')}",
        f"|CoC| at most {camera['max_coc_px']:g} px",
        f"sigma = {SIGMA_RULES.get(camera['sigma_rule'], camera['sigma_rule'])}",
    ]
    if camera.get("f_number") is not None:
        parts[1] += f" (f/{camera['f_number']:.3g})"
    if camera.get("softness_px"):
        parts[-1] += f" with {camera['softness_px']:g} px of softness"
    parts += _sensor_parts(camera)
    if camera.get("renderer"):
        parts.append(f"renderer {camera['renderer']}")
    return ", ".join(parts)


def _sensor_parts(camera: Mapping[str, Any]) -> Iterable[str]:
    """Return the noise and the compression of a camera's images, where there are any."""

    def ends(values: Sequence[float]) -> str:
        low, high = values
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"

    for name, values in camera.get("noise", {}).items():
        if values[1]:
            yield f"{name} noise {ends(values)}"
    if jpeg := camera.get("jpeg"):
        yield f"JPEG {ends(jpeg['quality'])} at {jpeg['subsampling']}"


def describe_data(runs: Sequence[Run]) -> Iterable[tuple[str, str]]:
    """Return a sentence on the frames that were measured, and those that could not be read."""
    if runs:
        run = runs[0]
        skipped = f"skipped: {'; '.join(run.skipped)}" if run.skipped else "none skipped"
        yield "Data", f"source: {run.source}, {len(run.frames)} test frames, {skipped}"


def describe_networks(runs: Sequence[Run]) -> Iterable[tuple[str, str]]:
    """Return sentences on the networks' width, training and number of seeds."""
    if not runs:
        return
    kinds: dict[str, list[str]] = {}
    for run in runs:
        t = run.training
        text = (
            f"{network_title(t)}, width {t.model.width:g} ({t.parameters:,} parameters), "
            f"{t.epochs} epochs on {t.train_frames} frames of {t.dataset}, "
            f"weights of epoch {_best_epochs(runs, run)}, geometry {run.geometry}"
        )
        if run.hflip:
            text += ", outputs averaged with those of the mirrored image"
        kinds.setdefault(text, []).append(run.variant)
    for text, variants in kinds.items():
        names = ", ".join(dict.fromkeys(variants))
        yield f"Networks ({names})", text
    elsewhere: dict[str, list[str]] = {}
    for run in runs:
        read = [camera["name"] for camera in run.cameras]
        trained = [camera["name"] for camera in run.training.cameras]
        if read != trained and NOT_DEFOCUSED not in read:
            text = "; ".join(map(camera_sentence, run.training.cameras))
            elsewhere.setdefault(text, []).append(run.variant)
    for text, variants in elsewhere.items():
        yield f"Trained through ({', '.join(dict.fromkeys(variants))})", text
    yield "Seeds", seeds_sentence(sorted({run.seed for run in runs}))


def network_title(t: TrainingRecord) -> str:
    """Return a network's encoder, decoders and initial weights, in words."""
    encoder = ENCODER_TITLES.get(t.model.encoder, t.model.encoder)
    text = f"{encoder}, {t.model.decoder} decoders"
    if t.weights == "imagenet":
        return f"{text}, encoder from ImageNet weights"
    if t.weights == "none":
        return text
    # only the file name of a path or address: the rest belongs to one machine
    what = "encoder" if t.weights_for == "encoder" else "whole network"
    return f"{text}, {what} from {PurePosixPath(t.weights).name}"


def seeds_sentence(seeds: Sequence[int]) -> str:
    """Return a sentence on the seeds over which figures are averaged."""
    if len(seeds) == 1:
        return f"one seed ({seeds[0]}): single values, their spread is unknown"
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))}): mean ± sample standard deviation"


def _best_epochs(runs: Sequence[Run], run: Run) -> str:
    epochs = sorted({r.training.best_epoch for r in runs if r.variant == run.variant})
    return " or ".join(map(str, epochs))
