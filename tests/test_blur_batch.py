"""The per-pixel Gaussian on torch tensors: against the reference, and its gradients."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hded.blur import gaussian_gather, gaussian_gather_reference
from hded.blur.batch import gaussian_gather_batch
from hded.errors import HDEDError


def scene(
    batch: int, height: int, width: int, largest: float, seed: int = 0, margin: int = 0
) -> tuple[Tensor, Tensor]:
    """Random images with their margin, sigmas from 0 to `largest`: float64, exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    size = (batch, 3, height + 2 * margin, width + 2 * margin)
    rgb = torch.rand(size, generator=generator, dtype=torch.float64)
    sigma = largest * torch.rand((batch, height, width), generator=generator, dtype=torch.float64)
    return rgb, sigma.float().double()


def reference(rgb: Tensor, sigma: Tensor, margin: int = 0) -> np.ndarray:
    """(B, 3, H, W), image by image."""
    images = [
        gaussian_gather_reference(image.movedim(0, -1).numpy(), widths.numpy(), margin)
        for image, widths in zip(rgb.detach(), sigma.detach(), strict=True)
    ]
    return np.stack(images).transpose(0, 3, 1, 2)


def by_torch(rgb: Tensor, sigma: Tensor, margin: int = 0) -> Tensor:
    """The path of torch operations, which a float32 image takes where it has a gradient."""
    return gaussian_gather_batch(rgb.detach().requires_grad_(), sigma, margin)


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 18),
    width=st.integers(1, 18),
    largest=st.floats(0, 20),
    margin=st.sampled_from([0, 0, 1, 5, 40]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    path=st.sampled_from([gaussian_gather_batch, by_torch]),
    layout=st.sampled_from(["plain", "channels last", "every second", "expanded"]),
    seed=st.integers(0, 999),
)
def test_a_batch_is_the_reference_image_by_image(
    batch, height, width, largest, margin, dtype, path, layout, seed
):
    rgb, sigma = scene(batch, height, width, largest, seed, margin)
    rgb, sigma = rgb.to(dtype), sigma.to(dtype)
    if layout == "channels last":
        rgb = rgb.to(memory_format=torch.channels_last)
    elif layout == "every second":
        rgb, sigma = rgb.repeat_interleave(2, 3)[..., ::2], sigma.repeat_interleave(2, 2)[..., ::2]
    elif layout == "expanded":
        rgb = rgb[:1].expand(batch, -1, -1, -1)
    before = rgb.clone(), sigma.clone()
    out = path(rgb, sigma, margin)
    assert out.shape == (batch, 3, height, width) and out.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(
        out.detach().numpy(), reference(rgb, sigma, margin), rtol=0, atol=tolerance
    )
    assert torch.equal(rgb, before[0]) and torch.equal(sigma, before[1])


@pytest.mark.parametrize("thirds", [1, 2, 3, 4, 5, 11, 20])
@pytest.mark.parametrize("towards", [0, None, 99])
def test_the_support_is_that_of_the_reference_to_the_last_bit(thirds, towards):
    sigma = np.float32(thirds / 3)
    sigma = sigma if towards is None else np.nextafter(sigma, np.float32(towards))
    rgb = torch.zeros(1, 3, 1, 61, dtype=torch.float64)
    rgb[..., 30] = 1
    out = gaussian_gather_batch(rgb, torch.full((1, 1, 61), float(sigma), dtype=torch.float64))
    columns = np.nonzero(out[0, 1, 0].numpy())[0]
    radius = math.ceil(3 * float(sigma))
    assert (columns.min(), columns.max()) == (30 - radius, 30 + radius)


def test_on_a_cpu_it_is_the_numpy_function_bit_for_bit():
    rgb, sigma = (t.float() for t in scene(2, 19, 23, 5.0, margin=4))
    out = gaussian_gather_batch(rgb, sigma, 4)
    for image, widths, blurred in zip(rgb, sigma, out, strict=True):
        expected = gaussian_gather(image.movedim(0, -1).numpy(), widths.numpy(), 4)
        np.testing.assert_array_equal(blurred.movedim(0, -1).numpy(), expected)


def test_sigma_may_have_a_channel_of_its_own():
    rgb, sigma = scene(2, 9, 8, 3.0)
    assert torch.equal(
        gaussian_gather_batch(rgb, sigma), gaussian_gather_batch(rgb, sigma[:, None])
    )


@pytest.mark.parametrize("bound", [3.0, 3.7, 9.0])
def test_a_promised_bound_changes_nothing_where_it_holds(bound):
    rgb, sigma = scene(1, 14, 15, 3.0)
    out = gaussian_gather_batch(rgb, sigma, max_sigma_px=bound)
    np.testing.assert_allclose(out.numpy(), gaussian_gather_batch(rgb, sigma).numpy(), atol=1e-14)


def test_a_broken_promise_cuts_the_support_and_reads_nothing_beyond():
    rgb, sigma = scene(1, 14, 15, 1.0)
    sigma[0, 5:] = 8.0
    out = gaussian_gather_batch(rgb, sigma, max_sigma_px=1.0)
    assert torch.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
    whole = gaussian_gather_batch(rgb, sigma)
    np.testing.assert_allclose(out[:, :, :5].numpy(), whole[:, :, :5].numpy(), atol=1e-14)


# ---- gradients ----


def away_from_jumps(sigma: Tensor) -> Tensor:
    """Move 3 sigma to the middle between whole numbers, sigma away from 0.1."""
    return ((3 * sigma).floor() + 0.5) / 3


