"""The per-pixel Gaussian on torch tensors, on the CPU: values, gradients, errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hded.blur import gaussian_gather, gaussian_gather_reference
from hded.blur.batch import gaussian_gather_batch
from hded.common.errors import HDEDError

TOLERANCE = 1e-5


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).to(dtype)


def reference(rgb: Tensor, sigma: Tensor, margin: int = 0) -> np.ndarray:
    """The reference, image by image: (B, 3, H, W), float64."""
    batch, _, height, width = rgb.shape
    size = batch, height - 2 * margin, width - 2 * margin
    return np.stack(
        [
            gaussian_gather_reference(image.permute(1, 2, 0).numpy(), s.numpy(), margin)
            for image, s in zip(rgb.detach(), sigma.detach().reshape(size), strict=True)
        ]
    ).transpose(0, 3, 1, 2)


def away_from_jumps(*shape: int, largest: float, seed: int = 0) -> Tensor:
    """Sigmas, float64, whose triple is at least 0.05 from an integer, all above 0.1."""
    rng = np.random.default_rng(seed)
    whole = rng.integers(0, max(1, math.floor(3 * largest)), shape)
    return torch.from_numpy((whole + rng.uniform(0.35, 0.95, shape)) / 3)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    if layout == "every second":
        return tensor.repeat_interleave(2, -1)[..., ::2]
    if layout == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "channels last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "batch inside":
        return tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    return tensor


@settings(max_examples=120)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    largest=st.floats(0, 20),
    margin=st.integers(0, 8),
    edges=st.booleans(),
    dtypes=st.sampled_from([(torch.float32, torch.float32), (torch.float32, torch.float64)] * 2)
    | st.just((torch.float64, torch.float32)),
    gradient=st.booleans(),
    promised=st.booleans(),
    layout=st.sampled_from(["plain", "every second", "transposed", "channels last"]),
    channel=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_a_batch_is_blurred_as_the_reference_blurs_each_image(
    batch, height, width, largest, margin, edges, dtypes, gradient, promised, layout, channel, seed
):
    """Through numba, and, where a gradient is asked for or in float64, through torch."""
    rng = np.random.default_rng(seed)
    shape = (batch, 1, height, width) if channel else (batch, height, width)
    sigma = rng.uniform(0, largest, shape) * rng.random((batch,) + (1,) * (len(shape) - 1))
    if edges:
        sigma = rng.choice([0.0, 0.1, 1 / 3, 2 / 3, 1.0, 4 / 3, 2.0], shape).astype(np.float32)
        sigma = np.maximum(np.nextafter(sigma, np.float32(rng.choice([-1, 0, 30]))), 0)
    sigma = laid_out(torch.from_numpy(sigma).to(dtypes[1]), layout)
    rgb = images(batch, 3, height + 2 * margin, width + 2 * margin, seed=seed, dtype=dtypes[0])
    rgb = laid_out(rgb, layout)
    before = rgb.clone(), sigma.clone()
    bound = float(sigma.max()) if promised else None
    out = gaussian_gather_batch(rgb.requires_grad_(gradient), sigma, margin, max_sigma_px=bound)
    assert out.dtype == rgb.dtype and out.shape == (batch, 3, height, width)
    assert out.requires_grad is gradient
    np.testing.assert_allclose(
        out.detach().numpy(), reference(rgb, sigma, margin), rtol=0, atol=TOLERANCE
    )
    assert torch.equal(rgb, before[0]) and torch.equal(sigma, before[1])


def test_in_float64_the_result_is_exact():
    rgb = images(2, 3, 14, 11, dtype=torch.float64)
    sigma = 5 * images(2, 14, 11, seed=1)
    np.testing.assert_allclose(
        gaussian_gather_batch(rgb, sigma).numpy(), reference(rgb, sigma), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("promise", [None, 6.0])
@pytest.mark.parametrize("layout", ["plain", "channels last", "batch inside"])
def test_without_gradients_the_cpus_result_is_numbas_bit_for_bit(layout, promise):
    rgb, sigma = images(3, 3, 25, 29), 6 * images(3, 21, 25, seed=1)
    expected = [
        gaussian_gather(image.permute(1, 2, 0).numpy(), s.numpy(), 2)
        for image, s in zip(rgb, sigma, strict=True)
    ]
    rgb, sigma = laid_out(rgb, layout), laid_out(sigma, layout)
    out = gaussian_gather_batch(rgb, sigma, 2, max_sigma_px=promise)
    np.testing.assert_array_equal(out.permute(0, 2, 3, 1).numpy(), np.stack(expected))
    with torch.no_grad():
        assert torch.equal(
            gaussian_gather_batch(rgb.requires_grad_(), sigma, 2, max_sigma_px=promise), out
        )


@pytest.mark.parametrize(
    ("size", "margin"), [((4, 5), 0), ((1, 6), 0), ((6, 1), 1), ((3, 3), 1), ((2, 3), 5)]
)
def test_gradients_are_those_of_finite_differences(size, margin):
    rgb = images(2, 3, *(n + 2 * margin for n in size), dtype=torch.float64).requires_grad_()
    sigma = away_from_jumps(2, 1, *size, largest=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda rgb, sigma: gaussian_gather_batch(rgb, sigma, margin), (rgb, sigma), atol=1e-7
    )


def test_each_gradient_is_there_when_it_is_asked_for_alone():
    rgb = images(1, 3, 6, 8, dtype=torch.float64)
    sigma = away_from_jumps(1, 6, 8, largest=2)
    weight = images(1, 3, 6, 8, seed=3, dtype=torch.float64)
    both = rgb.clone().requires_grad_(), sigma.clone().requires_grad_()
    (gaussian_gather_batch(*both) * weight).sum().backward()
    for i in range(2):
        alone = rgb.clone(), sigma.clone()
        alone[i].requires_grad_()
        (gaussian_gather_batch(*alone) * weight).sum().backward()
        found, expected = alone[i].grad, both[i].grad
        assert found is not None and expected is not None and torch.equal(found, expected)


def test_float32_gradients_agree_with_float64_ones():
    rgb, sigma = images(2, 3, 15, 17), 7 * images(2, 15, 17, seed=1)
    weight = images(2, 3, 15, 17, seed=2) - 0.5
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in (rgb, sigma)]
        (gaussian_gather_batch(leaves[0], leaves[1]) * weight).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for single, double in zip(*gradients, strict=True):
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single.numpy(), double.numpy(), rtol=0, atol=1e-5)


def test_the_gradient_reaches_a_sigma_of_another_dtype():
    rgb, sigma = images(1, 3, 5, 5), images(1, 5, 5, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian_gather_batch(rgb, sigma).square().sum(), sigma)
    assert gradient.dtype == torch.float64 and gradient.abs().max() > 1e-3


@pytest.mark.parametrize("value", [0.0, 0.05, 0.0999])
def test_below_a_tenth_of_a_pixel_the_image_gets_the_gradient_and_sigma_none(value):
    rgb = images(1, 3, 5, 6).requires_grad_()
    sigma = torch.full((1, 5, 6), value, requires_grad=True)
    out = gaussian_gather_batch(rgb, sigma)
    weight = images(1, 3, 5, 6, seed=1)
    for_rgb, for_sigma = torch.autograd.grad((out * weight).sum(), (rgb, sigma))
    assert torch.equal(out, rgb) and torch.equal(for_rgb, weight)
    assert torch.equal(for_sigma, torch.zeros_like(sigma))


@pytest.mark.parametrize("margin", [0, 3])
def test_all_weight_goes_back_to_the_image_across_its_borders(margin):
    """Weights of a pixel sum to one, so the gradient of a sum sums to the number of pixels."""
    rgb = images(2, 3, 4 + 2 * margin, 5 + 2 * margin, dtype=torch.float64).requires_grad_()
    sigma = 5 * images(2, 4, 5, seed=1)
    (gradient,) = torch.autograd.grad(gaussian_gather_batch(rgb, sigma, margin).sum(), rgb)
    np.testing.assert_allclose(gradient.sum((2, 3)), 20, rtol=1e-12)
    assert (gradient > 0).all()


def test_a_margin_wider_than_the_support_gets_no_gradient_beyond_it():
    rgb = images(1, 3, 13, 13).requires_grad_()
    out = gaussian_gather_batch(rgb, torch.full((1, 1, 1), 1.0), 6)
    (gradient,) = torch.autograd.grad(out.sum(), rgb)
    assert (gradient[0, :, 3:10, 3:10] > 0).all()
    assert torch.count_nonzero(gradient) == 3 * 7 * 7


def test_the_gradient_may_be_taken_once_only():
    rgb = images(1, 3, 4, 4).requires_grad_()
    loss = gaussian_gather_batch(rgb, torch.ones(1, 4, 4)).square().sum()
    (gradient,) = torch.autograd.grad(loss, rgb, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("gradient", [False, True])
def test_a_sigma_above_the_promised_bound_counts_as_the_bound(gradient):
    rgb, sigma = images(1, 3, 9, 9).requires_grad_(gradient), 8 * images(1, 9, 9, seed=1)
    sigma[0, 0, 0], sigma[0, 0, 1], sigma[0, 0, 2] = 1e30, math.inf, -1
    out = gaussian_gather_batch(rgb, sigma.requires_grad_(gradient), max_sigma_px=2.5)
    expected = reference(rgb, sigma.clamp(0, 2.5))
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=0, atol=TOLERANCE)
    if gradient:
        for_rgb, for_sigma = torch.autograd.grad(out.square().sum(), (rgb, sigma))
        outside = (sigma > 2.5) | (sigma < 0)
        assert (for_sigma[outside] == 0).all() and (for_sigma[~outside] != 0).any()
        assert for_rgb.isfinite().all()


def test_with_a_promise_a_sigma_that_is_no_number_spoils_its_own_pixel_alone():
    rgb, sigma = images(1, 3, 9, 9).requires_grad_(), torch.ones(1, 9, 9)
    sigma[0, 4, 5] = math.nan
    out = gaussian_gather_batch(rgb, sigma, max_sigma_px=2.5)
    assert torch.equal(out.isnan().any(1)[0], sigma[0].isnan())
    with pytest.raises(HDEDError, match="sigma"), torch.no_grad():
        gaussian_gather_batch(rgb, sigma, max_sigma_px=2.5)


@pytest.mark.parametrize("bound", [-1.0, math.inf, math.nan])
def test_a_bound_that_is_no_length_is_refused(bound):
    with pytest.raises(HDEDError, match="max_sigma_px"):
        gaussian_gather_batch(images(1, 3, 4, 4), torch.ones(1, 4, 4), max_sigma_px=bound)


@pytest.mark.parametrize(
    ("rgb", "sigma", "margin", "message"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(4, 4), 0, "rgb has shape"),
        (torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4), 0, "rgb has shape"),
        (torch.zeros(0, 3, 4, 4), torch.zeros(0, 4, 4), 0, "rgb has shape"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(4, 4), 0, "sigma has shape"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 4, 4), 0, "sigma has shape"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), 0, "sigma has shape"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 5, 4), 0, "sigma has shape"),
        (torch.zeros(1, 3, 6, 6), torch.zeros(1, 4, 4), 2, "margin of 2"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 6, 6), -1, "margin of -1"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 0, 0), 2, "leaves no pixel"),
        (torch.zeros(1, 3, 4, 4).half(), torch.zeros(1, 4, 4), 0, "rgb is float16"),
        (torch.zeros(1, 3, 4, 4).bfloat16(), torch.zeros(1, 4, 4), 0, "rgb is bfloat16"),
        (torch.zeros(1, 3, 4, 4).byte(), torch.zeros(1, 4, 4), 0, "rgb is uint8"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).half(), 0, "sigma is float16"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, device="meta"), 0, "sigma on meta"),
    ],
)
@pytest.mark.parametrize("bound", [None, 1.0])
def test_what_does_not_fit_is_refused_in_one_line(rgb, sigma, margin, message, bound):
    with pytest.raises(HDEDError, match=message) as caught:
        gaussian_gather_batch(rgb, sigma, margin, max_sigma_px=bound)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(
    ("what", "value"),
    [("sigma", value) for value in (math.nan, math.inf, -math.inf, -0.01)]
    + [("rgb", value) for value in (math.nan, math.inf, -math.inf)],
)
def test_values_that_are_no_lengths_or_colours_are_refused(what, value, gradient):
    rgb, sigma = images(2, 3, 4, 4), torch.ones(2, 4, 4)
    (sigma if what == "sigma" else rgb)[1, 2, 1] = value
    with pytest.raises(HDEDError, match=what):
        gaussian_gather_batch(rgb.requires_grad_(gradient), sigma)


def test_a_sigma_beyond_float32_is_refused():
    sigma = torch.zeros(1, 4, 4, dtype=torch.float64)
    sigma[0, 0, 0] = 1e39
    with pytest.raises(HDEDError, match="sigma"):
        gaussian_gather_batch(images(1, 3, 4, 4).requires_grad_(), sigma)


def test_the_strength_of_a_blur_is_found_by_descending_its_reblur_loss():
    sharp, shape = images(2, 3, 16, 18), 0.5 + images(2, 16, 18, seed=1)
    target = torch.from_numpy(reference(sharp, 1.7 * shape)).float()
    strength = torch.tensor(0.8, requires_grad=True)
    optimizer = torch.optim.Adam([strength], lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        blurred = gaussian_gather_batch(sharp, strength * shape, max_sigma_px=6.0)
        (blurred - target).square().mean().backward()
        optimizer.step()
    assert abs(strength.item() - 1.7) < 0.02
