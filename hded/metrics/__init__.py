"""Errors of depth and images: pure functions of arrays, in float64."""

from hded.metrics.errors import (
    DEPTH_METRICS,
    HIGHER_IS_BETTER,
    IMAGE_METRICS,
    depth_errors,
    psnr,
    ssim,
)

__all__ = ["DEPTH_METRICS", "HIGHER_IS_BETTER", "IMAGE_METRICS", "depth_errors", "psnr", "ssim"]
