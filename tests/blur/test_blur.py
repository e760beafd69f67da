"""The per-pixel Gaussian: the reference against scipy, the fast path against the reference."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from hded.blur import gaussian_gather, gaussian_gather_reference
from hded.common.errors import HDEDError

BOTH = pytest.mark.parametrize("blur", [gaussian_gather, gaussian_gather_reference])
TOLERANCE = 1e-4


def image(height: int, width: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    rgb = np.random.default_rng(seed).random((height, width, 3))
    return np.rint(rgb * 255).astype(np.uint8) if dtype is np.uint8 else rgb.astype(dtype)


def unit(rgb: np.ndarray) -> np.ndarray:
    return rgb / 255.0 if rgb.dtype == np.uint8 else rgb.astype(np.float64)


def plain_loop(rgb: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """The definition, tap by tap, with each index folded back at the borders by hand."""

    def folded(i: int, n: int) -> int:
        i %= 2 * n
        return i if i < n else 2 * n - 1 - i

    height, width = sigma.shape
    out = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            s = float(np.float32(sigma[y, x]))
            if s < 0.1:
                out[y, x] = rgb[y, x]
                continue
            r, total = math.ceil(3 * s), 0.0
            for dy in range(-r, r + 1):
                for dx in range(-r, r + 1):
                    w = math.exp(-(dy * dy + dx * dx) / (2 * s * s))
                    out[y, x] += w * rgb[folded(y + dy, height), folded(x + dx, width)]
                    total += w
            out[y, x] /= total
    return out


@pytest.mark.parametrize("size", [(6, 7), (1, 9), (9, 1), (1, 1), (2, 5)])
def test_the_reference_is_the_definition(size):
    rgb = image(*size)
    sigma = np.random.default_rng(1).choice([0, 0.05, 0.1, 0.18, 0.7, 1.0, 2.4], size)
    np.testing.assert_allclose(
        gaussian_gather_reference(rgb, sigma), plain_loop(rgb, sigma), rtol=0, atol=1e-12
    )


@settings(max_examples=120)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    largest=st.floats(0, 20),
    kind=st.sampled_from(["rough", "flat", "steps", "edge of the support"]),
    dtype=st.sampled_from([np.uint8, np.float16, np.float32, np.float64]),
    layout=st.sampled_from(["plain", "every second", "mirrored", "transposed", "channels first"]),
    seed=st.integers(0, 2**16),
)
def test_the_fast_path_agrees_with_the_reference(height, width, largest, kind, dtype, layout, seed):
    rng = np.random.default_rng(seed)
    if kind == "flat":
        sigma = np.full((height, width), largest)
    elif kind == "steps":
        sigma = np.repeat(rng.uniform(0, largest, (height, -(-width // 3))), 3, axis=1)[:, :width]
    elif kind == "edge of the support":
        # around whole numbers of 3 sigma, and around the smallest sigma that blurs
        sigma = rng.choice([0.0, 0.1, 1 / 3, 2 / 3, 1.0, 4 / 3, 2.0], (height, width))
        sigma = np.nextafter(sigma.astype(np.float32), np.float32(rng.choice([-1, 0, 30])))
        sigma = np.maximum(sigma, 0)
    else:
        sigma = rng.uniform(0, largest, (height, width))
    rgb = image(height, width, seed, dtype)
    if layout == "every second":
        rgb = np.repeat(np.repeat(rgb, 2, 0), 2, 1)[::2, ::2]
        sigma = np.repeat(sigma, 2, 1)[:, ::2]
    elif layout == "mirrored":
        rgb, sigma = rgb[:, ::-1], sigma[::-1]
    elif layout == "transposed":
        rgb, sigma = rgb.transpose(1, 0, 2), sigma.T
    elif layout == "channels first":
        rgb = np.ascontiguousarray(rgb.transpose(2, 0, 1)).transpose(1, 2, 0)
    before = rgb.copy(), sigma.copy()
    fast = gaussian_gather(rgb, sigma)
    assert fast.dtype == np.float32 and fast.shape == rgb.shape
    np.testing.assert_allclose(fast, gaussian_gather_reference(rgb, sigma), rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(rgb, before[0])
    np.testing.assert_array_equal(sigma, before[1])


@pytest.mark.parametrize("size", [(40, 53), (61, 37), (1, 60), (60, 1)])
def test_the_fast_path_agrees_on_larger_frames_with_depth_edges(size):
    rng = np.random.default_rng(2)
    sigma = np.where(rng.random(size) < 0.5, 0.0, rng.uniform(0, 7.25, size))
    sigma[: size[0] // 2] = 7.25
    rgb = image(*size, dtype=np.uint8)
    np.testing.assert_allclose(
        gaussian_gather(rgb, sigma), gaussian_gather_reference(rgb, sigma), rtol=0, atol=TOLERANCE
    )


@BOTH
@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 1.7, 3.3, 7.25, 12.0])
@pytest.mark.parametrize("size", [(21, 26), (5, 8)])
def test_one_sigma_everywhere_is_scipys_gaussian_filter(blur, sigma, size):
    rgb = image(*size)
    sigma = float(np.float32(sigma))
    expected = gaussian_filter(rgb, sigma, mode="reflect", radius=math.ceil(3 * sigma), axes=(0, 1))
    out = blur(rgb, np.full(size, sigma))
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)


@BOTH
@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_a_constant_image_stays_constant(blur, value):
    sigma = np.random.default_rng(0).uniform(0, 9, (14, 17))
    rgb = np.full((14, 17, 3), value)
    np.testing.assert_allclose(blur(rgb, sigma), rgb, rtol=0, atol=2e-6)


@BOTH
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.0999])
def test_a_sigma_below_a_tenth_of_a_pixel_leaves_the_pixel_alone(blur, sigma):
    rgb = image(8, 9, dtype=np.float32)
    np.testing.assert_array_equal(blur(rgb, np.full((8, 9), sigma)), rgb)


@BOTH
def test_sharp_pixels_stay_sharp_beside_blurred_ones(blur):
    rgb, sigma = image(12, 15, dtype=np.float32), np.zeros((12, 15))
    sigma[:, 8:] = 3.0
    out = blur(rgb, sigma)
    np.testing.assert_array_equal(out[:, :8], rgb[:, :8])
    assert np.abs(out[:, 8:] - rgb[:, 8:]).max() > 0.1


@BOTH
def test_each_pixel_looks_at_its_own_sigma_alone(blur):
    rgb, rng = image(13, 11), np.random.default_rng(5)
    sigma, other = rng.uniform(0, 4, (13, 11)), rng.uniform(0, 4, (13, 11))
    other[6, 5] = sigma[6, 5]
    np.testing.assert_allclose(blur(rgb, sigma)[6, 5], blur(rgb, other)[6, 5], rtol=0, atol=1e-6)


@BOTH
def test_a_pixel_stays_within_the_range_of_its_support(blur):
    rgb = image(16, 18)
    sigma = np.random.default_rng(3).uniform(0, 3, (16, 18))
    out = blur(rgb, sigma)
    for y, x in np.ndindex(sigma.shape):
        r = math.ceil(3 * np.float32(sigma[y, x]))
        window = rgb[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
        assert (out[y, x] >= window.min((0, 1)) - 2e-6).all()
        assert (out[y, x] <= window.max((0, 1)) + 2e-6).all()


@BOTH
def test_away_from_the_borders_the_mean_is_kept(blur):
    rgb = np.zeros((60, 60, 3))
    rgb[25:35, 25:35] = image(10, 10)
    out = blur(rgb, np.full((60, 60), 3.0))
    np.testing.assert_allclose(out.mean((0, 1)), rgb.mean((0, 1)), rtol=1e-5)


@BOTH
@pytest.mark.parametrize("thirds", [1, 2, 3, 4, 5, 11, 20, 29])
@pytest.mark.parametrize("towards", [0, None, 99])
def test_the_support_ends_at_three_sigma_rounded_up(blur, thirds, towards):
    # the nearest float32 to a number of thirds, and its neighbours on either side
    sigma = np.float32(thirds / 3)
    sigma = sigma if towards is None else np.nextafter(sigma, np.float32(towards))
    rgb = np.zeros((1, 81, 3))
    rgb[0, 40] = 1
    columns = np.nonzero(blur(rgb, np.full((1, 81), sigma))[0, :, 1])[0]
    radius = math.ceil(3 * float(sigma))
    assert (columns.min(), columns.max()) == (40 - radius, 40 + radius)


@BOTH
def test_the_support_is_square(blur):
    rgb = np.zeros((41, 41, 3))
    rgb[20, 20] = 1
    out = blur(rgb, np.full((41, 41), 1.5))
    assert (out[15:26, 15:26] > 0).all() and np.count_nonzero(out) == 11 * 11 * 3


@BOTH
def test_bytes_and_floats_of_one_image_give_one_result(blur):
    rgb, sigma = image(9, 9, dtype=np.uint8), np.full((9, 9), 1.3)
    np.testing.assert_allclose(blur(rgb, sigma), blur(unit(rgb), sigma), rtol=0, atol=1e-6)


@BOTH
@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 4)),
        np.zeros((4, 4, 4)),
        np.zeros((1, 4, 4, 3)),
        np.zeros((0, 4, 3)),
        np.zeros((4, 4, 3), np.int32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 3), np.complex128),
        np.zeros((4, 4, 3), bool),
    ],
    ids=lambda rgb: f"{rgb.dtype}{rgb.shape}",
)
def test_what_is_no_rgb_image_is_refused(blur, rgb):
    with pytest.raises(HDEDError, match="rgb"):
        blur(rgb, np.zeros(rgb.shape[:2]))


@BOTH
@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (4, 4, 1), (), (16,)])
def test_a_sigma_of_another_shape_is_refused(blur, shape):
    with pytest.raises(HDEDError, match="sigma has shape"):
        blur(np.zeros((4, 4, 3)), np.zeros(shape))


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1j])
def test_a_sigma_that_is_no_length_is_refused(blur, value):
    sigma = np.zeros((4, 4), np.asarray(value).dtype)
    sigma[2, 1] = value
    with pytest.raises(HDEDError, match="sigma") as caught:
        blur(np.zeros((4, 4, 3)), sigma)
    assert "\n" not in str(caught.value)


@BOTH
def test_a_sigma_beyond_float32_is_refused(blur):
    sigma = np.zeros((4, 4))
    sigma[0, 0] = 1e39
    with pytest.raises(HDEDError, match="sigma"):
        blur(np.zeros((4, 4, 3)), sigma)


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pixel_that_is_no_number_is_refused(blur, value):
    """Its blur would be no number either, over the whole support."""
    rgb = np.zeros((4, 4, 3))
    rgb[1, 2, 0] = value
    with pytest.raises(HDEDError, match="rgb"):
        blur(rgb, np.zeros((4, 4)))


@BOTH
@pytest.mark.parametrize("margin", [0, 1, 4, 9, 30])
def test_a_crop_with_its_surroundings_is_blurred_as_in_the_whole_image(blur, margin):
    """Where the margin holds the support, and where it does not but the image ends there too."""
    rng = np.random.default_rng(8)
    rgb, sigma = image(70, 75, dtype=np.uint8), rng.uniform(0, 3, (70, 75))
    top, left, height, width = 30, 31, 9, 12
    inside = slice(top, top + height), slice(left, left + width)
    around = (
        slice(top - margin, top + height + margin),
        slice(left - margin, left + width + margin),
    )
    out = blur(rgb[around], sigma[inside], margin_px=margin)
    assert out.shape == (height, width, 3)
    if margin >= 9:
        np.testing.assert_allclose(out, blur(rgb, sigma)[inside], rtol=0, atol=2e-7)
    # what lies beyond the margin is mirrored: as in an image that ends with it
    whole = np.zeros(rgb[around].shape[:2])
    whole[margin : margin + height, margin : margin + width] = sigma[inside]
    ends_there = blur(rgb[around], whole)
    ends_there = ends_there[margin : margin + height, margin : margin + width]
    np.testing.assert_allclose(out, ends_there, rtol=0, atol=2e-7)


@BOTH
@pytest.mark.parametrize("margin", [-1, 2, 3])
def test_a_margin_that_does_not_fit_is_refused(blur, margin):
    with pytest.raises(HDEDError, match="blur"):
        blur(np.zeros((6, 6, 3)), np.zeros((4, 4)), margin_px=margin)


def test_the_reference_gives_one_value_however_sigma_is_rounded():
    """Sigma is float32 to both: a float64 just above a third must not widen the reference alone."""
    rgb = image(9, 9)
    sigma = np.full((9, 9), 1 / 3 + 1e-9)
    np.testing.assert_allclose(
        gaussian_gather(rgb, sigma), gaussian_gather_reference(rgb, sigma), rtol=0, atol=1e-6
    )
