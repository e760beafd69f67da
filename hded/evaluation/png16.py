"""Encoding of depth and circle of confusion as unsigned 16-bit integers, for PNG files."""

import numpy as np
from numpy.typing import NDArray

DEPTH_STEPS_PER_M = 500  # up to 131 m, above Make3D's largest depth of 80 m
COC_ZERO, COC_STEPS_PER_PX = 32768, 256  # signed, up to 128 px either way


def encode_depth(depth_m: NDArray) -> NDArray[np.uint16]:
    """Return depth [m] in steps of 2 mm, clipped to 0..131 m; 0 (invalid) stays 0."""
    return _to_uint16(DEPTH_STEPS_PER_M * np.asarray(depth_m, np.float64))


def decode_depth(encoded: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return the depth [m] that `encode_depth` encoded."""
    return encoded / DEPTH_STEPS_PER_M


def encode_coc(coc_px: NDArray) -> NDArray[np.uint16]:
    """Return the signed circle of confusion [px] in steps of 1/256 px; 32768 stands for 0."""
    return _to_uint16(COC_ZERO + COC_STEPS_PER_PX * np.asarray(coc_px, np.float64))


def decode_coc(encoded: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return the signed circle of confusion [px] that `encode_coc` encoded."""
    return (encoded.astype(np.float64) - COC_ZERO) / COC_STEPS_PER_PX


def _to_uint16(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    return np.clip(np.rint(values), 0, 65535).astype(np.uint16)
