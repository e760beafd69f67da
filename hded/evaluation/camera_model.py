"""The model of a camera against the camera: how much blur it has at which depth.

Pairs of photographs of one scene are compared, one defocused and one (nearly) in focus, with the
scene's depth. In small windows of even depth, the Gaussian that turns the sharp photograph into the
defocused one is the measured blur. It is relative to the sharp photograph: blur that both have
cancels, and what the sharp one has itself must be taken off the model's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter, uniform_filter
from scipy.optimize import least_squares, minimize_scalar

from hded.blur import gaussian_gather, layered_blur
from hded.blur.holes import fill_holes
from hded.metrics import psnr
from hded.optics import ThinLens

WINDOW_PX, STRIDE_PX = 41, 20
LARGEST_SIGMA_PX, STEP_PX = 6.0, 0.05
EVEN_DEPTH = 1.05  # largest over smallest depth of a window
LEAST_DETAIL = 0.02  # standard deviation of the fine detail of a window, of values in [0, 1]
DETAIL_PX = 2.0  # finer than this blur
LEAST_WINDOWS = 30  # of a depth that is shown


@dataclass(frozen=True, slots=True)
class Law:
    """sigma^2 = (gain * (1 - focus / depth))^2 + floor^2, in px and metres."""

    gain_px: float
    focus_m: float
    floor_px: float

    def __call__(self, depth_m: NDArray) -> NDArray:
        """Return sigma [px] at a depth [m]."""
        return np.hypot(self.gain_px * (1 - self.focus_m / depth_m), self.floor_px)


def measure_windows(
    sharp: NDArray[np.uint8], defocused: NDArray[np.uint8], depth_m: NDArray[np.float32]
) -> pd.DataFrame:
    """Return depth_m and sigma_px of every window of even depth that has detail.

    sharp, defocused: (H, W, 3), registered; depth_m: (H, W), 0 where unknown.
    """
    x, y = (image.mean(-1) / 255 for image in (sharp, defocused))
    sigmas = np.arange(0, LARGEST_SIGMA_PX + STEP_PX / 2, STEP_PX)
    rows, columns = (slice(WINDOW_PX // 2, n - WINDOW_PX // 2, STRIDE_PX) for n in x.shape)
    errors = np.stack(
        [
            _spread(gaussian_filter(x, s) if s else x, y)[rows, columns] for s in sigmas
        ]
    )  # fmt: skip
    best = errors.argmin(0)
    inside = (best > 0) & (best < len(sigmas) - 1)
    near = np.clip(best, 1, len(sigmas) - 2)
    left, middle, right = (np.take_along_axis(errors, near[None] + d, 0)[0] for d in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(inside & (bend > 0), 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0)
    sigma = sigmas[best] + STEP_PX * shift
    fine = x - gaussian_filter(x, DETAIL_PX)
    detail = np.sqrt(_spread(fine, np.zeros_like(fine)))[rows, columns]
    low, high = (f(depth_m, WINDOW_PX)[rows, columns] for f in (minimum_filter, maximum_filter))
    depth = uniform_filter(depth_m.astype(np.float64), WINDOW_PX)[rows, columns]
    good = (low > 0) & (high < EVEN_DEPTH * low) & (detail > LEAST_DETAIL)
    good &= best < len(sigmas) - 1
    return pd.DataFrame({"depth_m": depth[good], "sigma_px": sigma[good]})


def fit_law(windows: pd.DataFrame) -> Law:
    """Return the law that fits the windows best, by least squares that outliers move little."""
    depth, sigma = windows["depth_m"].to_numpy(), windows["sigma_px"].to_numpy()

    def residuals(parameters: NDArray) -> NDArray:
        return Law(*parameters)(depth) - sigma

    farthest = max(20.0, 2 * float(depth.max()))
    start = (
        min(float(sigma.max()), 50.0),
        float(np.clip(np.median(depth), 0.05, farthest)),
        0.3,
    )
    bounds = ([0, 0.05, 0], [50, farthest, 5])
    found = least_squares(residuals, start, bounds=bounds, loss="soft_l1", f_scale=0.2)
    return Law(*map(float, found.x))


def by_depth(windows: pd.DataFrame, bins: int = 16) -> pd.DataFrame:
    """Return median and quartiles of sigma [px] over bins of inverse depth, in which blur is even.

    Columns depth_m (of the bin's middle), windows, q1, median, q3.
    """
    inverse = 1 / windows["depth_m"]
    edges = np.linspace(inverse.min(), inverse.max() * (1 + 1e-9), bins + 1)
    place = np.digitize(inverse, edges) - 1
    rows = []
    for i in reversed(range(bins)):
        sigma = windows["sigma_px"][place == i]
        if len(sigma) >= LEAST_WINDOWS:
            q1, median, q3 = np.quantile(sigma, (0.25, 0.5, 0.75))
            middle = 2 / (edges[i] + edges[i + 1])
            rows.append(
                {"depth_m": middle, "windows": len(sigma), "q1": q1, "median": median, "q3": q3}
            )
    return pd.DataFrame(rows, columns=["depth_m", "windows", "q1", "median", "q3"])


def relative_sigma_px(lens: ThinLens, of_sharp: ThinLens | None, depth_m: NDArray) -> NDArray:
    """Return the lens's sigma [px] less that of the sharp photograph's lens, in squares."""
    sigma = lens.sigma_px(depth_m)
    if of_sharp is None:
        return sigma
    rest = sigma.astype(np.float64) ** 2 - of_sharp.sigma_px(depth_m).astype(np.float64) ** 2
    return np.sqrt(np.maximum(rest, 0)).astype(np.float32)


def explained(
    sharp: NDArray[np.uint8],
    defocused: NDArray[np.uint8],
    depth_m: NDArray[np.float32],
    sigma_of: Callable[[NDArray], NDArray],
    coc_of: Callable[[NDArray], NDArray],
    law: Law,
) -> Iterator[tuple[str, float]]:
    """Yield the PSNR [dB] of what the sharp photograph becomes, against the defocused one.

    `sharp`: as it is; `uniform`: blurred alike everywhere, by the sigma that fits best; `gather`
    and `layered`: by depth, by both renderers; `fitted`: by the law, which other pairs gave, and
    the renderer gather. sigma_of, coc_of: of depth (H, W) [m], by the model.
    """
    unit = sharp / np.float32(255)

    def bytes_of(image: NDArray) -> NDArray[np.uint8]:
        return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)

    def uniform(sigma: float) -> NDArray[np.uint8]:
        return bytes_of(gaussian_filter(unit, (sigma, sigma, 0)))

    yield "sharp", psnr(sharp, defocused)
    best = minimize_scalar(
        lambda sigma: -psnr(uniform(sigma), defocused),
        bounds=(0, LARGEST_SIGMA_PX), method="bounded", options={"xatol": 0.02},
    )  # fmt: skip
    yield "uniform", -float(best.fun)
    filled = fill_holes(depth_m)
    sigma, coc = (f(filled).astype(np.float32) for f in (sigma_of, coc_of))
    yield "gather", psnr(bytes_of(gaussian_gather(sharp, sigma)), defocused)
    yield "layered", psnr(bytes_of(layered_blur(sharp, coc, sigma)), defocused)
    measured = law(filled).astype(np.float32)
    yield "fitted", psnr(bytes_of(gaussian_gather(sharp, measured)), defocused)


def _spread(a: NDArray, b: NDArray) -> NDArray:
    """Return the variance of a - b in the window around each pixel: a constant does not count."""
    difference = a - b
    square = uniform_filter(difference**2, WINDOW_PX)
    return np.maximum(square - uniform_filter(difference, WINDOW_PX) ** 2, 0)
