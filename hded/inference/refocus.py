"""A photograph focused elsewhere: its restored image and its depth, rendered through another lens.

The renderer respects occlusion, and its time grows with the square of the blur. It therefore works
on an image of at most 1024 px; detail that is finer than that image is added where the new lens
leaves the photograph sharp.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hded.blur import layered_blur
from hded.blur.holes import fill_holes
from hded.common.errors import HDEDError
from hded.common.resize import resize_bilinear, resize_rgb, row_blocks
from hded.optics import ThinLens

RENDERED_PX = 1024  # the long side of the image that is rendered
LARGEST_COC_PX = 48.0  # of that image


def refocus(
    sharp: NDArray[np.uint8], depth_m: NDArray[np.float32], lens: ThinLens
) -> NDArray[np.uint8]:
    """Return the photograph that another lens would have taken, (H, W, 3) uint8.

    sharp: (H, W, 3) uint8, all in focus; depth_m: (H, W), where 0 is not known and counts as the
    nearest known depth; lens: for images of this size; the CoC of the rendered image is at most 48
    px, whatever its limit. Raises HDEDError for an image without any depth.
    """
    size: tuple[int, int] = sharp.shape[:2]
    if depth_m.shape != size:
        raise HDEDError(f"refocus: depth is {depth_m.shape}, the image {size}; they must agree")
    if not (depth_m > 0).any():
        raise HDEDError("refocus: there is no depth anywhere")
    scale = min(1.0, RENDERED_PX / max(size))
    small_size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    at = replace(lens, pixel_pitch_m=lens.pixel_pitch_m / scale, max_coc_px=LARGEST_COC_PX)
    depth_m = fill_holes(depth_m)
    if scale == 1:
        rendered = layered_blur(sharp, at.coc_px(depth_m), at.sigma_px(depth_m))
        return np.rint(np.clip(rendered, 0, 1) * 255).astype(np.uint8)
    small, small_depth_m = resize_rgb(sharp, small_size), resize_bilinear(depth_m, small_size)
    rendered = layered_blur(small, at.coc_px(small_depth_m), at.sigma_px(small_depth_m)) * 255
    return _with_detail(sharp, small, rendered, depth_m, lens)


def _with_detail(
    sharp: NDArray[np.uint8],
    small: NDArray[np.uint8],
    rendered: NDArray[np.float32],
    depth_m: NDArray[np.float32],
    lens: ThinLens,
) -> NDArray[np.uint8]:
    """Return the rendered image (h, w, 3) at full size, with the detail that the lens leaves.

    Detail is what `small` lacks of `sharp`: frequencies around the smaller image's limit, half a
    cycle in one of its pixels, which a Gaussian of sigma dims to exp(-(pi sigma / pixel)^2 / 2).
    """
    size: tuple[int, int] = sharp.shape[:2]
    pixel = size[1] / small.shape[1]  # of the smaller image, in pixels of the larger
    result = np.empty_like(sharp)
    for channel in range(3):
        blurred = resize_bilinear(np.ascontiguousarray(rendered[..., channel]), size)
        coarse = resize_bilinear(small[..., channel].astype(np.float32), size)
        for rows in row_blocks(size[0]):
            left = np.exp(-0.5 * (np.pi * lens.sigma_px(depth_m[rows]) / pixel) ** 2)
            values = blurred[rows] + left * (sharp[rows, :, channel] - coarse[rows])
            result[rows, :, channel] = np.clip(np.rint(values), 0, 255)
    return result
