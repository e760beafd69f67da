"""The evaluation protocols, as data: mask, crop, cap, clipping, size and pooling.

- A new protocol is one declaration in `DEPTH_PROTOCOLS`.
- Reports print `DepthProtocol.statement` under every table.
- Predictions are never scaled to the ground truth (no median scaling).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from hded.common.errors import HDEDError
from hded.common.resize import resize_bilinear, resize_nearest, resize_rgb
from hded.metrics import DEPTH_METRICS, IMAGE_METRICS, depth_errors, psnr, ssim

MIN_DEPTH_M = 1e-3
PAPER_SIZE = (256, 256)
# the edges of a depth sensor beside the camera are ragged, on DFD-indoor by 5 to 15 px
EDGE_PX, EDGE_STEP = 15, 1.1
NEAR_M = (0.5, 5.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthProtocol:
    """One way to compare predicted depth [m] with the ground truth of one dataset.

    A pixel is valid where mask_above_m < ground truth < mask_below_m and, with `raw`, the sensor
    measured it; with `edge_px`, none counts that is so near an edge of the true depth or a hole in
    it. The prediction is clipped to the range `clip_m`; then `cap_m` is the upper limit of
    both the prediction and the ground truth. `size` (H, W) is the size at which they are compared,
    None for the dataset's native size. With `pooled`, all pixels of all images have equal weight;
    otherwise all images have.
    """

    name: str
    title: str
    mask_above_m: float
    mask_below_m: float
    clip_m: tuple[float, float]
    cap_m: float | None = None
    crop: tuple[int, int, int, int] | None = None  # top, bottom, left, right
    size: tuple[int, int] | None = None
    pooled: bool = False
    raw: bool = False
    edge_px: int = 0

    @property
    def per_image(self) -> "DepthProtocol":
        """Return the protocol without name and pooling; equal ones give equal per-image errors."""
        return replace(self, name="", title="", pooled=False)

    def measure(
        self, pred_m: NDArray, gt_m: NDArray, raw_valid: NDArray | None = None
    ) -> dict[str, float]:
        """Return `valid_px`, the number of valid pixels, and the depth errors of one image.

        pred_m, gt_m: (h, w) [m], of any two sizes. Both are resized to the protocol's size, the
        ground truth by nearest neighbour and the prediction bilinearly. raw_valid: bool, of the
        protocol's size; required where `raw` is set. Raises HDEDError where it is missing, and
        where the prediction is not finite.
        """
        size = self.size or gt_m.shape
        if gt_m.shape != size:
            gt_m = resize_nearest(gt_m, size)
        if pred_m.shape != size:
            pred_m = resize_bilinear(pred_m, size)
        valid = (gt_m > self.mask_above_m) & (gt_m < self.mask_below_m)
        if self.raw:
            if raw_valid is None:
                raise HDEDError(f"protocol {self.name}: the dataset has no rawDepths; leave it out")
            valid &= raw_valid
        if self.edge_px:
            valid &= ~_near_edges(gt_m, self.edge_px)
        # an infinite prediction becomes NaN, an error, and is not clipped to a plausible depth
        pred = np.where(np.isfinite(pred_m), np.clip(pred_m, *self.clip_m), np.nan)
        if self.cap_m is not None:
            pred, gt_m = np.minimum(pred, self.cap_m), np.minimum(gt_m, self.cap_m)
        if self.crop is not None:
            top, bottom, left, right = self.crop
            window = slice(top, bottom), slice(left, right)
            pred, gt_m, valid = pred[window], gt_m[window], valid[window]
        return {"valid_px": int(valid.sum()), **depth_errors(pred, gt_m, valid)}

    def aggregate(self, rows: pd.DataFrame) -> dict[str, float]:
        """Return the depth errors of a dataset from per-image rows of `valid_px` and the errors.

        Images without a valid pixel are left out; all errors are NaN where no image is left. The
        rank correlation is always one of each image: pooled, it is their mean weighted by pixels.
        """
        rows = rows[rows["valid_px"] > 0]
        if rows.empty:
            return dict.fromkeys(DEPTH_METRICS, math.nan)
        if not self.pooled:
            return {name: float(rows[name].mean()) for name in DEPTH_METRICS}
        weight = rows["valid_px"] / rows["valid_px"].sum()
        pooled = {name: float((weight * rows[name]).sum()) for name in DEPTH_METRICS}
        pooled["rmse"] = math.sqrt((weight * rows["rmse"] ** 2).sum())
        return pooled

    def statement(self, native: tuple[int, int]) -> str:
        """Return the protocol in one line, for a dataset of `native` size (H, W)."""
        size = self.size or native
        low, high, clip = f"{self.mask_above_m:g}", self.mask_below_m, self.clip_m
        mask = f"gt > {low} m" if math.isinf(high) else f"{low} < gt < {high:g} m"
        parts = [f"mask {mask}" + (" and measured by the sensor" if self.raw else "")]
        if self.edge_px:
            parts.append(
                f"without pixels within {self.edge_px} px of an edge of depth (a step of "
                f"{EDGE_STEP - 1:.0%} between neighbours) or of a hole"
            )
        if self.cap_m is not None:
            parts.append(f"truth and prediction capped at {self.cap_m:g} m")
        parts.append(
            f"prediction at least {clip[0]:g} m"
            if math.isinf(clip[1])
            else f"prediction clipped to {clip[0]:g}-{clip[1]:g} m"
        )
        if self.crop is None:
            parts.append("no crop")
        else:
            top, bottom, left, right = self.crop
            parts.append(f"crop rows {top}:{bottom}, columns {left}:{right}")
        resized = "truth resized by nearest neighbour, prediction bilinearly"
        other = "a prediction of another size resized bilinearly"
        parts.append(f"at {size[0]}x{size[1]} ({resized if self.size else other})")
        parts.append("pooled over all pixels" if self.pooled else "mean over images")
        return ", ".join([*parts, "no median scaling"])


def _indoor(max_depth_m: float) -> dict[str, Any]:
    return {
        "mask_above_m": MIN_DEPTH_M,
        "mask_below_m": max_depth_m,
        "clip_m": (MIN_DEPTH_M, max_depth_m),
    }


_C1 = {"mask_above_m": 0.0, "mask_below_m": 70.0, "clip_m": (MIN_DEPTH_M, math.inf)}
_C2 = {"mask_above_m": 0.0, "mask_below_m": math.inf, "clip_m": (MIN_DEPTH_M, 80.0), "cap_m": 80.0}

DEPTH_PROTOCOLS: dict[str, tuple[DepthProtocol, ...]] = {
    "nyu": (
        DepthProtocol(name="headline", title="NYU headline", **_indoor(10.0)),
        DepthProtocol(name="pooled", title="NYU pooled", pooled=True, **_indoor(10.0)),
        # rows 45:471, columns 41:601 of 480x640, in the 427x561 crop's coordinates
        DepthProtocol(name="eigen", title="NYU Eigen", crop=(1, 427, 1, 561), **_indoor(10.0)),
        DepthProtocol(name="raw", title="NYU raw depth", raw=True, **_indoor(10.0)),
    ),
    "make3d": (
        DepthProtocol(name="c1", title="Make3D C1", **_C1),
        DepthProtocol(name="c1_pooled", title="Make3D C1 pooled", pooled=True, **_C1),
        DepthProtocol(name="c2", title="Make3D C2", **_C2),
        DepthProtocol(name="c2_pooled", title="Make3D C2 pooled", pooled=True, **_C2),
    ),
}


def depth_protocols(
    dataset_format: str, max_depth_m: float, *, photographs: bool = False
) -> tuple[DepthProtocol, ...]:
    """Return a dataset's protocols, the headline first; a user's own folder has two.

    photographs: whether the defocused images are; two further protocols are then for depth that a
    sensor beside the camera measured.
    """
    if dataset_format in DEPTH_PROTOCOLS:
        return DEPTH_PROTOCOLS[dataset_format]
    own = _indoor(max_depth_m)
    protocols = (
        DepthProtocol(name="headline", title="Headline", **own),
        DepthProtocol(name="pooled", title="Pooled", pooled=True, **own),
    )
    if not photographs:
        return protocols
    near: dict[str, Any] = {**own, "mask_above_m": NEAR_M[0], "mask_below_m": NEAR_M[1]}
    return (
        *protocols,
        DepthProtocol(name="inside", title="Away from depth edges", edge_px=EDGE_PX, **own),
        DepthProtocol(name="near", title=f"{NEAR_M[0]:g} to {NEAR_M[1]:g} m", **near),
    )


def _near_edges(depth_m: NDArray, distance_px: int) -> NDArray[np.bool_]:
    """Return the pixels (H, W) near a step in depth, or near a pixel without depth."""
    nearest, farthest = minimum_filter(depth_m, 3), maximum_filter(depth_m, 3)
    edge = farthest > EDGE_STEP * nearest  # 0, unknown, is an edge to all its neighbours
    return np.asarray(maximum_filter(edge, 2 * distance_px + 1), bool)


def measure_all_in_focus(
    images: Mapping[str, NDArray[np.uint8]], gt: NDArray[np.uint8], size: tuple[int, int]
) -> dict[str, dict[str, float]]:
    """Return PSNR [dB] and SSIM of each image against the ground truth, at `size` (H, W).

    images, gt: (h, w, 3) uint8 of any size; they are resized where it differs from `size`.
    """
    reference = _resized(gt, size)
    scores = {}
    for name, image in images.items():
        image = _resized(image, size)
        scores[name] = {"psnr": psnr(image, reference), "ssim": ssim(image, reference)}
    return scores


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return image if image.shape[:2] == size else resize_rgb(image, size)


def aggregate_all_in_focus(rows: pd.DataFrame) -> dict[str, float]:
    """Return the means over images of per-image PSNR [dB] and SSIM."""
    return {name: float(rows[name].mean()) for name in IMAGE_METRICS}


def all_in_focus_statement(size: tuple[int, int], native: tuple[int, int]) -> str:
    """Return one line on how PSNR and SSIM were computed, at `size` (H, W)."""
    how = "native size" if size == native else "after antialiased bilinear resizing"
    return (
        f"output rounded to 8 bits, RGB, range 1, at {size[0]}x{size[1]} ({how}), mean over "
        "images; gain is over the defocused input's own score"
    )
