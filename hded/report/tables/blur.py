"""The defocused test images in the report: scores, contact sheet, tables of blur."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hded.common.errors import HDEDError
from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.report.read.files import REPAIR, JsonObject, read_csv
from hded.report.read.runs import Run, Selection, comparable
from hded.report.tables.captions import camera_sentence, dataset_title
from hded.report.tables.model import Cell, Column, Part, Row, Table, missing, number

BLUR = ("mean_abs_coc_px", "mean_sigma_px", "sharp_percent", "clamped_percent")


@dataclass(frozen=True, slots=True, eq=False)
class Defocused:
    """The stage `defocus`'s report on one dataset."""

    psnr: float  # of the defocused test frames against the sharp ones
    ssim: float | None  # None: there are no sharp ones
    test_frames: int
    blur: Mapping[str, float]  # the keys of BLUR
    histogram: pd.DataFrame  # coc_px, share_percent
    cameras: pd.DataFrame  # see `hded.defocus_diagnostics.camera_table`
    sheet: str  # data URI


def read_defocused(folder: Path) -> Defocused:
    """Return what reports/defocus/<dataset>/<camera> holds; raises HDEDError for damaged files."""
    record = JsonObject(folder / "input.json")
    cameras = read_csv(folder / "cameras.csv", ("camera", "name", "depth_m", "sigma_px"))
    try:
        sheet = (folder / "contact_sheet.jpg").read_bytes()
    except OSError as error:
        raise HDEDError(f"{folder / 'contact_sheet.jpg'}: {error.strerror}; {REPAIR}") from error
    return Defocused(
        # JSON has no infinity: the PSNR of images without any blur is left out
        psnr=record.get("psnr", math.inf),
        ssim=record.get("ssim", None),
        test_frames=record["test_frames"],
        blur={name: record[name] for name in BLUR},
        histogram=read_csv(folder / "coc.csv", ("coc_px", "share_percent")),
        cameras=cameras,
        sheet=f"data:image/jpeg;base64,{base64.b64encode(sheet).decode('ascii')}",
    )


def blur_sentence(defocused: Defocused) -> str:
    """Return the amount of blur and the defocused input's own scores, in words."""
    blur = defocused.blur
    scores = ""
    if defocused.ssim is not None:
        scores = (
            f" The defocused input alone scores {number(defocused.psnr, 2)} dB and SSIM "
            f"{number(defocused.ssim, 3)} against the sharp image, at native size, mean over "
            f"{defocused.test_frames} test frames."
        )
    return (
        f"Over all pixels with depth: mean |CoC| {blur['mean_abs_coc_px']:.2f} px, mean sigma "
        f"{blur['mean_sigma_px']:.2f} px; {blur['sharp_percent']:.1f}% stay sharp, "
        f"{blur['clamped_percent']:.1f}% are at the CoC's limit.{scores}"
    )


def cameras_of(runs: Sequence[Run]) -> list[str]:
    """Return the names of the cameras whose stored renderings the runs read, in their order."""
    stored = [run for run in comparable(runs) if run.blurred]
    return list(dict.fromkeys(str(c["name"]) for run in stored for c in run.cameras))


def build_cameras(
    selection: Selection, defocused: Mapping[str, Mapping[str, Defocused]]
) -> Table | None:
    """Return the table of sigma [px] over depth of every named camera; None without renderings."""
    parts = []
    for dataset, by_camera in defocused.items():
        if not by_camera:
            continue
        table = next(iter(by_camera.values())).cameras
        labels = list(dict.fromkeys(table["camera"]))
        columns = tuple(Column(label, f"sigma [px], {label}") for label in labels)
        sigma = table.pivot(index="depth_m", columns="camera", values="sigma_px")
        rows = tuple(
            Row("plain", f"{depth:g} m", tuple(_figure(values[label], 2) for label in labels))
            for depth, values in sigma.iterrows()
        )
        statements = tuple(
            (label, camera_sentence(table[table["camera"] == label].iloc[0].to_dict()))
            for label in labels
        )
        run = selection.of(dataset)[0]
        parts.append(
            Part(dataset_title(run), columns, rows, statements=statements, heading="Depth")
        )
    intro = (
        "Computed from each lens, those of `cameras` in params.yaml. A camera that draws its lens "
        "for each frame is shown with its most likely focal length, focused at 2 m, and with the "
        "aperture that belongs to the depths of this table.",
    )
    if not parts:
        return None
    return Table("A", "cameras", "Blur of the named cameras against depth", tuple(parts), intro)


def build_focus(selection: Selection) -> Table | None:
    """Return the table of results by focus distance; None where there is only one."""
    parts = []
    for dataset in selection.datasets:
        runs = [run for run in selection.of(dataset) if run.focus]
        for run in runs:
            depth, images = run.protocols_of(DEPTH)[0], run.protocols_of(ALL_IN_FOCUS)[0]
            columns = (
                Column("rmse", "RMSE [m]"),
                Column("psnr", "PSNR [dB]"),
                Column("psnr_gain", "gain [dB]"),
                Column("ssim", "SSIM"),
                Column("input_psnr", "input PSNR [dB]"),
                Column("input_ssim", "input SSIM"),
            )
            rows = tuple(
                Row("plain", f"{focus} m", _focus_cells(run, metrics, depth.name, images.name))
                for focus, metrics in run.focus.items()
            )
            statements = ((depth.title, depth.statement), (images.title, images.statement))
            title = f"{dataset_title(run)}, {run.variant}, seed {run.seed}"
            parts.append(Part(title, columns, rows, statements=statements, heading="Focus at"))
    if not parts:
        return None
    return Table("B", "focus", "Results by focus distance", tuple(parts))


def _focus_cells(
    run: Run, metrics: Mapping[str, Mapping], depth: str, images: str
) -> tuple[Cell, ...]:
    rmse = metrics[DEPTH].get(depth, {}).get("network", {}).get("rmse")
    scores = metrics[ALL_IN_FOCUS].get(images, {})
    network, source = scores.get("network", {}), scores.get("input", {})
    gain = scores.get("gain", {})
    values = (
        (rmse, 3), (network.get("psnr"), 2), (gain.get("psnr"), 2), (network.get("ssim"), 3),
        (source.get("psnr"), 2), (source.get("ssim"), 3),
    )  # fmt: skip
    kinds = (DEPTH, *(ALL_IN_FOCUS for _ in values[1:]))
    return tuple(
        missing(run.lacks(kind)) if value is None else _figure(value, digits)
        for kind, (value, digits) in zip(kinds, values, strict=True)
    )


def _figure(value: float, digits: int) -> Cell:
    return Cell(number(value, digits), value=repr(float(value)))
