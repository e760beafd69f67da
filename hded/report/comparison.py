"""A page that compares two runs: differences, settings, and the same test frames."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hded.common.errors import HDEDError
from hded.common.files import write_text
from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.report.page.colour import Bar, Inlined, Scale, photograph
from hded.report.page.pictures import Pictures, read_pictures
from hded.report.page.render import render
from hded.report.read.runs import Run
from hded.report.tables.captions import (
    camera_sentence,
    dataset_title,
    describe_protocols,
    sample_warning,
)
from hded.report.tables.differences import COLUMNS, INTERVAL, compare_networks, shared_protocol
from hded.report.tables.model import Cell, Column, Part, Row, missing, number
from hded.report.tables.rendering import part_to_markdown

SIDE_PX, MAP_PX, QUALITY = 560, 300, 88
BOTH = 4  # intervals of a colour bar
ABSENT = "not a setting of this run"


@dataclass(frozen=True, slots=True)
class Maps:
    """Maps with one colour scale: each with its label, and the colour bar."""

    images: Sequence[tuple[str, Inlined]]
    bar: Bar


@dataclass(frozen=True, slots=True)
class PairView:
    """One test frame in both runs; a map that neither run has is None."""

    frame: str
    scores: str
    layers: Mapping[str, tuple[str, Inlined]]
    pairs: Sequence[tuple[str, str]]
    image_errors: Maps | None
    depths: Maps
    depth_errors: Maps | None


def write_comparison(
    runs: tuple[Run, Run],
    names: tuple[str, str],
    settings: tuple[Mapping[str, str], Mapping[str, str]],
    out: Path,
) -> str:
    """Write the page `out` and return its table of differences as Markdown.

    names: two different names for the runs; settings: each run's parameters by name. Raises
    HDEDError where they were not measured on the same frames, or share no head.
    """
    first, second = runs
    _check_same_scenes(runs, names)
    rows = compare_networks([first], [second], names)
    if not rows:
        raise HDEDError(
            f"compare: {names[0]} and {names[1]} have no head in common that can be compared; "
            "choose other runs"
        )
    protocols = [p for kind in (DEPTH, ALL_IN_FOCUS) if (p := shared_protocol(kind, *runs))]
    differences = Part(
        "Differences",
        COLUMNS,
        tuple(rows),
        statements=tuple(describe_protocols(runs, protocols)),
        heading="Networks",
    )
    tested = ({"test images": run.control or "as the dataset's"} for run in runs)
    first_settings, second_settings = (
        {**given, **own} for given, own in zip(settings, tested, strict=True)
    )
    changed = _changed(names, first_settings, second_settings)
    page = render(
        "comparison.html.j2",
        names=names,
        runs=runs,
        title=dataset_title(first),
        warnings=list(sample_warning([first])),
        cameras=list(dict.fromkeys(camera_sentence(c) for run in runs for c in run.cameras)),
        intro=INTERVAL,
        differences=differences,
        changed=changed,
        scenes=_views(runs, names),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return part_to_markdown(differences)


def _check_same_scenes(runs: tuple[Run, Run], names: tuple[str, str]) -> None:
    """Raise unless both were measured on the same frames, which equal names do not prove."""
    first, second = runs
    if first.frames != second.frames:
        raise HDEDError(
            f"compare: {names[0]} was evaluated on {len(first.frames)} frames of {first.dataset}, "
            f"{names[1]} on {len(second.frames)} of {second.dataset}, and the frames differ; "
            "choose runs of one dataset and split"
        )
    if (first.format, first.truth) != (second.format, second.truth):
        raise HDEDError(
            f"compare: {names[0]} and {names[1]} were evaluated on frames with the same names but "
            f"different content (source {first.source} and {second.source}); choose runs of one "
            "dataset"
        )


def _changed(
    names: tuple[str, str], first: Mapping[str, str], second: Mapping[str, str]
) -> Part | None:
    rows = []
    for key in sorted({*first, *second}):
        values = first.get(key), second.get(key)
        if values[0] != values[1]:
            cells = (missing(ABSENT) if v is None else Cell(v, v) for v in values)
            rows.append(Row("plain", key, tuple(cells)))
    columns = tuple(Column(key, name, numeric=False) for key, name in zip("ab", names, strict=True))
    return Part("Settings", columns, tuple(rows), heading="Setting") if rows else None


def _views(runs: tuple[Run, Run], names: tuple[str, str]) -> list[PairView]:
    """Return the examples that both runs have, in the frames' order."""
    scenes = [{scene.frame: scene for scene in run.scenes} for run in runs]
    shared = [frame for frame in runs[0].frames if frame in scenes[0] and frame in scenes[1]]
    views = []
    for frame in shared:
        examples = [read_pictures(r, s[frame]) for r, s in zip(runs, scenes, strict=True)]
        views.append(_view(frame, examples, names, _scores(runs, names, frame)))
    return views


