"""The few test scenes that a report and MLflow show: chosen, and written as pictures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from hded.common.resize import resize_bilinear, resize_rgb
from hded.evaluation.controls import Pictures
from hded.evaluation.evaluate import Evaluation
from hded.evaluation.png16 import encode_coc, encode_depth
from hded.inference import Predictor
from hded.store import Store


def pick_examples(result: Evaluation, count: int) -> pd.DataFrame:
    """Choose at least three of the test frames: a row each, with `role` and what it scored.

    The network's own `best`, `median` and `worst`, by depth error or by gain, and `fixed` ones
    evenly through the test frames: the same for every network, so that networks can be compared.
    """
    images = result.all_in_focus
    table = pd.DataFrame({"frame": result.depth["frame"].unique()}).set_index("frame")
    if not images.empty:
        first = images[images["protocol"] == images["protocol"].iloc[0]]
        scores = first.pivot(index="frame", columns="method", values="psnr")
        table = table.assign(psnr=scores["network"], input_psnr=scores["input"])
        table["psnr_gain"] = table["psnr"] - table["input_psnr"]
    headline = result.depth[result.depth["protocol"] == result.depth["protocol"].iloc[0]]
    network = headline[headline["method"] == "network"].set_index("frame")
    order = pd.Index([])
    if len(network):
        table["rmse"] = network["rmse"]  # NaN where no pixel has depth: neither good nor bad
        order = table["rmse"].dropna().sort_values(kind="stable").index
    if order.empty and "psnr_gain" in table:
        order = (-table["psnr_gain"]).dropna().sort_values(kind="stable").index
    last = len(order) - 1
    ranks = {0: "best", last // 2: "median", last: "worst"} if len(order) else {}
    roles = {order[rank]: role for rank, role in ranks.items()}
    others = min(max(count - len(roles), 0), len(table))
    middles = ((np.arange(others) + 0.5) * len(table) / max(others, 1)).astype(int)
    roles |= {frame: "fixed" for frame in table.index[middles] if frame not in roles}
    return table.loc[list(roles)].reset_index().assign(role=list(roles.values()))


def write_example(
    folder: Path, frame: str, predictor: Predictor, scenes: Store, defocused: Pictures
) -> None:
    """Write input, sharp, all_in_focus; depth truth and estimate; CoC: all at native size.

    Depth and CoC are counts of `hded.evaluation.png16`; grid.png shows everything at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy = defocused.frames.index[defocused.frames["frame"] == frame][0]
    index = defocused.frames["frame_index"].iloc[copy]
    blurred, gt = defocused.read("defocused", copy), scenes.read("depth", index)
    outputs = predictor(blurred)
    pictures = {"input": blurred, "sharp": scenes.read("rgb", index)}
    if "all_in_focus" in outputs:
        all_in_focus = outputs["all_in_focus"]
        native = all_in_focus.shape[:2] == gt.shape
        pictures["all_in_focus"] = all_in_focus if native else resize_rgb(all_in_focus, gt.shape)
    for name, image in pictures.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    depths = {"depth_gt": gt.astype(np.float32)}
    if "depth" in outputs:
        depths["depth_pred"] = resize_bilinear(outputs["depth"], gt.shape)
    for name, depth_m in depths.items():
        Image.fromarray(encode_depth(depth_m)).save(folder / f"{name}.png")
    coc_px = defocused.read("coc", copy).astype(np.float32)
    Image.fromarray(encode_coc(coc_px)).save(folder / "coc.png")
    _draw_grid(pictures, depths, coc_px).savefig(folder / "grid.png", metadata={"Software": None})


def _draw_grid(
    images: Mapping[str, NDArray], depths: Mapping[str, NDArray], coc_px: NDArray
) -> Figure:
    """Draw the images above, depth [m] in one scale and |CoC| below."""
    height, width = coc_px.shape
    columns = max(len(images), len(depths) + 1)
    figure = Figure(figsize=(3 * columns, 6 * height / width + 1), dpi=100, layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    for ax, (name, image) in zip(axes[0], images.items(), strict=False):
        ax.imshow(image)
        ax.set_title(name, loc="left", fontsize=9)
    known = depths["depth_gt"][depths["depth_gt"] > 0]
    low, high = np.percentile(known, (0.5, 99.5)) if known.size else (0.0, 1.0)
    shown, shown_axes = None, axes[1, : len(depths)]
    for ax, (name, depth) in zip(shown_axes, depths.items(), strict=True):
        masked = np.ma.masked_where(depth <= 0, depth)
        shown = ax.imshow(masked, cmap="viridis", vmin=low, vmax=high)
        ax.set_title(
            {"depth_gt": "true depth"}.get(name, "estimated depth"), loc="left", fontsize=9
        )
    figure.colorbar(shown, ax=list(shown_axes), orientation="horizontal", label="m", aspect=40)
    blur = axes[1, len(depths)].imshow(np.abs(coc_px), cmap="cividis", vmin=0)
    axes[1, len(depths)].set_title("blur of the input, |CoC|", loc="left", fontsize=9)
    figure.colorbar(blur, ax=axes[1, len(depths)], orientation="horizontal", label="px")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure
