"""The blur's GPU kernels: their code in Triton's interpreter, and on a GPU where there is one."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from hded.blur import batch, gaussian_gather_reference, torch_ops
from hded.blur.batch import gaussian_gather_batch

pytest.importorskip("triton", reason="Triton is not installed")

ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
# a tile is 4 x 32 pixels: sizes that leave part of one, in either direction or both
SIZES = pytest.mark.parametrize("size", [(1, 1), (5, 3), (2, 33)])


def _interpreted(name: str, *arrays: np.ndarray) -> np.ndarray:
    from hded.blur import triton_kernels

    return getattr(triton_kernels, name)(*map(torch.from_numpy, arrays)).numpy()


@pytest.fixture(scope="module")
def kernels():
    """The kernels' module, run by Triton's interpreter.

    It has to be chosen before Triton is imported, hence a process of its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        executor.submit(int).result()

    def call(name: str):
        def run(*tensors: Tensor) -> Tensor:
            assert all(tensor.is_contiguous() for tensor in tensors)
            arrays = [tensor.detach().numpy() for tensor in tensors]
            return torch.from_numpy(executor.submit(_interpreted, name, *arrays).result())

        return run

    yield SimpleNamespace(
        **{name: call(name) for name in ("forward", "image_gradient", "sigma_gradient")}
    )
    executor.shutdown()


def example(size, largest: float, pad: int, dtype=torch.float32, count: int = 2, seed: int = 0):
    """Padded images (B, 3, H + 2 pad, W + 2 pad), sigma (B, H, W) and an output's gradient."""
    height, width = size
    rng = np.random.default_rng(seed)
    padded = rng.random((count, 3, height + 2 * pad, width + 2 * pad))
    sigma = rng.uniform(0, largest, (count, *size))
    grad = rng.normal(size=(count, 3, *size))
    return [torch.from_numpy(x).to(dtype) for x in (padded, sigma, grad)]


def within(tensor: Tensor, expected, tolerance: float) -> None:
    np.testing.assert_allclose(tensor.numpy(), np.asarray(expected), rtol=0, atol=tolerance)


