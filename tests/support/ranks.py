"""Spearman's rank correlation by scipy, for tests of metrics."""

import math

import numpy as np
from scipy.stats import spearmanr


def spearman(pred: np.ndarray, gt: np.ndarray) -> float:
    """Of at most 16,384 evenly spaced values; 0 where one of the two is constant."""
    some = slice(None, None, math.ceil(gt.size / 16384))
    pred, gt = pred.ravel()[some], gt.ravel()[some]
    if len(np.unique(pred)) < 2 or len(np.unique(gt)) < 2:
        return 0.0
    return float(np.asarray(spearmanr(pred, gt))[0])
