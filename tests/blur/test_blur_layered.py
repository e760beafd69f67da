"""The layered renderer: against known backgrounds, the gather, and its plain definition."""

import math
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from support.imports import ROOT

from hded.blur import gaussian_gather, gaussian_gather_reference, layered_blur
from hded.common.errors import HDEDError

SIZE = (90, 120)
OBJECT = (slice(25, 65), slice(40, 80))


def texture(seed: int, smooth_px: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    rough = np.random.default_rng(seed).random((*size, 3))
    smooth = gaussian_filter(rough, (smooth_px, smooth_px, 0))
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    if sigma == 0:
        return image
    radius = math.ceil(3 * sigma)
    return gaussian_filter(image, sigma, mode="reflect", radius=radius, axes=(0, 1))


def two_planes(near_coc: float, far_coc: float, background_px: float) -> tuple[np.ndarray, ...]:
    """An object before a background that is known behind it too: image, CoC, sigma, the truth."""
    inside = np.zeros(SIZE)
    inside[OBJECT] = 1
    front, back = texture(1, 1.0), texture(2, background_px)
    image = np.where(inside[..., None] > 0, front, back)
    coc = np.where(inside > 0, near_coc, far_coc).astype(np.float32)
    near, far = abs(near_coc) / 4, abs(far_coc) / 4
    cover = blurred(inside[..., None], near)
    truth = (1 - cover) * blurred(back, far) + blurred(inside[..., None] * front, near)
    return image, coc, np.abs(coc) / 4, truth


@pytest.mark.parametrize(
    ("near_coc", "far_coc", "share"),
    [(0.0, 12.0, 0.5), (-12.0, 0.0, 0.2), (-8.0, 12.0, 0.5), (4.0, 16.0, 0.5)],
    ids=["sharp object", "blurred object", "both sides of the focus", "both beyond it"],
)
def test_an_object_before_a_known_background_is_rendered_as_optics_would(near_coc, far_coc, share):
    """The background is smooth, so that what the object hides can be guessed."""
    image, coc, sigma, truth = two_planes(near_coc, far_coc, background_px=20.0)
    layered = np.abs(layered_blur(image, coc, sigma) - truth)
    gather = np.abs(gaussian_gather(image, sigma) - truth)
    assert layered.mean() < share * gather.mean()
    assert layered.max() < 0.035 and gather.max() > 0.03


def test_nothing_bleeds_over_a_sharp_object_nor_from_it():
    red_object = np.zeros((60, 60, 3))
    red_object[..., 2] = 1
    inside = np.zeros((60, 60), bool)
    inside[20:40, 20:40] = True
    red_object[inside] = (1, 0, 0)
    coc = np.where(inside, 0, 16).astype(np.float32)
    out = layered_blur(red_object, coc, coc / 4)
    np.testing.assert_allclose(out[inside], red_object[inside], rtol=0, atol=1e-6)
    np.testing.assert_allclose(out[~inside], red_object[~inside], rtol=0, atol=1e-6)
    assert gaussian_gather(red_object, coc / 4)[~inside][:, 0].max() > 0.3


def test_a_blurred_object_has_a_soft_outline_over_a_sharp_background():
    step = np.zeros((40, 80, 3))
    step[:, :40] = 1
    coc = np.where(np.arange(80) < 40, -12.0, 0.0).astype(np.float32) * np.ones((40, 1), np.float32)
    profile = layered_blur(step, coc, np.abs(coc) / 4)[20, :, 0]
    assert (np.diff(profile) <= 1e-6).all()
    assert np.abs(np.diff(profile)).max() < 0.15  # 1 / (3 sqrt(2 pi)) where it is steepest
    assert (profile[39] + profile[40]) / 2 == pytest.approx(0.5, abs=0.01)
    gather = gaussian_gather(step, np.abs(coc) / 4)[20, :, 0]
    assert gather[39] - gather[40] > 0.4  # the outline that stays hard


# ---- slanted surfaces ----


def floor(near_coc: float, far_coc: float, size: tuple[int, int] = (120, 64)) -> np.ndarray:
    """CoC of a floor: 1/depth, and so CoC, changes evenly with the row."""
    rows = np.linspace(near_coc, far_coc, size[0]).astype(np.float32)
    return np.repeat(rows[:, None], size[1], 1)


def laid_over(image: np.ndarray, coc: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Every row of a floor as a layer of its own, blurred and laid over what lies behind."""
    out, weight = np.zeros(image.shape), np.zeros(coc.shape)
    for row in np.argsort(-coc[:, 0], kind="stable"):
        mask = np.zeros(coc.shape)
        mask[row] = 1
        s = float(sigma[row, 0])
        cover = blurred(mask[..., None], s if s >= 0.1 else 0)[..., 0]
        light = blurred(mask[..., None] * image, s if s >= 0.1 else 0)
        out = (1 - cover)[..., None] * out + light
        weight = (1 - cover) * weight + cover
    return out / np.maximum(weight, 1e-9)[..., None]


@pytest.mark.parametrize(("near_coc", "far_coc"), [(-20, -2), (2, 20), (-15, 15), (-29, 10)])
def test_a_slanted_surface_is_blurred_as_by_the_gather_and_not_pulled_towards_the_viewer(
    near_coc, far_coc
):
    coc = floor(near_coc, far_coc)
    sigma, rows = np.abs(coc) / 4, np.arange(len(coc))

    def shift(blur) -> float:
        """How far the light of a bright line moves, at most."""
        shifts = []
        for row in range(28, 92, 8):
            line = np.zeros((*coc.shape, 3))
            line[row] = 1
            light = np.asarray(blur(line))[:, 32, 0]
            shifts.append(abs((light * rows).sum() / light.sum() - row))
        return max(shifts)

    assert shift(lambda image: layered_blur(image, coc, sigma)) < 0.1
    assert shift(lambda image: laid_over(image, coc, sigma)) > 0.5
    image = texture(3, 1.0, coc.shape)
    difference = np.abs(layered_blur(image, coc, sigma) - gaussian_gather(image, sigma))
    assert difference.mean() < 0.004 and difference.max() < 0.05


# ---- limits and invariants ----


@pytest.mark.parametrize("size", [(33, 47), (1, 40), (40, 1), (1, 1), (5, 3)])
@pytest.mark.parametrize("coc", [0.3, -1.6, 9.2, -29.0])
def test_constant_depth_is_the_gather_everywhere(size, coc):
    image, plane = np.random.default_rng(0).random((*size, 3)), np.full(size, coc, np.float32)
    expected = gaussian_gather_reference(image, np.abs(plane) / 4)
    out = layered_blur(image, plane, np.abs(plane) / 4)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)


def test_what_is_in_focus_stays_as_it_is():
    rgb = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    coc = np.random.default_rng(2).uniform(-0.39, 0.39, (20, 30)).astype(np.float32)
    np.testing.assert_allclose(layered_blur(rgb, coc, np.abs(coc) / 4), rgb / 255, atol=1e-6)


def rough_scene(seed: int, size: tuple[int, int], largest: float) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    coc = rng.uniform(-largest, largest, size)
    if seed % 2:  # a few planes
        coc = rng.choice(rng.uniform(-largest, largest, 4), size)
    return rng.random((*size, 3)), coc.astype(np.float32)


@settings(max_examples=40)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    largest=st.floats(0, 29),
    seed=st.integers(0, 999),
)
def test_light_is_mixed_and_never_made(height, width, largest, seed):
    image, coc = rough_scene(seed, (height, width), largest)
    out = layered_blur(image, coc, np.abs(coc) / 4)
    assert out.dtype == np.float32 and out.shape == image.shape
    assert np.isfinite(out).all()
    low, high = image.min((0, 1)), image.max((0, 1))
    assert (out >= low - 1e-5).all() and (out <= high + 1e-5).all()
    flat = np.full(image.shape, 0.37)
    np.testing.assert_allclose(layered_blur(flat, coc, np.abs(coc) / 4), flat, atol=1e-5)


def plainly(image: np.ndarray, coc: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """The definition, one pixel and one ray at a time, in float64."""
    height, width = coc.shape
    radius = np.where(sigma < np.float32(0.1), 0, np.ceil(3 * sigma.astype(np.float64))).astype(int)

    def covers(near: float, far: float) -> bool:
        return far - near > 0.25 * max(abs(near), abs(far))

    edges = []
    for y, x in np.ndindex(coc.shape):
        for j, i in ((y + 1, x), (y, x + 1)):
            if j < height and i < width:
                a, b = float(coc[y, x]), float(coc[j, i])
                if abs(a - b) > max(1.0, 0.25 * max(abs(a), abs(b))):
                    edges += [(y, x), (j, i)]

    def to_edge(y: int, x: int) -> float:
        return min((max(abs(y - j), abs(x - i)) for j, i in edges), default=math.inf)

    # every source: place, colour, CoC, sigma, radius
    sources = [
        (y, x, image[y, x], coc[y, x], sigma[y, x], radius[y, x]) for y, x in np.ndindex(coc.shape)
    ]
    for y, x in np.ndindex(coc.shape):
        r = radius[y, x]
        if r == 0 or to_edge(y, x) > r:
            continue
        seen = [
            ((j - y) ** 2 + (i - x) ** 2, j, i)
            for j in range(max(0, y - r), min(height, y + r + 1))
            for i in range(max(0, x - r), min(width, x + r + 1))
            if covers(float(coc[y, x]), float(coc[j, i]))
        ]
        if seen:
            weights = np.array([1 / d for d, _, _ in seen])
            colour = (weights[:, None] * [image[j, i] for _, j, i in seen]).sum(0) / weights.sum()
            _, j, i = min(seen)
            sources.append((y, x, colour, coc[j, i], sigma[j, i], radius[j, i]))
    low = float(coc.min())
    step = max((float(coc.max()) - low) / 256, 1e-6)

    def middle(c: float) -> tuple[int, float]:
        layer = min(int((c - low) / step), 255)
        return layer, low + step * (layer + 0.5)

    pad = int(radius.max())
    out = np.zeros(image.shape)
    for y, x in np.ndindex(coc.shape):
        light: dict[int, np.ndarray] = {}
        reach = 0
        for sy, sx, colour, c, s, r in sources:
            k = np.arange(-int(r), int(r) + 1)
            total = np.exp(-(k**2) / (2 * float(s) ** 2)).sum() if r else 1.0
            for j in copies(sy, height, pad):
                for i in copies(sx, width, pad):
                    dy, dx = abs(j - y), abs(i - x)
                    if max(dy, dx) <= pad:
                        reach = max(reach, r)
                    if max(dy, dx) <= r:
                        w = math.exp(-(dy**2 + dx**2) / (2 * float(s) ** 2)) if r else 1.0
                        layer = middle(float(c))[0]
                        light.setdefault(layer, np.zeros(4))
                        light[layer] += w / total**2 * np.array([*colour, 1.0])
        numerator, denominator = np.zeros(3), 0.0
        for far in light:
            covered = sum(
                light[near][3]
                for near in light
                if covers(low + step * (near + 0.5), low + step * (far + 0.5))
            )
            seen_share = max(0.0, 1 - covered) if to_edge(y, x) <= 2 * reach else 1.0
            numerator += seen_share * light[far][:3]
            denominator += seen_share * light[far][3]
        out[y, x] = numerator / denominator
    return out


def copies(i: int, n: int, pad: int) -> list[int]:
    """Where row or column i of n lies in an axis that is mirrored `pad` beyond its ends."""
    mirrored = np.pad(np.arange(n), pad, mode="symmetric")
    return [int(p) - pad for p in np.flatnonzero(mirrored == i)]


@settings(max_examples=25)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    largest=st.floats(1, 10),
    seed=st.integers(0, 999),
)
def test_the_kernel_is_the_definition(height, width, largest, seed):
    image, coc = rough_scene(seed, (height, width), largest)
    sigma = np.abs(coc) / 4
    expected = plainly(image, coc, sigma)
    np.testing.assert_allclose(layered_blur(image, coc, sigma), expected, rtol=0, atol=2e-5)


def test_the_number_of_threads_changes_nothing(tmp_path):
    image, coc = rough_scene(3, (40, 50), 20.0)
    np.savez(tmp_path / "given.npz", image=image, coc=coc)
    program = (
        "import numpy as np; from hded.blur import layered_blur; given = np.load('given.npz')\n"
        "out = layered_blur(given['image'], given['coc'], np.abs(given['coc']) / 4)\n"
        "np.save('out.npy', out)\n"
    )
    env = os.environ | {"NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, check=True)
    # this process has one thread: see tests/conftest.py
    assert numba.get_num_threads() == 1
    one = layered_blur(image, coc, np.abs(coc) / 4)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), one)


def test_the_arguments_are_left_as_they_are_whatever_their_layout():
    image, coc = rough_scene(4, (24, 31), 12.0)
    sigma = np.abs(coc) / 4
    expected = layered_blur(image, coc, sigma)
    for change in (np.asfortranarray, lambda array: np.repeat(array, 2, 0)[::2]):
        given = [change(array) for array in (image, coc, sigma)]
        before = [array.copy() for array in given]
        np.testing.assert_array_equal(layered_blur(*given), expected)
        for array, copy in zip(given, before, strict=True):
            np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("coc", "what"),
    [
        (np.zeros((4, 5)), "coc has shape"),
        (np.full((4, 4), np.nan), "finite"),
        (np.full((4, 4), np.inf), "finite"),
    ],
)
def test_a_coc_that_does_not_fit_is_refused(coc, what):
    with pytest.raises(HDEDError, match=what):
        layered_blur(np.zeros((4, 4, 3)), coc, np.zeros((4, 4)))


def test_an_image_or_a_sigma_that_does_not_fit_is_refused():
    with pytest.raises(HDEDError, match="rgb"):
        layered_blur(np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((4, 4)))
    with pytest.raises(HDEDError, match="sigma"):
        layered_blur(np.zeros((4, 4, 3)), np.zeros((4, 4)), np.full((4, 4), -1.0))
