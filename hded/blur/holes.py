"""Pixels without depth: what the blur takes for their depth."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt


def fill_holes(depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return depth (H, W) [m] where each invalid pixel has the depth of the nearest valid one.

    Invalid are NaN, infinity, zero and negative depth. A map without holes, or without any valid
    pixel, is returned as it is. A hole that stayed sharp would be an island in a blurred image,
    and would show the network where depth is unknown.
    """
    hole = ~(np.isfinite(depth_m) & (depth_m > 0))
    if not hole.any() or hole.all():
        return depth_m
    nearest: Any = distance_transform_edt(hole, return_distances=False, return_indices=True)
    return depth_m[nearest[0], nearest[1]]
