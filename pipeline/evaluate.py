"""Stage `evaluate`: measure one trained network, data/evaluated/<dataset>/<variant>/<seed>.

    python -m pipeline.evaluate --dataset nyu --variant full --seed 0

Per-image rows first (depth.csv, restoration.csv), aggregates from them (metrics.json), the
protocols beside them (evaluation.json), error curves, and a few scenes as pictures.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from hded.evaluation import Evaluation, evaluate
from hded.inference import Predictor, load_predictor
from hded.params import load_params
from hded.resample import resize_bilinear, resize_rgb
from hded.retake import Pictures, Retaken
from hded.store import Store, open_store
from pipeline import stage
from pipeline.tracking import flatten, track

COC_ZERO, COC_STEPS_PER_PX = 32768, 256  # coc.png: 16-bit, signed px


def main() -> None:
    """Run the stage."""
    args = stage.parser(__doc__, "dataset", "variant", "seed").parse_args()
    params = load_params(stage.PARAMS)
    cell = Path(args.dataset) / args.variant / str(args.seed)
    trained, out = stage.TRAINED / cell, stage.EVALUATED / cell
    out.mkdir(parents=True, exist_ok=True)
    scenes = open_store(stage.SCENES / args.dataset)
    _, _, how = params.variant(args.variant)
    defocused = open_store(stage.DEFOCUSED / args.dataset)
    camera = params.test_camera(how)
    control = ""
    if camera or how.input == "sharp":
        defocused = Retaken(scenes, camera, params.defocus.renderer)
        focus = f"pictures focused at {how.focus_distance_m:g} m" if camera else ""
        control = f"tested on {focus or 'all-in-focus images'}"
    predictor = load_predictor(trained / "weights.pt")
    heads = predictor.network.heads
    size_px = predictor.size_px if predictor.geometry == "resize" else None
    result = evaluate(predictor, scenes, defocused, heads=heads, size_px=size_px)
    result.depth.to_csv(out / "depth.csv", index=False)
    if "all_in_focus" in heads:
        result.restoration.to_csv(out / "restoration.csv", index=False)
    if "depth" in heads:
        result.by_depth.table().to_csv(out / "error_by_depth.csv", index=False)
        result.by_coc.table().to_csv(out / "error_by_coc.csv", index=False)
    stage.write_json(out / "metrics.json", result.metrics)
    attributes = scenes.attributes
    stage.write_json(
        out / "evaluation.json",
        {
            "dataset": args.dataset,
            "format": attributes["format"],
            "source": attributes["source"],
            "variant": args.variant,
            "seed": args.seed,
            "heads": list(heads),
            "geometry": predictor.geometry,
            "camera": defocused.attributes["camera"],
            "median_depth_m": result.median_depth_m,
            "frames": len(defocused.indices("test")),
            "skipped": attributes["skipped"],
            "control": control,
            "protocols": result.protocols,
        },
    )
    summary = stage.METRICS / f"{args.dataset}-{args.variant}-{args.seed}.json"
    summary.parent.mkdir(parents=True, exist_ok=True)
    stage.write_json(summary, summarise(result))
    picked = pick_scenes(result, how.scenes)
    picked.to_csv(out / "scenes.csv", index=False)
    for frame in picked["frame"]:
        _write_scene(out / "scenes" / frame, frame, predictor, scenes, defocused)
    run = json.loads((trained / "run.json").read_text())
    tags = {"stage": "evaluate", "dataset": args.dataset, "variant": args.variant}
    with track(run["run_name"], tags, run["run_id"]) as tracker:
        tracker.metrics(flatten(result.metrics, "test/", separator="/"))
        tracker.artifacts(out, "evaluation")


def summarise(result: Evaluation) -> dict[str, float]:
    """Give the few figures of `dvc metrics show`: headline depth, native restoration, baselines."""
    summary: dict[str, float] = {}
    depth = next(iter(result.metrics["depth"].values()))
    if "network" in depth:
        summary |= depth["network"]
    summary["median_depth_rmse"] = depth["median"]["rmse"]
    for scores in list(result.metrics["restoration"].values())[:1]:
        summary |= {**scores["network"], "psnr_gain": scores["gain"]["psnr"]}
        summary["input_psnr"] = scores["input"]["psnr"]
    return summary


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


def _write_scene(
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


if __name__ == "__main__":
    stage.run(main)
