"""Depth and circle of confusion as the counts of 16-bit PNG files, and back."""

import numpy as np
from numpy.typing import NDArray

DEPTH_STEPS_PER_M = 500  # up to 131 m: Make3D's far end, 80 m, is not cut off
COC_ZERO, COC_STEPS_PER_PX = 32768, 256  # signed, up to 128 px


def encode_depth(depth_m: NDArray) -> NDArray[np.uint16]:
    """Depth [m] as counts of 2 mm; 0 (unknown) stays 0, what is out of reach is clipped."""
    return _counts(DEPTH_STEPS_PER_M * np.asarray(depth_m, np.float64))


def decode_depth(counts: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Counts as depth [m]."""
    return counts / DEPTH_STEPS_PER_M


def encode_coc(coc_px: NDArray) -> NDArray[np.uint16]:
    """Signed circle of confusion [px] as counts of 1/256 px above 32768."""
    return _counts(COC_ZERO + COC_STEPS_PER_PX * np.asarray(coc_px, np.float64))


def decode_coc(counts: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Counts as signed circle of confusion [px]."""
    return (counts.astype(np.float64) - COC_ZERO) / COC_STEPS_PER_PX


def _counts(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    return np.clip(np.rint(values), 0, 65535).astype(np.uint16)
