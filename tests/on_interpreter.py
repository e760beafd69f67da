"""The Triton kernels on Triton's interpreter: TRITON_INTERPRET=1 pytest tests/on_interpreter.py.

Triton asks for the interpreter when it is imported, so this is a process of its own, which
test_blur_triton.py starts. It is slow: images are tiny here; sizes straddle the kernels' tiles.
"""

import os

import numpy as np
import pytest
import torch
from torch import Tensor

from hded.blur import batch, gaussian_gather_reference

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

from hded.blur import triton_kernels as kernels


def case(
    batches: int, height: int, width: int, largest: float, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Padded images, sigma, each pixel's support, and the largest."""
    generator = torch.Generator().manual_seed(seed)
    sigma = largest * torch.rand((batches, height, width), generator=generator)
    sigma[..., 0] = 0.05
    radius = int(np.ceil(3 * float(sigma.max())))
    size = (batches, 3, height + 2 * radius, width + 2 * radius)
    return torch.rand(size, generator=generator), sigma, batch._reach(sigma, radius), radius


CASES = pytest.mark.parametrize(
    ("batches", "height", "width", "largest"),
    [(1, 3, 4, 1.2), (2, 9, 33, 0.6), (1, 1, 7, 0.9)],
)


@CASES
def test_the_kernel_is_the_reference(batches, height, width, largest):
    padded, sigma, reach, radius = case(batches, height, width, largest)
    out = kernels.gather(padded, sigma, reach, radius)
    for image, widths, blurred in zip(padded, sigma, out, strict=True):
        rgb = image.movedim(0, -1).numpy()
        expected = gaussian_gather_reference(rgb, widths.numpy(), margin_px=radius)
        np.testing.assert_allclose(blurred.movedim(0, -1).numpy(), expected, rtol=0, atol=2e-6)


@CASES
def test_the_gradients_are_those_of_torch_operations(batches, height, width, largest):
    padded, sigma, reach, radius = case(batches, height, width, largest)
    exact = padded.double().requires_grad_(), sigma.double().requires_grad_()
    out = batch._Gather.apply(*exact, radius)
    grad = torch.rand(out.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(out, exact, grad.double())
    for_image = kernels.image_gradient(grad, sigma, reach, radius)
    np.testing.assert_allclose(for_image.numpy(), gradients[0].numpy(), rtol=0, atol=5e-6)
    blurred = out.detach().float()
    for_sigma = kernels.sigma_gradient(padded, blurred, grad, sigma, reach, radius)
    np.testing.assert_allclose(for_sigma.numpy(), gradients[1].numpy(), rtol=0, atol=2e-5)


def test_a_batch_goes_through_the_kernels_forward_and_back(monkeypatch):
    """As on a GPU: borders, dispatch and autograd around the kernels."""
    monkeypatch.setattr(batch, "_kernels", lambda padded: kernels)
    generator = torch.Generator().manual_seed(2)
    rgb = torch.rand((1, 3, 4, 5), generator=generator)
    sigma = 0.2 + 0.6 * torch.rand((1, 4, 5), generator=generator)
    results = []
    for dtype in (torch.float32, torch.float64):
        if dtype == torch.float64:
            monkeypatch.undo()
        leaves = [leaf.clone().to(dtype).requires_grad_() for leaf in (rgb, sigma)]
        out = batch.gaussian_gather_batch(*leaves)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), leaves)))
    for single, double in zip(*results, strict=True):
        np.testing.assert_allclose(single.numpy(), double.numpy(), rtol=0, atol=2e-5)
