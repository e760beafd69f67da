"""Spatially varying Gaussian blur: every output pixel averages its neighbours with its own sigma.

    out(p) = sum_q w(q - p; s_p) rgb(q) / sum_q w(q - p; s_p),   |q - p|_inf <= ceil(3 s_p)

This is a gather on sRGB values. Borders are mirrored with the edge repeated (numpy `symmetric`,
scipy `reflect`), as often as the support needs. A pixel with sigma below 0.1 px is not changed. All
implementations round sigma to float32, because the support jumps where 3 sigma is an integer.

- `gaussian_gather_reference`: the formula as written, in float64, one pixel at a time; the others
  are tested against it.
- `gaussian_gather`: the same for numpy arrays, in float32, on all cores.
- `hded.blur.batch.gaussian_gather_batch`: the same for batches of torch tensors, differentiable,
  with Triton kernels on a GPU. It is not imported here, so that this package does not need torch.
- `layered_blur`: another renderer, which takes occlusion into account.
"""

from hded.blur.cpu import gaussian_gather
from hded.blur.layered import layered_blur
from hded.blur.reference import gaussian_gather_reference

__all__ = ["gaussian_gather", "gaussian_gather_reference", "layered_blur"]
