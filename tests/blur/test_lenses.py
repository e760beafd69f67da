"""The lenses in torch against the thin lens in numpy."""

import numpy as np
import pytest
import torch
from support.cameras import CAMERAS

from hded.blur.lenses import coc_px, max_sigma_px, sigma_px
from hded.optics import ThinLens

DEPTH_M = np.geomspace(0.3, 60, 200).reshape(1, 1, 10, 20)


def lenses_of() -> list[ThinLens]:
    rng = np.random.default_rng(0)
    return [camera.lens(DEPTH_M, 640, rng) for camera in CAMERAS.values()]


@pytest.mark.parametrize("n", range(len(CAMERAS)))
def test_coc_and_sigma_are_those_of_the_thin_lens(n: int) -> None:
    lens = lenses_of()[n]
    rows = torch.tensor([lens.row()])
    depth_m = torch.from_numpy(DEPTH_M).float()
    expected = lens.coc_px(DEPTH_M)
    np.testing.assert_allclose(coc_px(depth_m, rows).numpy(), expected, rtol=1e-4, atol=1e-4)
    expected = lens.sigma_px(DEPTH_M)
    np.testing.assert_allclose(sigma_px(depth_m, rows).numpy(), expected, rtol=1e-4, atol=1e-4)
    assert max_sigma_px(rows) >= expected.max() > 0


def test_each_image_of_a_batch_has_its_own_lens() -> None:
    rows = torch.tensor([lens.row() for lens in lenses_of()])
    depth_m = torch.full((len(rows), 1, 2, 2), 3.5)
    found = sigma_px(depth_m, rows)[:, 0, 0, 0].tolist()
    assert found == pytest.approx([float(lens.sigma_px(3.5)) for lens in lenses_of()], rel=1e-4)


def test_sigma_has_a_gradient_that_moves_depth_towards_the_blur() -> None:
    rows = torch.tensor([lenses_of()[0].row()])
    depth_m = torch.full((1, 1, 1, 1), 3.0, requires_grad=True)
    sigma_px(depth_m, rows).sum().backward()
    assert depth_m.grad is not None and depth_m.grad.item() > 0  # beyond the focus, at 2 m
