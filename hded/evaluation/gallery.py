"""The examples of a run: a few test renderings, chosen by score and written as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from hded.common.resize import resize_bilinear, resize_rgb
from hded.evaluation.controls import Renderings
from hded.evaluation.evaluate import Evaluation, Predict, read_system_input
from hded.evaluation.png16 import encode_coc, encode_depth
from hded.store import Store


def pick_examples(result: Evaluation, count: int) -> pd.DataFrame:
    """Return the table of examples: at least three test renderings with their role and scores.

    Roles: the network's `best`, `median` and `worst`, by RMSE of the headline depth protocol, or by
    PSNR gain for a network without a depth head; and `fixed`, spaced evenly over the test
    renderings, hence the same for every network. Columns: frame, role, and of psnr, input_psnr,
    psnr_gain [dB] and rmse [m] those that the network has.
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
        table["rmse"] = network["rmse"]  # NaN where no pixel is valid; such a row is not ranked
        order = table["rmse"].dropna().sort_values(kind="stable").index
    if order.empty and "psnr_gain" in table:
        order = (-table["psnr_gain"]).dropna().sort_values(kind="stable").index
    last = len(order) - 1
    ranks = {0: "best", last // 2: "median", last: "worst"} if len(order) else {}
    roles = {order[rank]: role for rank, role in ranks.items()}
    fixed = min(max(count - len(roles), 0), len(table))
    positions = ((np.arange(fixed) + 0.5) * len(table) / max(fixed, 1)).astype(int)
    roles |= {frame: "fixed" for frame in table.index[positions] if frame not in roles}
    return table.loc[list(roles)].reset_index().assign(role=list(roles.values()))


def write_example(
    folder: Path,
    frame: str,
    predict: Predict,
    frame_store: Store,
    renderings: Sequence[Renderings],
) -> None:
    """Write one example as PNG files at native size: the input, both outputs, the ground truth.

    frame: the rendering's name; predict and renderings: as `evaluate` takes them. Files: input,
    all_in_focus_gt, all_in_focus (the output), and depth_gt, depth_pred and coc, encoded by
    `hded.evaluation.png16`; grid.png shows all of them in one figure. An output is left out where
    the system lacks it, and all_in_focus_gt where the frames have no such truth.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = renderings[0]
    row = int(np.flatnonzero(first.frames["frame"] == frame)[0])
    index = first.frames["frame_index"].iloc[row]
    defocused, gt = first.read("defocused", row), frame_store.read("depth", index)
    (outputs,) = predict([read_system_input(frame_store, renderings, row)])
    images = {"input": defocused}
    if "all_in_focus" in frame_store.attributes["truths"]:
        images["all_in_focus_gt"] = frame_store.read("rgb", index)
    if "all_in_focus" in outputs:
        all_in_focus = outputs["all_in_focus"]
        native = all_in_focus.shape[:2] == gt.shape
        images["all_in_focus"] = all_in_focus if native else resize_rgb(all_in_focus, gt.shape)
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    depths = {"depth_gt": gt.astype(np.float32)}
    if "depth" in outputs:
        depths["depth_pred"] = resize_bilinear(outputs["depth"], gt.shape)
    for name, depth_m in depths.items():
        Image.fromarray(encode_depth(depth_m)).save(folder / f"{name}.png")
    coc_px = first.read("coc", row).astype(np.float32)
    Image.fromarray(encode_coc(coc_px)).save(folder / "coc.png")
    _draw_grid(images, depths, coc_px).savefig(folder / "grid.png", metadata={"Software": None})


def _draw_grid(
    images: Mapping[str, NDArray], depths: Mapping[str, NDArray], coc_px: NDArray
) -> Figure:
    """Return a figure of the images in its first row, and of depth [m] and |CoC| in its second."""
    height, width = coc_px.shape
    columns = max(len(images), len(depths) + 1)
    figure = Figure(figsize=(3 * columns, 6 * height / width + 1), dpi=100, layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    for ax, (name, image) in zip(axes[0], images.items(), strict=False):
        ax.imshow(image)
        ax.set_title(name, loc="left", fontsize=9)
    valid = depths["depth_gt"][depths["depth_gt"] > 0]
    low, high = np.percentile(valid, (0.5, 99.5)) if valid.size else (0.0, 1.0)
    depth_map, depth_axes = None, axes[1, : len(depths)]
    for ax, (name, depth) in zip(depth_axes, depths.items(), strict=True):
        masked = np.ma.masked_where(depth <= 0, depth)
        depth_map = ax.imshow(masked, cmap="viridis", vmin=low, vmax=high)
        title = "true depth" if name == "depth_gt" else "estimated depth"
        ax.set_title(title, loc="left", fontsize=9)
    figure.colorbar(depth_map, ax=list(depth_axes), orientation="horizontal", label="m", aspect=40)  # pyright: ignore[reportArgumentType]
    coc_map = axes[1, len(depths)].imshow(np.abs(coc_px), cmap="cividis", vmin=0)
    axes[1, len(depths)].set_title("blur of the input, |CoC|", loc="left", fontsize=9)
    figure.colorbar(coc_map, ax=axes[1, len(depths)], orientation="horizontal", label="px")  # pyright: ignore[reportArgumentType]
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure
