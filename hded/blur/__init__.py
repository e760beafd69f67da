"""Spatially varying Gaussian blur: every output pixel averages its neighbours with its own sigma.

    out(p) = sum_q w(q - p; s_p) rgb(q) / sum_q w(q - p; s_p),   |q - p|_inf <= ceil(3 s_p)

It works on sRGB values. Beyond its borders the image is mirrored with its edges repeated (numpy
`symmetric`, scipy `reflect`), as often as the support needs. A pixel with sigma below 0.1 px is
copied. Sigma is converted to float32 everywhere, since the support jumps where 3 sigma is an
integer.

- `gaussian_gather_reference`: the formula as written, in float64, one pixel at a time: the ground
  truth for tests.
- `gaussian_gather`: the same on numpy arrays in float32, on all cores.
- `hded.blur.batch.gaussian_gather_batch`: the same on batches of torch tensors, differentiable, on
  a GPU by Triton kernels (not imported here, where nothing needs torch).
- `layered_blur`: another renderer, which respects occlusion.
"""

from hded.blur.cpu import gaussian_gather
from hded.blur.layered import layered_blur
from hded.blur.reference import gaussian_gather_reference

__all__ = ["gaussian_gather", "gaussian_gather_reference", "layered_blur"]
