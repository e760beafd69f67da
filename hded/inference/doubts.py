"""Reasons to doubt a result: no detail, more noise than in training, blur of no depth.

Everything is computed of the photograph as the network saw it, and of the network's own output.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from hded.inference.predictor import Predictor

WINDOW_PX = 33  # beyond that, blur of the widest training lenses shows nothing either
LEAST_DETAIL = 1.0  # standard deviation in counts of 255: rounding alone makes 0.3
BLOCK_PX = 16
NOISE_MARGIN = 1.5
MIDDLE_GREY = 0.2  # in linear light
SLOPE_AT_MIDDLE_GREY = 1.12  # of sRGB over linear light, there
CLEAN_COUNTS = 1.0  # of images without noise: what fine detail and rounding look like
MOST_PLAIN, MOST_IMPOSSIBLE, LEAST_CONFIDENCE = 0.5, 0.1, 0.5


def without_detail(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where an image (H, W, 3) has no detail around, of which blur could be seen; (H, W)."""
    grey = rgb.mean(-1, dtype=np.float32)
    mean = uniform_filter(grey, WINDOW_PX)
    variance = uniform_filter(np.square(grey), WINDOW_PX) - np.square(mean)
    return np.asarray(variance < LEAST_DETAIL**2)


def noise_counts(rgb: NDArray[np.uint8]) -> float:
    """Return the standard deviation of an image's noise, in counts of 255.

    It is that of diagonal differences, (a - b - c + d) / 2 of four neighbours, in the smoothest
    tenth of blocks of 16 px, which detail adds least to. 0 for an image smaller than a block.
    """
    grey = rgb[..., 1].astype(np.float32)
    height, width = (n // BLOCK_PX * BLOCK_PX for n in grey.shape)
    if not (height and width):
        return 0.0
    a, b, c, d = (grey[i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    diagonal = (a - b - c + d) / 2
    half = BLOCK_PX // 2
    blocks = diagonal.reshape(height // BLOCK_PX, half, width // BLOCK_PX, half)
    return float(np.quantile(blocks.std((1, 3)), 0.1))


def trained_noise_counts(camera: Mapping[str, Any]) -> float:
    """Return the largest noise of a training camera's images, in counts of 255 at middle grey."""
    noise = camera.get("noise", {})
    shot, read = (float(max(noise.get(name, (0.0,)))) for name in ("shot", "read"))
    return 255 * SLOPE_AT_MIDDLE_GREY * float(np.sqrt(shot * MIDDLE_GREY + read**2))


def doubts(
    predictor: Predictor,
    rgb: NDArray[np.uint8],
    depth_m: NDArray[np.float32] | None,
    confidence: NDArray[np.float32] | None,
) -> Iterator[str]:
    """Yield what a user must know of a result, as sentences.

    rgb: (H, W, 3), as the network saw it; depth_m, confidence: (H, W), as it gave them.
    """
    plain = float(without_detail(rgb).mean())
    if plain > MOST_PLAIN:
        yield f"{plain:.0%} of the photograph is without detail, and shows no blur to measure"
    found, trained = noise_counts(rgb), 0.0
    if predictor.cameras:
        trained = max(map(trained_noise_counts, predictor.cameras))
    if found > NOISE_MARGIN * max(trained, CLEAN_COUNTS):
        yield (
            f"its noise is about {found:.1f} counts of 255, that of the training images "
            f"{f'at most {trained:.1f}' if trained else 'none'}: results may follow the noise"
        )
    readout = predictor.network.readout
    if depth_m is not None and readout.name == "coc":
        ends = (depth_m >= 0.999 * readout.farthest_m) | (depth_m <= 1.001 * readout.nearest_m)
        if (share := float(ends.mean())) > MOST_IMPOSSIBLE:
            yield (
                f"for {share:.0%} of the pixels no distance from {readout.nearest_m:g} to "
                f"{readout.farthest_m:g} m explains the blur: check the lens and its focus distance"
            )
    if confidence is not None and (middle := float(np.median(confidence))) < LEAST_CONFIDENCE:
        yield (
            f"the network is not sure: for half of the photograph, depth is within a factor of "
            f"1.25 with a probability of at most {middle:.0%}"
        )
