"""Restoration by deconvolution: a network's depth and the lens say how each pixel was blurred."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hded.blur.holes import fill_holes
from hded.common.errors import HDEDError
from hded.common.resize import resize_bilinear
from hded.config.schema import Restoration
from hded.deconvolution import (
    Image,
    deconvolve_total_variation,
    deconvolve_with_denoiser,
)
from hded.network.torch_io import autocast
from hded.optics import ThinLens

FIRST_LEVEL, LAST_LEVEL = 49 / 255, 5 / 255  # of the noise that a denoiser removes (IRCNN)


@dataclass(frozen=True, slots=True)
class Deconvolution:
    """The method that `evaluate.restoration` chooses; `denoiser`: the network's, if it has one.

    Raises HDEDError for a method that needs a denoiser where there is none.
    """

    settings: Restoration
    denoiser: nn.Module | None

    def __post_init__(self) -> None:
        if self.settings.method == "denoiser" and self.denoiser is None:
            raise HDEDError(
                "evaluate.restoration.method is denoiser, and the network has none; set "
                "network.denoiser to true, or the method to total_variation"
            )

    def __call__(
        self, defocused: NDArray[np.uint8], depth_m: NDArray[np.float32], lens: ThinLens
    ) -> NDArray[np.uint8]:
        """Return the all-in-focus image (H, W, 3) of a defocused one.

        depth_m: (h, w), enlarged to the image's size where it is smaller; 0 where unknown, where
        the nearest known depth counts.
        """
        depth_m = fill_holes(depth_m)
        if depth_m.shape != defocused.shape[:2]:
            depth_m = resize_bilinear(depth_m, defocused.shape[:2])
        sigma = lens.sigma_px(depth_m)
        blurred = defocused.astype(np.float32) / np.float32(255)
        how = self.settings
        if how.method == "denoiser":
            levels = np.geomspace(FIRST_LEVEL, LAST_LEVEL, how.iterations).tolist()
            restored = deconvolve_with_denoiser(
                blurred, sigma, self._denoise, levels, how.weight, how.steps
            )
        else:
            restored = deconvolve_total_variation(
                blurred, sigma, how.weight, how.iterations, how.steps
            )
        return np.rint(np.clip(restored, 0, 1) * 255).astype(np.uint8)

    @torch.no_grad()
    def _denoise(self, image: Image, level: float) -> Image:
        assert self.denoiser is not None
        device = next(self.denoiser.parameters()).device
        given = torch.from_numpy(image).movedim(-1, 0)[None].to(device)
        given = given.contiguous(memory_format=torch.channels_last)  # faster, as are its weights
        with autocast(device, self.settings.precision):
            found = self.denoiser(given, torch.tensor([level], device=device))
        return found[0].float().movedim(0, -1).contiguous().cpu().numpy()
