"""Compare a camera of params.yaml with its photographs; reports/results/NAME.

    python -m pipeline.camera_model --dataset own --camera mine --sharp-f-number 8 --name own-camera

After `dvc repro`, for a folder with rgb/, depth/ and defocused/. Writes measured blur over depth
beside the model's, and how much of the defocused photographs their sharp partners explain, blurred
by the model. The law is fitted to the training frames, the photographs explained are the test
frames. No photograph is written.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hded.commands.common import positive
from hded.common.errors import HDEDError
from hded.common.files import write_csv, write_text
from hded.common.progress import progress
from hded.config.params import load_params
from hded.evaluation.camera_model import (
    Law,
    by_depth,
    explained,
    fit_law,
    measure_windows,
    relative_sigma_px,
)
from hded.optics import Camera, ThinLens
from hded.optics.camera import STATED
from hded.report.tables.captions import camera_sentence
from hded.store import Store, open_store
from pipeline.lib import stage

SHOWN = {
    "sharp": "the sharp photograph as it is",
    "uniform": "blurred alike everywhere, by the best sigma of each pair",
    "gather": "blurred by the camera of params.yaml, renderer gather",
    "layered": "blurred by the camera of params.yaml, renderer layered",
    "fitted": "blurred by the fitted law, renderer gather",
}


def only_lens(cameras: Sequence[Camera], frames: pd.DataFrame) -> Camera | None:
    """Return the camera with the lens that took all frames; None where they have several.

    cameras: one for each focus distance; frames: a table that may state lenses (lenses.csv).
    """
    stated = (frames[column] for column in STATED.values() if column in frames)
    if len(cameras) > 1 or any(column.nunique(dropna=False) > 1 for column in stated):
        return None
    camera = cameras[0].of_frame(frames.iloc[0].to_dict())
    return None if camera.draws else camera


def main() -> None:
    """Measure, compare, and write the page."""
    parser = stage.parser(__doc__, "dataset", "camera", "name")
    parser.add_argument(
        "--sharp-f-number", type=positive, help="of the sharp photographs; else none"
    )
    args = parser.parse_args()
    scenes = open_store(stage.FRAMES / args.dataset)
    camera = only_lens(load_params(stage.PARAMS).camera(args.camera, "--camera"), scenes.frames)
    needed = "defocused" in scenes.arrays and len(scenes.attributes["truths"]) == 2
    if not needed or camera is None or not len(scenes.indices("train")):
        raise HDEDError(
            f"{args.dataset} by {args.camera}: needs photographs (rgb/, depth/ and defocused/) in "
            "both splits, and a camera with one lens"
        )
    width_px = scenes.attributes["image_width_px"]
    lens = camera.lens(np.empty(0), width_px, np.random.default_rng(0))
    of_sharp = None
    if args.sharp_f_number:
        of_sharp = replace(lens, aperture_m=lens.focal_length_m / args.sharp_f_number)
    train, test = (scenes.indices(split) for split in ("train", "test"))
    windows = pd.concat(
        [
            measure_windows(*_photographs(scenes, i))
            for i in progress(train, desc="measure blur", unit="pair")
        ],
        ignore_index=True,
    )
    if len(windows) < 100:
        raise HDEDError(
            f"{args.dataset}: {len(windows)} windows with detail and even depth; at least 100 are "
            "needed"
        )
    law = fit_law(windows)
    bins = by_depth(windows)
    bins["fitted"] = law(bins["depth_m"].to_numpy())
    bins["model"] = relative_sigma_px(lens, of_sharp, bins["depth_m"].to_numpy())
    scores = pd.DataFrame(
        [
            {"frame": scenes.frames["frame"].iloc[i]}
            | dict(
                explained(
                    *_photographs(scenes, i),
                    lambda depth_m: relative_sigma_px(lens, of_sharp, depth_m),
                    lens.coc_px,
                    law,
                )
            )
            for i in progress(test, desc="explain photographs", unit="pair")
        ]
    )
    out = stage.REPORTS / "results" / args.name
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "blur.csv", bins, float_format="%.4g")
    write_csv(out / "explained.csv", scores, float_format="%.4g")
    _plot(bins, law, lens, of_sharp).savefig(out / "blur.png", dpi=160, metadata={"Software": None})
    described = camera_sentence(camera.describe(width_px))
    write_text(out / "README.md", _page(args, described, windows, law, bins, scores, len(train)))
    print(f"{out / 'README.md'}: {len(windows)} windows, {len(scores)} photographs")


def _photographs(scenes: Store, index: int) -> tuple[NDArray, NDArray, NDArray]:
    sharp, defocused, depth = (scenes.read(n, int(index)) for n in ("rgb", "defocused", "depth"))
    return sharp, defocused, depth


def _plot(bins: pd.DataFrame, law: Law, lens: ThinLens, of_sharp: ThinLens | None) -> Figure:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    x = np.linspace(bins["depth_m"].min() * 0.95, bins["depth_m"].max() * 1.05, 400)
    spread = [bins["median"] - bins["q1"], bins["q3"] - bins["median"]]
    axes.errorbar(
        bins["depth_m"], bins["median"], spread, fmt="o", color="0.2", markersize=4, capsize=2,
        label="measured: median and quartiles",
    )  # fmt: skip
    axes.plot(x, law(x), color="C0", label="fitted law")
    axes.plot(x, relative_sigma_px(lens, of_sharp, x), "--", color="C1", label="params.yaml")
    axes.set(xlabel="depth [m]", ylabel="sigma [px]", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _page(
    args: Any,
    camera: str,
    windows: pd.DataFrame,
    law: Law,
    bins: pd.DataFrame,
    scores: pd.DataFrame,
    pairs: int,
) -> str:
    off = {
        name: float(np.sqrt(((bins[name] - bins["median"]) ** 2).mean()))
        for name in ("model", "fitted")
    }
    sharp = f"f/{args.sharp_f_number:g}" if args.sharp_f_number else "no blur of their own"
    lines = [
        f"# A camera and its model: {args.dataset}",
        "",
        f"Camera: {camera}",
        "",
        "![Measured and modelled sigma over depth](blur.png)",
        "",
        f"Measured: the Gaussian that turns a sharp photograph ({sharp}) into the defocused "
        f"one, in {len(windows):,} windows of even depth with detail, of {pairs} pairs (training "
        "frames). Blur that both photographs have cancels.",
        "",
        f"Fitted law: sigma² = ({law.gain_px:.3f} px · (1 − {law.focus_m:.3f} m / depth))² + "
        f"({law.floor_px:.3f} px)². RMS difference from the medians: the law "
        f"{off['fitted']:.3f} px, the camera of params.yaml {off['model']:.3f} px.",
        "",
        *_table(bins, ("depth_m", "windows", "q1", "median", "q3", "fitted", "model")),
        "",
        f"How much of the defocused photograph does the sharp one explain? Mean PSNR over "
        f"{len(scores)} pairs that the law was not fitted to (test frames), at "
        "their registered size:",
        "",
        "| the sharp photograph | PSNR [dB] |",
        "|---|---:|",
        *(f"| {text} | {scores[name].mean():.2f} |" for name, text in SHOWN.items()),
        "",
        "Files: `blur.csv`, `explained.csv` (a row for each pair). Written by "
        "`python -m pipeline.camera_model`.",
        "",
    ]
    return "\n".join(lines)


def _table(table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    heads = {"depth_m": "depth [m]", "model": "params.yaml", "q1": "quartile", "q3": "quartile"}
    rows = [
        "| " + " | ".join(heads.get(column, column) for column in columns) + " |",
        "|" + "---:|" * len(columns),
    ]
    for record in table.to_dict("records"):
        cells = [str(record[c]) if c == "windows" else f"{record[c]:.2f}" for c in columns]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


if __name__ == "__main__":
    stage.run(main)
