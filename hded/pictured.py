"""The few test scenes that a report shows: chosen, and written as pictures."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from hded.evaluation import Evaluation
from hded.inference import Predictor
from hded.resample import resize_bilinear, resize_rgb
from hded.retake import Pictures
from hded.store import Store

COC_ZERO, COC_STEPS_PER_PX = 32768, 256  # coc.png: 16-bit, signed px


def pick_scenes(result: Evaluation, count: int) -> pd.DataFrame:
    """Choose best, median and worst scene, and others evenly between, by depth error or by gain."""
    images = result.restoration
    table = pd.DataFrame({"frame": result.depth["frame"].unique()}).set_index("frame")
    if not images.empty:
        first = images[images["protocol"] == images["protocol"].iloc[0]]
        scores = first.pivot(index="frame", columns="method", values="psnr")
        table = table.assign(psnr=scores["network"], input_psnr=scores["input"])
        table["psnr_gain"] = table["psnr"] - table["input_psnr"]
    headline = result.depth[result.depth["protocol"] == result.depth["protocol"].iloc[0]]
    network = headline[headline["method"] == "network"].set_index("frame")
    if len(network):
        table["rmse"] = network["rmse"]
        order = table["rmse"].sort_values(kind="stable").index
    else:
        order = (-table["psnr_gain"]).sort_values(kind="stable").index
    last = len(order) - 1
    roles = {0: "best", last // 2: "median", last: "worst"}
    others = np.linspace(0, last, min(count, last + 1)).round().astype(int)
    ranks = list(roles) + [int(r) for r in others if r not in roles]
    ranks = ranks[: max(count, len(roles))]
    rows = table.loc[[order[r] for r in ranks]].reset_index()
    return rows.assign(role=[roles.get(r, "fixed") for r in ranks])


def write_scene(
    folder: Path, frame: str, predictor: Predictor, scenes: Store, defocused: Pictures
) -> None:
    """Write input, sharp, restored; depth truth and estimate in mm; CoC: all at native size."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = defocused.frames.index[defocused.frames["frame"] == frame][0]
    index = defocused.frames["scene_index"].iloc[copy]
    blurred, gt = defocused.read("defocused", copy), scenes.read("depth", index)
    outputs = predictor(blurred)
    pictures = {"input": blurred, "sharp": scenes.read("rgb", index)}
    if "all_in_focus" in outputs:
        restored = outputs["all_in_focus"]
        native = restored.shape[:2] == gt.shape
        pictures["restored"] = restored if native else resize_rgb(restored, gt.shape)
    for name, image in pictures.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    depths = {"depth_gt": gt}
    if "depth" in outputs:
        depths["depth_pred"] = resize_bilinear(outputs["depth"], gt.shape)
    for name, depth_m in depths.items():
        _save16(folder / f"{name}.png", np.rint(depth_m * 1000))
    coc_px = defocused.read("coc", copy).astype(np.float32)
    _save16(folder / "coc.png", np.rint(COC_ZERO + COC_STEPS_PER_PX * coc_px))


def _save16(path: Path, values: np.ndarray) -> None:
    Image.fromarray(np.clip(values, 0, 65535).astype(np.uint16)).save(path)
