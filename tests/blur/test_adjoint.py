"""The adjoint of the blur: against the inner product, against autograd, and thread by thread."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.imports import ROOT

from hded.blur import gaussian_gather
from hded.blur.adjoint import gaussian_gather_adjoint
from hded.blur.batch import gaussian_gather_batch
from hded.common.errors import HDEDError


def case(height: int, width: int, largest: float, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0, largest, (height, width)).astype(np.float32)
    x = rng.random((height, width, 3)).astype(np.float32)
    return sigma, x, rng.standard_normal((height, width, 3)).astype(np.float32)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 150),
    largest=st.sampled_from([0.05, 0.4, 2.0, 7.25]),
    seed=st.integers(0, 2**16),
)
def test_the_inner_products_with_the_blur_and_its_adjoint_are_equal(height, width, largest, seed):
    sigma, x, y = case(height, width, largest, seed)
    blurred = gaussian_gather(x, sigma).astype(np.float64)
    spread = gaussian_gather_adjoint(y, sigma).astype(np.float64)
    scale = np.abs(blurred * y).sum() + 1
    assert abs((blurred * y).sum() - (x * spread).sum()) / scale < 1e-6


def test_it_is_the_gradient_that_autograd_finds_in_float64():
    sigma, x, y = case(40, 70, 4.0, 1)
    image = torch.from_numpy(x).double().movedim(-1, 0)[None].requires_grad_()
    blurred = gaussian_gather_batch(image, torch.from_numpy(sigma).double()[None])
    (gradient,) = torch.autograd.grad((blurred * torch.from_numpy(y).movedim(-1, 0)).sum(), image)
    expected = gradient[0].movedim(0, -1).numpy()
    np.testing.assert_allclose(gaussian_gather_adjoint(y, sigma), expected, atol=2e-5)


def test_where_nothing_is_blurred_it_gives_back_its_argument():
    sigma, _, y = case(35, 66, 0.0, 2)
    np.testing.assert_array_equal(gaussian_gather_adjoint(y, sigma), y)


def test_the_number_of_threads_changes_no_bit():
    code = (
        "import hashlib, numpy as np; from hded.blur.adjoint import gaussian_gather_adjoint as a\n"
        "rng = np.random.default_rng(0); s = rng.uniform(0, 5, (100, 90)).astype('f4')\n"
        "print(hashlib.sha256(np.ascontiguousarray(a(rng.random((100, 90, 3)), s))).hexdigest())"
    )
    found = set()
    for threads in ("1", "2"):
        env = os.environ | {"NUMBA_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        found.add(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    assert len(found) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    sigma, _, y = case(8, 9, 1.0, 0)
    y[0, 0, 0] = value
    with pytest.raises(HDEDError, match="finite"):
        gaussian_gather_adjoint(y, sigma)