def _view(
    frame: str, examples: Sequence[Pictures], names: tuple[str, str], scores: str
) -> PairView:
    keys = ("first", "second")
    layers, all_in_focus, inputs = {}, [], []
    one_input = np.array_equal(examples[0].defocused, examples[1].defocused)
    for key, name, p in zip(keys, names, examples, strict=True):
        if p.all_in_focus is not None:
            all_in_focus.append(key)
            layers[key] = (name, photograph(p.all_in_focus, SIDE_PX, QUALITY))
        if not (one_input and inputs):
            inputs.append(f"{key}_input")
            label = "input" if one_input else f"input of {name}"
            layers[inputs[-1]] = (label, photograph(p.defocused, SIDE_PX, QUALITY))
    sharp = []
    if examples[0].sharp is not None:
        sharp = ["sharp"]
        layers["sharp"] = ("sharp", photograph(examples[0].sharp, SIDE_PX, QUALITY))
    pairs = [tuple(all_in_focus)] if len(all_in_focus) == 2 else []
    pairs += [(key, other) for key in all_in_focus or inputs for other in sharp]
    pairs += [(inputs[0], all_in_focus[0])] if all_in_focus else []
    pairs = pairs or ([tuple(inputs)] if len(inputs) == 2 else [])
    image_errors = [
        (f"{name}, error", error)
        for name, p in zip(names, examples, strict=True)
        if (error := p.image_error(p.all_in_focus)) is not None
    ]
    estimates = [
        (name, p, p.depth_pred)
        for name, p in zip(names, examples, strict=True)
        if p.depth_pred is not None
    ]
    truth = examples[0]
    depth = Scale.of_depth(truth.depth_gt[truth.depth_gt > 0], BOTH)
    return PairView(
        frame=frame,
        scores=scores,
        layers=layers,
        pairs=pairs,
        image_errors=_errors(image_errors, ""),
        depths=_maps(
            [("true depth", truth.known_depth), *((name, pred) for name, _, pred in estimates)],
            depth,
        ),
        depth_errors=_errors([(f"{n}, error", p.depth_error(d)) for n, p, d in estimates], "m"),
    )


def _maps(maps: Sequence[tuple[str, NDArray]], scale: Scale) -> Maps:
    drawn = [(label, scale.draw(values, MAP_PX, QUALITY)) for label, values in maps]
    return Maps(drawn, scale.bar)


def _errors(maps: Sequence[tuple[str, NDArray]], unit: str) -> Maps | None:
    if not maps:
        return None
    values = np.stack([error for _, error in maps])
    return _maps(maps, Scale.from_zero(values, unit, "magma", BOTH))


def _scores(runs: tuple[Run, Run], names: tuple[str, str], frame: str) -> str:
    """Return the scores of both runs on this frame, in words."""
    parts = []
    for kind, metric, label, unit, digits in (
        (ALL_IN_FOCUS, "psnr", "PSNR", "dB", 2),
        (DEPTH, "rmse", "depth RMSE", "m", 3),
    ):
        found = []
        protocol = shared_protocol(kind, *runs)
        if protocol is None:
            continue
        for run, name in zip(runs, names, strict=True):
            values = run.per_image(kind, protocol.name, "network", metric)
            if values is not None and not math.isnan(values[frame]):
                found.append(f"{name} {number(float(values[frame]), digits)}")
        if found:
            parts.append(f"{label} [{unit}]: {', '.join(found)}")
    return "; ".join(parts)
