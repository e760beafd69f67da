"""A trained and an evaluated tree as the stages write them, from small synthetic scenes.

The figures are real: the scenes are measured by `hded.evaluation.protocols`, so a report of
this tree has the structure, the gaps and the relations of a true one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from support.cameras import CAMERAS

from hded.defocus_diagnostics import BlurCount, camera_table
from hded.evaluation.protocols import (
    PAPER_SIZE,
    aggregate_all_in_focus,
    all_in_focus_statement,
    depth_protocols,
    measure_all_in_focus,
)
from hded.optics import ThinLens
from hded.optics.sensor import DEGRADATIONS
from hded.records import (
    Architecture,
    EvaluationRecord,
    Metrics,
    Protocol,
    TrainingRecord,
    to_json,
)

VARIANTS = {
    "full": "L1 + gradient, Charbonnier + SSIM, both heads (the paper's)",
    "l1_l1": "L1 depth, L1 image",
    "l1_charbonnier": "L1 depth, Charbonnier",
    "grad_charbonnier": "L1 + gradient, Charbonnier",
    "charbonnier_ssim": "L1 depth, Charbonnier + SSIM",
    "depth_only": "Without the all-in-focus head",
    "deblur_only": "Without the depth head",
    "wrong_focus": "Control: another focus",
}
PARAMS_YAML = "run:\n  datasets: [nyu]   # <script>alert('params')</script> & more\n"
FAR_M = {"nyu": 10.0, "make3d": 80.0}
HEADS = {"depth_only": ("depth",), "deblur_only": ("all_in_focus",)}
FILES = ("evaluation.json", "metrics.json", "depth.csv", "all_in_focus.csv", "examples.csv",
         "error_by_depth.csv", "error_by_coc.csv")  # fmt: skip


@dataclass(frozen=True)
class Tree:
    """Three folders and the selection that they hold."""

    evaluated: Path
    trained: Path
    defocus: Path
    datasets: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]

    def folder(self, dataset: str = "nyu", variant: str = "full", seed: int = 0) -> Path:
        return self.evaluated / dataset / variant / str(seed)

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `write_report`."""
        return {
            "datasets": self.datasets,
            "variants": self.variants,
            "seeds": self.seeds,
            "all_variants": VARIANTS,
            "params_yaml": PARAMS_YAML,
        }


@dataclass(frozen=True)
class SyntheticScene:
    """sharp (H, W, 3) uint8, depth_m (H, W), 0 where unknown."""

    name: str
    sharp: NDArray[np.uint8]
    depth_m: NDArray[np.float64]


def write_tree(
    root: Path,
    *,
    datasets: Sequence[str] = ("nyu",),
    variants: Sequence[str] = ("full",),
    seeds: Sequence[int] = (0,),
    scenes: Mapping[str, Sequence[SyntheticScene]] | None = None,
    size: tuple[int, int] = (48, 64),
    frames: int = 5,
    source: str = "sample",
    geometry: str = "crop",
    camera: str = "paper",
    pictured: int = 4,
) -> Tree:
    """Write both trees under `root`; a dataset that is neither nyu nor make3d is one's own."""
    tree = Tree(
        root / "evaluated", root / "trained", root / "defocus",
        tuple(datasets), tuple(variants), tuple(seeds),
    )  # fmt: skip
    for dataset in datasets:
        far_m = FAR_M.get(dataset, 10.0)
        shape = (size[1], size[0]) if dataset == "make3d" else size
        shown = (scenes or {}).get(dataset) or synthetic_scenes(shape, frames, far_m)
        write_defocus(tree.defocus / dataset / camera, camera, shown, far_m)
        for variant in variants:
            for seed in seeds:
                cell = Cell(tree, dataset, variant, seed, far_m, source, geometry, camera)
                cell.write_evaluated(shown, pictured)
                cell.write_trained()
    return tree


def write_defocus(
    folder: Path, camera: str, scenes: Sequence[SyntheticScene], far_m: float
) -> None:
    """What the stage `defocus` leaves to look at; the sheet is the scenes themselves."""
    folder.mkdir(parents=True)
    named = CAMERAS[camera]
    blur = BlurCount(named.max_coc_px, named.sigma_rule)
    rng = np.random.default_rng(0)
    for scene in scenes:
        depth_m = scene.depth_m.astype(np.float32)
        blur.add(named.lens(depth_m, 640, rng).coc_px(depth_m), depth_m)
    write_json(
        folder / "input.json",
        {"psnr": 27.5, "ssim": 0.81, "test_frames": len(scenes), **blur.summary()},
    )
    blur.table().to_csv(folder / "coc.csv", index=False)
    camera_table({name: [each] for name, each in CAMERAS.items()}, 640, far_m).to_csv(
        folder / "cameras.csv", index=False
    )
    sheet = np.concatenate([scene.sharp for scene in scenes])
    Image.fromarray(sheet).save(folder / "contact_sheet.jpg")