@pytest.mark.parametrize(("size", "margin"), [((4, 5), 0), ((1, 6), 0), ((3, 4), 2), ((3, 3), 7)])
def test_gradients_are_those_of_finite_differences(size, margin):
    """Borders too: what is mirrored collects the gradient of all its copies."""
    rgb, sigma = scene(2, *size, 2.0, margin=margin)
    sigma = away_from_jumps(sigma)
    sigma[0, 0, 0] = 0.05  # left alone

    def blur(rgb: Tensor, sigma: Tensor) -> Tensor:
        return gaussian_gather_batch(rgb, sigma, margin)

    assert torch.autograd.gradcheck(blur, (rgb.requires_grad_(), sigma.requires_grad_()))


@pytest.mark.parametrize("wanted", ["image", "sigma"])
def test_one_gradient_may_be_wanted_alone(wanted):
    rgb, sigma = scene(1, 6, 7, 2.0)
    sigma = away_from_jumps(sigma)
    both = rgb.clone().requires_grad_(), sigma.clone().requires_grad_()
    gaussian_gather_batch(*both).square().sum().backward()
    alone = (
        rgb.clone().requires_grad_(wanted == "image"),
        sigma.clone().requires_grad_(wanted == "sigma"),
    )
    gaussian_gather_batch(*alone).square().sum().backward()
    index = 0 if wanted == "image" else 1
    assert torch.equal(alone[index].grad, both[index].grad) and alone[1 - index].grad is None


def test_a_pixel_that_is_left_alone_passes_the_gradient_on_and_has_none_for_sigma():
    rgb, sigma = scene(1, 5, 6, 0.09)
    leaves = rgb.requires_grad_(), sigma.requires_grad_()
    loss = gaussian_gather_batch(*leaves).mul(torch.arange(6.0)).sum()
    for_image, for_sigma = torch.autograd.grad(loss, leaves)
    assert torch.equal(for_image, torch.arange(6.0, dtype=torch.float64).expand(1, 3, 5, 6))
    assert not for_sigma.any()


def test_no_gradient_is_kept_where_none_is_wanted():
    rgb, sigma = scene(1, 5, 6, 2.0)
    with torch.no_grad():
        assert not gaussian_gather_batch(rgb.requires_grad_(), sigma).requires_grad


def test_reblurring_finds_the_blur_that_made_an_image():
    """The use: a loss between a photo and the sharp image blurred by an estimated sigma."""
    rgb, _ = scene(1, 24, 24, 1.0, seed=3)
    true = torch.linspace(0.8, 2.6, 24, dtype=torch.float64).expand(1, 24, 24)
    photo = gaussian_gather_batch(rgb, true)
    slope = torch.tensor([1.5, 0.2], dtype=torch.float64, requires_grad=True)
    position = torch.linspace(0, 1, 24, dtype=torch.float64)
    optimiser = torch.optim.Adam([slope], lr=0.05)
    losses = []
    for _ in range(150):
        sigma = (slope[0] + slope[1] * position).expand(1, 24, 24)
        loss = (gaussian_gather_batch(rgb, sigma) - photo).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 50
    np.testing.assert_allclose(slope.detach().numpy(), [0.8, 1.8], atol=0.1)


# ---- mistakes ----

MISTAKES: dict[str, tuple[Callable[[Tensor, Tensor], tuple], str]] = {
    "three axes": (lambda rgb, sigma: (rgb[0], sigma), "rgb has shape"),
    "four channels": (lambda rgb, sigma: (rgb[:, [0, 1, 2, 2]], sigma), "rgb has shape"),
    "nothing": (lambda rgb, sigma: (rgb[:0], sigma[:0]), "rgb has shape"),
    "bytes": (lambda rgb, sigma: (rgb.byte(), sigma), "rgb is torch.uint8"),
    "half precision": (lambda rgb, sigma: (rgb.half(), sigma), "rgb is torch.float16"),
    "another batch": (lambda rgb, sigma: (rgb, sigma[:1]), "sigma has shape"),
    "another size": (lambda rgb, sigma: (rgb, sigma[..., 1:]), "sigma has shape"),
    "a wrong margin": (lambda rgb, sigma: (rgb, sigma, 1), "margin of 1 px"),
    "a negative margin": (lambda rgb, sigma: (rgb, sigma, -1), "margin of -1 px"),
    "whole numbers": (lambda rgb, sigma: (rgb, sigma.long()), "sigma is torch.int64"),
    "another device": (lambda rgb, sigma: (rgb, sigma.to("meta")), "meta"),
    "a negative sigma": (lambda rgb, sigma: (rgb, sigma - 9), "sigma has NaN"),
    "a sigma of NaN": (lambda rgb, sigma: (rgb, sigma * math.nan), "sigma has NaN"),
    "a sigma beyond float32": (lambda rgb, sigma: (rgb, sigma + 1e39), "sigma has NaN"),
    "an image of NaN": (lambda rgb, sigma: (rgb * math.nan, sigma), "rgb has NaN"),
    "an infinite image": (lambda rgb, sigma: (rgb / 0, sigma), "rgb has NaN"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_refused_in_one_line(mistake):
    change, what = MISTAKES[mistake]
    with pytest.raises(HDEDError, match=what) as caught:
        gaussian_gather_batch(*change(*scene(2, 5, 6, 2.0)))
    assert "\n" not in str(caught.value)
