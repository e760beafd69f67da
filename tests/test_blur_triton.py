"""The Triton kernels: on Triton's interpreter, compiled for a GPU, and run on one if there is."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from imports import ROOT

from hded.blur import batch

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux alone)")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")


def test_the_interpreter_finds_the_reference_and_its_gradients() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/on_interpreter.py",
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^7 passed", done.stdout, re.MULTILINE), done.stdout[-300:]


@pytest.mark.parametrize("name", ["_gather", "_sigma_gradient", "_inverse_norm", "_image_gradient"])
def test_every_kernel_compiles_for_a_gpu_where_none_is(name):
    """Triton's own assembler is in its package: compute capability 9.0, an H100's."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hded.blur import triton_kernels

    kernel = getattr(triton_kernels, name)
    types = {"height": "i32", "width": "i32", "radius": "i32", "reach": "*i32"}
    tile = {"tile_y": triton_kernels.TILE_Y, "tile_x": triton_kernels.TILE_X}
    signature = {
        argument: "constexpr" if argument in tile else types.get(argument, "*fp32")
        for argument in kernel.arg_names
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=tile)
    compiled = compile(source, target=GPUTarget("cuda", 90, 32))
    assert len(compiled.asm["cubin"]) > 1000
    # nothing is spilled to memory that belongs in registers
    assert ".local" not in compiled.asm["ptx"]


@needs_gpu
def test_on_a_gpu_batches_and_gradients_are_those_of_the_cpu():
    generator = torch.Generator().manual_seed(4)
    rgb = torch.rand((3, 3, 65, 97), generator=generator, dtype=torch.float64)
    sigma = 7.25 * torch.rand((3, 65, 97), generator=generator, dtype=torch.float64)
    exact = rgb.requires_grad_(), sigma.requires_grad_()
    out = batch.gaussian_gather_batch(*exact)
    expected = torch.autograd.grad(out.square().sum(), exact)
    leaves = [leaf.detach().float().cuda().requires_grad_() for leaf in exact]
    assert batch._kernels(leaves[0]) is not None
    blurred = batch.gaussian_gather_batch(*leaves)
    found = torch.autograd.grad(blurred.square().sum(), leaves)
    np.testing.assert_allclose(blurred.detach().cpu(), out.detach(), rtol=0, atol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.cpu(), theirs, rtol=0, atol=1e-3)