def synthetic_scenes(size: tuple[int, int], count: int, far_m: float) -> list[SyntheticScene]:
    """Slanted walls with a box before them, textured; some pixels without depth."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[: size[0], : size[1]] / max(size)
    scenes = []
    for i in range(count):
        depth = far_m * (0.25 + 0.6 * (columns * rng.uniform(0.3, 1) + (1 - rows) * 0.3))
        box = (rows > 0.35) & (abs(columns - rng.uniform(0.3, 0.7)) < 0.18)
        depth = np.where(box, far_m * rng.uniform(0.08, 0.2), depth)
        texture = gaussian_filter(rng.uniform(0, 255, (*size, 3)), (0.8, 0.8, 0)) * 1.2 - 20
        sharp = np.clip(texture * np.where(box, 1.0, 0.8)[..., None], 0, 255).astype(np.uint8)
        depth[: size[0] // 6, : size[1] // 6] = 0
        scenes.append(SyntheticScene(f"{i + 1:04d}", sharp, np.minimum(depth, far_m)))
    return scenes


@dataclass(frozen=True)
class Cell:
    """One network: what it would predict, and everything written about it."""

    tree: Tree
    dataset: str
    variant: str
    seed: int
    far_m: float
    source: str
    geometry: str
    camera: str

    @property
    def heads(self) -> tuple[str, ...]:
        return HEADS.get(self.variant, ("depth", "all_in_focus"))

    @property
    def lens(self) -> ThinLens:
        return CAMERAS["paper"].lens(np.empty(0), 640, np.random.default_rng(0))

    def predict(self, scene: SyntheticScene) -> dict[str, NDArray]:
        """A defocused input, and estimates that are better than the trivial ones."""
        key = [list(VARIANTS).index(self.variant), self.seed, sum(scene.name.encode())]
        rng = np.random.default_rng(key)
        gt, sharp = scene.depth_m, scene.sharp
        sigma = self.lens.sigma_px(gt)
        levels = np.linspace(0, max(float(sigma.max()), 0.1), 8)
        stack = np.stack([gaussian_filter(sharp.astype(float), (s, s, 0)) for s in levels])
        index = np.abs(sigma[..., None] - levels).argmin(-1)
        rows, columns = np.indices(gt.shape)
        blurred = stack[index, rows, columns].round().astype(np.uint8)
        share = rng.uniform(0.5, 0.7)
        noise = rng.normal(0, 2, sharp.shape)
        all_in_focus = np.clip(share * sharp + (1 - share) * blurred + noise, 0, 255).astype(
            np.uint8
        )
        wave = gaussian_filter(rng.normal(0, 1, gt.shape), max(gt.shape) / 14)
        smooth = gaussian_filter(np.where(gt > 0, gt, np.median(gt)), 1.5)
        depth = smooth * (1 + 0.12 * wave / wave.std())
        outputs = {"input": blurred, "depth": np.clip(depth, 0.05, self.far_m).astype(np.float32)}
        return {**outputs, "all_in_focus": all_in_focus}

    def write_evaluated(self, scenes: Sequence[SyntheticScene], pictured: int) -> None:
        out = self.tree.folder(self.dataset, self.variant, self.seed)
        out.mkdir(parents=True)
        native = scenes[0].depth_m.shape
        protocols = depth_protocols(self.dataset, self.far_m)
        sizes = [native, PAPER_SIZE] if self.geometry == "crop" else [PAPER_SIZE]
        median_m = float(np.median(np.concatenate([s.depth_m[s.depth_m > 0] for s in scenes])))
        depth_rows, image_rows = [], []
        predictions = {scene.name: self.predict(scene) for scene in scenes}
        for scene in scenes:
            gt = scene.depth_m.astype(np.float32)
            guesses = {"median": np.full(gt.shape, median_m, np.float32)}
            if "depth" in self.heads:
                guesses["network"] = predictions[scene.name]["depth"]
            for protocol in (p for p in protocols if not p.raw):
                for method, guess in guesses.items():
                    key = {"frame": scene.name, "protocol": protocol.name, "method": method}
                    depth_rows.append({**key, **protocol.measure(guess, gt)})
            images = {"network": predictions[scene.name]["all_in_focus"],
                      "input": predictions[scene.name]["input"]}  # fmt: skip
            for size in sizes if "all_in_focus" in self.heads else ():
                name = "native" if size == native else str(size[0])
                for method, scores in measure_all_in_focus(images, scene.sharp, size).items():
                    key = {"frame": scene.name, "protocol": name, "method": method}
                    image_rows.append({**key, **scores})
        depth, images = pd.DataFrame(depth_rows), pd.DataFrame(image_rows)
        depth.to_csv(out / "depth.csv", index=False)
        if len(images):
            images.to_csv(out / "all_in_focus.csv", index=False)
        metrics: dict[str, Any] = {"depth": {}, "all_in_focus": {}}
        for protocol in (p for p in protocols if not p.raw):
            rows = depth[depth["protocol"] == protocol.name]
            metrics["depth"][protocol.name] = {
                str(m): protocol.aggregate(group) for m, group in rows.groupby("method")
            }
        for name, rows in images.groupby("protocol") if len(images) else ():
            scores = {str(m): aggregate_all_in_focus(group) for m, group in rows.groupby("method")}
            gain = {k: v - scores["input"][k] for k, v in scores["network"].items()}
            metrics["all_in_focus"][str(name)] = {**scores, "gain": gain}
        metrics["robustness"] = {
            d.name: {
                "depth": _worse(metrics["depth"], "rmse", 1 + d.noise / 4),
                "all_in_focus": _worse(metrics["all_in_focus"], "psnr", 1 - d.noise / 40),
            }
            for d in DEGRADATIONS
        }
        write_json(out / "metrics.json", to_json(Metrics.model_validate(metrics)))
        blocks = [
            {
                "name": p.name,
                "kind": "depth",
                "title": p.title,
                "statement": p.statement(native),
                "available": not p.raw,
                "why_not": "the raw file has no rawDepths" if p.raw else None,
            }
            for p in protocols
        ] + [
            {
                "name": "native" if size == native else str(size[0]),
                "kind": "all_in_focus",
                "title": f"All-in-focus image at {'native size' if size == native else '256x256'}",
                "statement": all_in_focus_statement(size, native),
                "available": True,
                "why_not": None,
            }
            for size in sizes
        ]
        camera = CAMERAS[self.camera]
        record = EvaluationRecord(
            dataset=self.dataset,
            format=self.dataset if self.dataset in FAR_M else "folder",
            source=self.source,
            variant=self.variant,
            seed=self.seed,
            heads=self.heads,
            geometry=self.geometry,
            size=(native[0], native[1]),
            cameras=(camera.describe(640),),
            reads="defocused",
            restoration="",
            hflip=False,
            median_depth_m=median_m,
            truth="0123456789abcdef0123",
            frames=len(scenes),
            robustness_frames=2,
            skipped=(),
            control="",
            protocols=tuple(Protocol(**block) for block in blocks),
        )
        write_json(out / "evaluation.json", to_json(record))
        self._write_scenes(out, scenes, predictions, depth, images, pictured)
        if "depth" in self.heads:
            self._write_curves(out, scenes, predictions)

    def _write_scenes(
        self,
        out: Path,
        scenes: Sequence[SyntheticScene],
        predictions: Mapping[str, Mapping[str, NDArray]],
        depth: pd.DataFrame,
        images: pd.DataFrame,
        pictured: int,
    ) -> None:
        table = pd.DataFrame({"frame": [s.name for s in scenes]}).set_index("frame")
        if len(images):
            first = images[images["protocol"] == images["protocol"].iloc[0]]
            scores = first.pivot(index="frame", columns="method", values="psnr")
            table = table.assign(psnr=scores["network"], input_psnr=scores["input"])
            table["psnr_gain"] = table["psnr"] - table["input_psnr"]
        rows = depth[
            (depth["method"] == "network") & (depth["protocol"] == depth["protocol"].iloc[0])
        ]
        if len(rows):
            table["rmse"] = rows.set_index("frame")["rmse"]
        order = table.sort_values("rmse" if "rmse" in table else "psnr_gain", kind="stable")
        last = len(order) - 1
        roles = {0: "best", last: "worst", last // 2: "median"}
        ranks = list(dict.fromkeys([0, last // 2, last, *range(len(order))]))[:pictured]
        chosen = order.iloc[ranks].reset_index()
        chosen.assign(role=[roles.get(r, "fixed") for r in ranks]).to_csv(
            out / "examples.csv", index=False
        )
        by_name = {scene.name: scene for scene in scenes}
        for name in chosen["frame"]:
            folder = out / "scenes" / name
            folder.mkdir(parents=True)
            scene, outputs = by_name[name], predictions[name]
            save_image(folder / "input.png", outputs["input"])
            save_image(folder / "all_in_focus_gt.png", scene.sharp)
            if "all_in_focus" in self.heads:
                save_image(folder / "all_in_focus.png", outputs["all_in_focus"])
            save_image(folder / "depth_gt.png", two_millimetres(scene.depth_m))
            if "depth" in self.heads:
                save_image(folder / "depth_pred.png", two_millimetres(outputs["depth"]))
            coc = 32768 + 256 * self.lens.coc_px(scene.depth_m).astype(float)
            save_image(folder / "coc.png", np.rint(coc).astype(np.uint16))

    def _write_curves(
        self,
        out: Path,
        scenes: Sequence[SyntheticScene],
        predictions: Mapping[str, Mapping[str, NDArray]],
    ) -> None:
        gt = np.concatenate([s.depth_m.ravel() for s in scenes])
        pred = np.concatenate([predictions[s.name]["depth"].ravel() for s in scenes])
        valid = gt > 0
        gt, error = gt[valid], (pred - gt)[valid]
        coc = self.lens.coc_px(gt)
        for name, x, edges in (
            ("depth", gt, np.linspace(0, self.far_m, 21)),
            ("coc", coc, np.arange(-29.0, 30.0)),
        ):
            sums = [
                np.histogram(x, edges, weights=w)[0]
                for w in (None, error**2, np.abs(error) / gt, error)
            ]
            used = sums[0] > 0
            n, square, relative, bias = (s[used] for s in sums)
            pd.DataFrame(
                {
                    "bin_low": edges[:-1][used],
                    "bin_high": edges[1:][used],
                    "pixels": n.astype(int),
                    "rmse": np.sqrt(square / n),
                    "abs_rel": relative / n,
                    "bias": bias / n,
                }
            ).to_csv(out / f"error_by_{name}.csv", index=False)

    def write_trained(self) -> None:
        out = self.tree.trained / self.dataset / self.variant / str(self.seed)
        out.mkdir(parents=True)
        trained = "full" if self.variant == "wrong_focus" else self.variant
        rng = np.random.default_rng(self.seed)
        terms = (["l1", "gradient"] if "depth" in self.heads else []) + (
            ["charbonnier", "ssim"] if "all_in_focus" in self.heads else []
        )
        rows = []
        for epoch in range(1, 21):
            fall = math.exp(-epoch / 8) + 0.2
            row = {"epoch": epoch, "lr": 2e-3 * min(1.0, 2 - epoch / 10), "seconds": 2.0,
                   "samples_per_s": 18.0, "train/total": fall * rng.uniform(0.9, 1.1)}  # fmt: skip
            row |= {f"train/{t}": 0.4 * fall * rng.uniform(0.9, 1.1) for t in terms}
            if len(self.heads) == 2:
                row |= {"grad/depth": 2.0, "weight/depth": 1.0}
                row |= {"grad/all_in_focus": 0.1 * epoch, "weight/all_in_focus": 0.05}
            if epoch % 5 == 0:
                row |= {f"val/{t}": 0.5 * fall for t in ["total", *terms]}
                if "depth" in self.heads:
                    row["val/rmse"] = 2 * fall
                if "all_in_focus" in self.heads:
                    row |= {"val/psnr": 31 - 3 * fall, "val/input_psnr": 28.4}
            rows.append(row)
        pd.DataFrame(rows).to_csv(out / "history.csv", index=False)
        record = TrainingRecord(
            fit="0123456789abcdef0123",
            dataset=self.dataset,
            cameras=(CAMERAS[self.camera].describe(640),),
            model=Architecture(
                heads=self.heads, width=0.25, depth_scale_m=self.far_m, dropout=0.0, joint="add",
                output="linear", init="identity", encoder="densenet121", decoder="transposed",
                shots=1, depth_range_m=(0.7, 10.2), readout="metres", confidence=False,
                reads_lens=False, context="none", cascade="none", denoiser=False,
            ),
            train={"epochs": 20, "loss": {"weighting": "fixed", "lambda": 0.01}},
            weights="none",
            weights_loaded=None,
            parameters=2_592_000,
            params_digest=f"0123456789{list(VARIANTS).index(trained):02d}",
            epochs=20,
            best_epoch=15,
            train_frames=36,
            val_frames=4,
            wall_s=97.4,
            resident=False,
            devices=1,
            hardware="2 CPU threads, x86_64",
            versions={"python": "3.11.9", "torch": "2.13.0"},
            commit="34e88cb0a1b2",
            run_id=f"{self.seed:02d}{'0123456789abcdef' * 2}"[:32],
            run_name=f"{self.dataset}-{self.variant}-seed{self.seed}",
            experiment="hded",
            tracking_uri="sqlite:///mlflow.db",
        )  # fmt: skip
        write_json(out / "run.json", to_json(record))


def two_millimetres(depth_m: NDArray) -> NDArray[np.uint16]:
    return np.rint(500 * depth_m).astype(np.uint16)


def save_image(path: Path, array: NDArray) -> None:
    Image.fromarray(array).save(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _worse(scores: Mapping[str, Any], metric: str, factor: float) -> dict[str, Any]:
    """Scores whose metric is multiplied, under every protocol and of every method."""
    return {
        protocol: {
            method: {**values, metric: factor * values[metric]}
            for method, values in methods.items()
        }
        for protocol, methods in scores.items()
    }
