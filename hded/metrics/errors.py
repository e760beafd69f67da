"""Errors of one image: pure functions of arrays, in float64.

How a benchmark applies them (mask, crop, cap, pooling) is defined in `hded.evaluation.protocols`.
"""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hded.common.errors import HDEDError

DEPTH_METRICS = ("rmse", "abs_rel", "log10", "delta1", "delta2", "delta3", "spearman")
IMAGE_METRICS = ("psnr", "ssim")
HIGHER_IS_BETTER = frozenset({"delta1", "delta2", "delta3", "spearman", "psnr", "ssim"})
RANKED_PX = 1 << 14  # of one image, at most


def depth_errors(pred: NDArray, gt: NDArray, valid: NDArray) -> dict[str, float]:
    """Return the standard depth errors over the valid pixels (Eigen et al. 2014).

    pred, gt: arrays of one shape, metres, positive where `valid` (bool, same shape) is true.
    Keys: rmse [m], abs_rel, log10, and delta1..3, the fraction of pixels with max(pred/gt, gt/pred)
    below 1.25, 1.25^2, 1.25^3; spearman, see `rank_correlation`. All are NaN where no pixel is
    valid.
    Raises HDEDError for shapes that differ, and for a prediction that is not a positive number.
    """
    if valid.dtype != np.bool_:
        raise HDEDError(f"depth errors: valid is {valid.dtype}; pass a mask of bool")
    if not pred.shape == gt.shape == valid.shape:
        raise HDEDError(f"depth errors: shapes {pred.shape}, {gt.shape}, {valid.shape} differ")
    pred, gt = pred[valid].astype(np.float64), gt[valid].astype(np.float64)
    if not pred.size:
        return dict.fromkeys(DEPTH_METRICS, math.nan)
    if not (np.isfinite(pred).all() and (pred > 0).all()):
        raise HDEDError(
            "depth errors: the prediction has NaN, infinite or non-positive pixels where the "
            "ground truth is valid; clip it to the protocol's range, or check whether training "
            "diverged"
        )
    error = pred - gt
    ratio = np.maximum(pred / gt, gt / pred)
    deltas = {f"delta{k}": float((ratio < 1.25**k).mean()) for k in (1, 2, 3)}
    return {
        "rmse": math.sqrt((error**2).mean()),
        "abs_rel": float((np.abs(error) / gt).mean()),
        "log10": float(np.abs(np.log10(pred) - np.log10(gt)).mean()),
        **deltas,
        "spearman": rank_correlation(pred, gt),
    }


def rank_correlation(pred: NDArray, gt: NDArray) -> float:
    """Return Spearman's rank correlation of two arrays (N,): 1 where their order is the same.

    Equal values share the mean of their ranks. It is 0 where one of the arrays is constant, which
    orders nothing. Of more than 16,384 values it is that of evenly spaced ones.
    """
    step = -(-len(pred) // RANKED_PX)
    pred, gt = pred[::step], gt[::step]
    if np.ptp(pred) == 0 or np.ptp(gt) == 0:
        return 0.0
    ranks = (pd.Series(values).rank().to_numpy() for values in (pred, gt))
    return float(np.asarray(np.corrcoef(np.stack([*ranks])))[0, 1])


def psnr(image: NDArray, reference: NDArray) -> float:
    """Return the peak signal-to-noise ratio [dB], range 1, over all pixels and channels.

    image, reference: (H, W, 3) uint8, or floats in [0, 1]. Infinite for equal images.
    """
    _check_shapes(image, reference)
    error = ((_unit(image) - _unit(reference)) ** 2).mean()
    return math.inf if error == 0 else float(-10 * np.log10(error))


def ssim(image: NDArray, reference: NDArray) -> float:
    """Return the structural similarity, the mean over pixels and channels.

    image, reference: (H, W, 3) uint8, or floats in [0, 1].
    """
    _check_shapes(image, reference)
    # numba takes most of a second to import, which a reader of this module's names does not need
    from hded.metrics.structural_similarity import ssim_float64

    return ssim_float64(_unit(image), _unit(reference))


def _check_shapes(image: NDArray, reference: NDArray) -> None:
    if image.shape != reference.shape:
        raise HDEDError(f"image shape {image.shape} differs from reference {reference.shape}")


def _unit(image: NDArray) -> NDArray[np.float64]:
    scale = 255.0 if image.dtype == np.uint8 else 1.0
    return image.astype(np.float64) / scale