def tolerance(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 1e-12


@SIZES
@DTYPES
def test_the_forward_kernel_blurs_as_the_reference_does(kernels, size, dtype):
    padded, sigma, _ = example(size, 1.3, 4)
    padded, sigma = padded.to(dtype), sigma.to(dtype)
    out = kernels.forward(padded, sigma)
    for image, s, blurred in zip(padded, sigma, out, strict=True):
        expected = gaussian_gather_reference(image.permute(1, 2, 0).numpy(), s.numpy(), 4)
        within(blurred, expected.transpose(2, 0, 1), tolerance(dtype))


@SIZES
@DTYPES
def test_the_kernels_gradients_are_those_of_torch(kernels, size, dtype):
    padded, sigma, grad = example(size, 1.3, 4, dtype)
    out = torch_ops.forward(padded, sigma)
    expected = torch_ops.sigma_gradient(grad, padded, sigma, out)
    within(kernels.sigma_gradient(grad, padded, sigma, out), expected, 10 * tolerance(dtype))
    expected = torch_ops.image_gradient(grad, padded, sigma)
    within(kernels.image_gradient(grad, padded, sigma), expected, tolerance(dtype))


@pytest.mark.slow  # the interpreter takes a quarter of a minute
def test_wide_supports_reach_across_tiles(kernels):
    """One wide pixel among sharp ones, further from a tile than the tile is wide."""
    padded, sigma, grad = example((1, 70), 0.05, 34, count=1)
    sigma[0, 0, 68] = 11.3
    out = kernels.forward(padded, sigma)
    within(out, torch_ops.forward(padded, sigma), 1e-5)
    within(
        kernels.sigma_gradient(grad, padded, sigma, out),
        torch_ops.sigma_gradient(grad, padded, sigma, out),
        1e-5,
    )
    result = kernels.image_gradient(grad, padded, sigma)
    within(result, torch_ops.image_gradient(grad, padded, sigma), 1e-5)
    assert (result[0, :, :, 68:137] != 0).all() and (result[0, :, :34, :68] == 0).all()


def test_the_support_is_decided_as_by_the_reference_where_it_jumps(kernels):
    thirds = np.array([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 11 / 3], np.float32)
    below, above = np.nextafter(thirds, np.float32(0)), np.nextafter(thirds, np.float32(9))
    smallest = np.nextafter(np.float32(0.1), np.array([0, 1], np.float32))
    sigma = np.concatenate([below, thirds, above, smallest, np.array([0, 0.1], np.float32)])
    rgb = np.zeros((1 + 24, len(sigma) + 24, 3), np.float32)
    rgb[12, ::2], rgb[:, 1::3, 1] = 1, 1
    expected = gaussian_gather_reference(rgb, sigma[None], 12)
    padded, sigma = (
        torch.from_numpy(rgb).permute(2, 0, 1)[None].contiguous(),
        torch.from_numpy(sigma)[None, None],
    )
    within(kernels.forward(padded, sigma)[0], expected.transpose(2, 0, 1), 1e-6)
    weight = torch.ones(1, 3, 1, sigma.shape[-1])
    within(
        kernels.image_gradient(weight, padded, sigma),
        torch_ops.image_gradient(weight, padded, sigma),
        1e-6,
    )


def test_a_support_beyond_the_padding_is_cut_there(kernels):
    """Were the promise of a bound broken on the way, nothing outside the image would be read."""
    padded, sigma, grad = example((2, 3), 1, 2, count=1)
    sigma += 4
    expected = torch_ops.forward(padded, sigma)
    within(kernels.forward(padded, sigma), expected, 1e-5)
    expected = torch_ops.image_gradient(grad, padded, sigma)
    within(kernels.image_gradient(grad, padded, sigma), expected, 1e-5)


def test_a_sigma_that_is_no_number_spoils_its_own_pixel_alone(kernels):
    padded, sigma, _ = example((3, 4), 1, 4, count=1)
    sigma[0, 1, 2] = torch.nan
    assert torch.equal(kernels.forward(padded, sigma).isnan().any(1), sigma.isnan())


@pytest.mark.parametrize("name", ["forward", "sigma_gradient", "sources", "image_gradient"])
def test_the_kernels_compile_for_an_h100_without_atomics(monkeypatch, tmp_path, name):
    """What the interpreter does not see: types, layouts, and the assembler's own checks."""
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hded.blur import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(triton_kernels, f"{name}_kernel")
    signature = {
        argument: "i32" if argument in triton_kernels.SIZES else "*fp32"
        for argument in kernel.arg_names
    }
    made = compiled(
        ASTSource(kernel, signature), GPUTarget("cuda", 90, 32), options={"num_warps": 1}
    )
    assert made.asm["cubin"] and "sm_90" in made.asm["ptx"]
    assert "atom" not in made.asm["ptx"] and "red." not in made.asm["ptx"]
    # one warp a program, and no pixel changes its thread between steps
    assert "convert_layout" not in made.asm["ttgir"]


@pytest.mark.parametrize("margin", [0, 2])
def test_a_batch_goes_through_the_kernels_with_its_borders(kernels, monkeypatch, margin):
    """All around the kernels that a GPU would run: padding, both gradients, borders folded back."""
    results = []
    for _ in range(2):
        rgb, sigma, grad = example((5, 7), 1.3, margin)
        rgb, sigma = rgb.transpose(2, 3), sigma.transpose(1, 2)
        rgb, sigma = rgb.requires_grad_(), sigma.requires_grad_()
        out = gaussian_gather_batch(rgb, sigma, margin)
        gradients = torch.autograd.grad(out, (rgb, sigma), grad.transpose(2, 3))
        results.append([out.detach(), *gradients])
        monkeypatch.setattr(batch, "_operations", lambda tensor: kernels)
    for plain, kernel in zip(*results, strict=True):
        within(kernel, plain, 1e-4)


@pytest.fixture
def cuda_calls(monkeypatch):
    """Names of the kernels' functions as they are called."""
    from hded.blur import triton_kernels

    calls = []
    for name in ("forward", "image_gradient", "sigma_gradient"):
        function = getattr(triton_kernels, name)
        monkeypatch.setattr(
            triton_kernels,
            name,
            lambda *arguments, f=function, n=name: calls.append(n) or f(*arguments),
        )
    return calls


@ON_A_GPU
@DTYPES
@pytest.mark.parametrize("size", [(1, 1), (45, 70), (64, 96)])
@pytest.mark.parametrize("margin", [0, 5])
@pytest.mark.parametrize("bound", [None, 7.25])
def test_on_cuda_the_kernels_give_the_cpus_values_and_gradients(
    cuda_calls, size, margin, bound, dtype
):
    results = []
    for device in ("cpu", "cuda"):
        rgb, sigma, grad = (x.to(device) for x in example(size, 7.25, margin, dtype, count=3))
        rgb, sigma = rgb.requires_grad_(), sigma.requires_grad_()
        out = gaussian_gather_batch(rgb, sigma, margin, max_sigma_px=bound)
        gradients = torch.autograd.grad(out, (rgb, sigma), grad)
        results.append([x.detach().cpu() for x in (out, *gradients)])
    assert cuda_calls == ["forward", "image_gradient", "sigma_gradient"]
    for cpu, cuda in zip(*results, strict=True):
        within(cuda, cpu, 1e-4 if dtype == torch.float32 else 1e-11)


@ON_A_GPU
def test_on_cuda_gradients_are_the_same_on_every_run():
    rgb, sigma, grad = (x.cuda() for x in example((50, 61), 5, 0))
    rgb, sigma = rgb.requires_grad_(), sigma.requires_grad_()
    runs = [
        torch.autograd.grad(gaussian_gather_batch(rgb, sigma), (rgb, sigma), grad) for _ in range(2)
    ]
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@ON_A_GPU
def test_on_cuda_a_batch_of_more_than_two_to_the_31_values_is_blurred():
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("needs 30 GiB of free GPU memory")
    rgb = torch.zeros(90, 3, 2000, 4000, device="cuda")
    sigma = torch.ones(90, 2000, 4000, device="cuda")
    rgb[-1] = torch.rand(3, 2000, 4000, device="cuda")
    out = gaussian_gather_batch(rgb, sigma, max_sigma_px=1.0)
    assert torch.equal(out[-1:], gaussian_gather_batch(rgb[-1:], sigma[-1:], max_sigma_px=1.0))
