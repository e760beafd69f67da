"""Diagnostics of the defocused images: the amount of blur, and a contact sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hded.blur.support import MIN_SIGMA_PX
from hded.metrics import IMAGE_METRICS
from hded.optics import Camera, SigmaRule, sigma_of_coc
from hded.store import Store

BIN_PX = 0.5
TABLE_DEPTHS_M = (0.5, 0.7, 1, 1.5, 2, 2.5, 3, 4, 5, 7, 10, 15, 20, 30, 50, 80)
SHEET_ROWS = 6


@dataclass(slots=True)
class BlurCount:
    """Histogram of the signed CoC over all pixels with valid depth, and its summary.

    |CoC| is at most `max_coc_px`; pixels at that limit are counted as clamped.
    """

    max_coc_px: float
    sigma_rule: SigmaRule
    softness_px: float = 0.0
    edges: NDArray[np.float64] = field(init=False)
    counts: NDArray[np.int64] = field(init=False)
    sums: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        steps = int(np.ceil(self.max_coc_px / BIN_PX))
        # bins are centred on whole and half pixels, so that 0 is the centre of one
        self.edges = BIN_PX * (np.arange(-steps, steps + 2, dtype=np.float64) - 0.5)
        self.counts = np.zeros(len(self.edges) - 1, np.int64)
        self.sums = dict.fromkeys(("sigma", "coc", "sharp", "clamped"), 0.0)

    def add(self, coc_px: NDArray[np.float32], depth_m: NDArray[np.float32]) -> None:
        """Add one frame (H, W); pixels without valid depth do not count."""
        self.include(self.measure(coc_px, depth_m))

    def measure(self, coc_px: NDArray[np.float32], depth_m: NDArray[np.float32]) -> dict[str, Any]:
        """Return the counts and sums of one frame (H, W), as JSON has them."""
        coc = coc_px[depth_m > 0]
        sigma = sigma_of_coc(coc, self.sigma_rule, self.softness_px)
        return {
            "counts": np.histogram(coc, self.edges)[0].tolist(),
            "sigma": float(sigma.sum(dtype=np.float64)),
            "coc": float(np.abs(coc).sum(dtype=np.float64)),
            "sharp": int(np.count_nonzero(sigma < MIN_SIGMA_PX)),
            "clamped": int(np.count_nonzero(np.abs(coc) >= np.float32(self.max_coc_px))),
        }

    def include(self, frame: Mapping[str, Any]) -> None:
        """Add what `measure` returned for a frame."""
        self.counts += np.asarray(frame["counts"])
        for name in self.sums:
            self.sums[name] += frame[name]

    def table(self) -> pd.DataFrame:
        """Return columns coc_px (a bin's centre) and share_percent, of pixels with valid depth."""
        middle = (self.edges[:-1] + self.edges[1:]) / 2
        share = 100 * self.counts / max(1, self.counts.sum())
        return pd.DataFrame({"coc_px": middle, "share_percent": share})

    def summary(self) -> dict[str, float]:
        """Return means [px] and percentages over the pixels with valid depth."""
        pixels = max(1, int(self.counts.sum()))
        return {
            "mean_abs_coc_px": self.sums["coc"] / pixels,
            "mean_sigma_px": self.sums["sigma"] / pixels,
            "sharp_percent": 100 * self.sums["sharp"] / pixels,
            "clamped_percent": 100 * self.sums["clamped"] / pixels,
        }


def camera_table(
    cameras: Mapping[str, Sequence[Camera]], image_width_px: int, max_depth_m: float
) -> pd.DataFrame:
    """Return the blur over depth: a row for each camera, focus distance and depth.

    cameras: by name, one for each focus distance. Columns: camera (the name, with the focus
    distance where there are several); the lens's settings; depth_m, coc_px (signed), sigma_px. What
    a camera draws for each frame is represented by `Camera.example`.
    """
    depth_m = np.array([d for d in TABLE_DEPTHS_M if d <= max_depth_m])
    if len(depth_m) < 2:  # a desk
        depth_m = np.linspace(max_depth_m / 10, max_depth_m, 10)
    tables = []
    for name, foci in cameras.items():
        for camera in foci:
            lens = camera.example((depth_m[0], depth_m[-1]), image_width_px)
            blur = {
                "depth_m": depth_m, "coc_px": lens.coc_px(depth_m),
                "sigma_px": lens.sigma_px(depth_m),
            }  # fmt: skip
            label = f"{name}, {lens.focus_distance_m:.10g} m" if len(foci) > 1 else name
            settings = {"name": name, **asdict(lens), "f_number": lens.f_number}
            tables.append(pd.DataFrame({"camera": label, **settings, **blur}))
    return pd.concat(tables, ignore_index=True)


def input_scores(frames: pd.DataFrame) -> dict[str, Any]:
    """Return the mean PSNR [dB] and SSIM of the test renderings, also for each focus distance.

    frames: the table of a defocused store, with columns psnr and ssim. The means by focus distance
    are left out where there is only one.
    """
    test = frames[frames["split"] == "test"]
    scores: dict[str, Any] = {"test_frames": len(test), **test[list(IMAGE_METRICS)].mean()}
    if test["camera_index"].nunique() > 1:
        by_focus = test.groupby("focus_distance_m")[list(IMAGE_METRICS)].mean()
        scores["focus"] = {f"{m:.10g} m": dict(row) for m, row in by_focus.iterrows()}
    return scores


def pick_for_sheet(frames: pd.DataFrame) -> list[int]:
    """Return the rows of the sheet: all renderings of some evenly spaced test frames."""
    test = frames[frames["split"] == "test"]
    scenes = test["frame_index"].unique()
    count = max(1, SHEET_ROWS // test["camera_index"].nunique())
    spread = np.linspace(0, len(scenes) - 1, min(count, len(scenes))).round().astype(int)
    return list(test.index[test["frame_index"].isin(scenes[spread])])


def contact_sheet(scenes: Store, defocused: Store, rows: Sequence[int]) -> Figure:
    """Return a figure with a row for each rendering: all in focus, signed CoC [px], defocused.

    rows: positions in the defocused store. All CoC maps have the same colour scale. Photographs
    whose all-in-focus image is unknown have no first column.
    """
    known = "all_in_focus" in scenes.attributes["truths"]
    columns = 3 if known else 2
    camera = defocused.attributes["camera"]
    height, width = scenes.attributes["size"]
    limit = camera["max_coc_px"]
    row_in, top_in, bottom_in = 9.3 / columns * height / width + 0.28, 0.3, 0.75
    total_in = len(rows) * row_in + top_in + bottom_in
    figure = Figure(figsize=(10, total_in), dpi=110)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(
        left=0.01, right=0.99, wspace=0.02, hspace=0.28 / (row_in - 0.28),
        top=1 - top_in / total_in, bottom=bottom_in / total_in,
    )  # fmt: skip
    shown = None
    for axes, row in zip(grid, rows, strict=True):
        record = defocused.frames.iloc[row]
        depth = scenes.read("depth", record["frame_index"])
        coc = defocused.read("coc", row).astype(np.float32)
        softness_px = camera.get("softness_px", 0.0)
        sigma = sigma_of_coc(coc, camera["sigma_rule"], softness_px)[depth > 0]
        mean = sigma.mean() if sigma.size else 0.0
        titles = [f"focus at {record['focus_distance_m']:.3g} m, mean sigma {mean:.2f} px"]
        if known:
            titles.append(f"defocused: {record['psnr']:.2f} dB, SSIM {record['ssim']:.3f}")
            titles.insert(0, f"{record['frame']}: all in focus")
            axes[0].imshow(scenes.read("rgb", record["frame_index"]))
        else:
            titles.append(f"{record['frame']}: defocused")
        *_, coc_axes, defocused_axes = axes
        # pixels without depth are grey: white would mean "in focus"
        coc_axes.set_facecolor("0.6")
        masked = np.ma.masked_where(depth <= 0, coc)
        shown = coc_axes.imshow(masked, cmap="RdBu_r", vmin=-limit, vmax=limit)
        defocused_axes.imshow(defocused.read("defocused", row))
        for ax, title in zip(axes, titles, strict=True):
            ax.set_title(title, loc="left", fontsize=8)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    bar_axes = figure.add_axes((0.345, 0.45 / total_in, 0.31, 0.12 / total_in))
    bar = figure.colorbar(shown, cax=bar_axes, orientation="horizontal")  # pyright: ignore[reportArgumentType]
    bar.set_label("signed circle of confusion [px]: nearer < 0 < beyond the focus", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure
