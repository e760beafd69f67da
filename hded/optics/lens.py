"""Thin lens: depth [m] -> signed circle of confusion [px] -> Gaussian sigma [px] (equation 8).

Choices:
- the paper's f is "the distance from the lens to the image sensor": v = F S / (S - F);
- CoC is signed: negative nearer than the focus distance, positive beyond it;
- invalid depth (NaN, infinite, zero or negative) has a CoC of 0 here; the renderer gives such a
  pixel the depth of the nearest valid one, and every loss and metric masks it;
- unless a camera states its pixel pitch, it is the sensor's width (36 mm, as in SYNDOF) divided by
  the *original* image width: 640 px for NYU, 345 px for Make3D at 460x345. Cropping does not
  change it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hded.common.errors import HDEDError, check_choice

SigmaRule = Literal["quarter", "syndof", "d3net"]
SIGMA_RULES: tuple[str, ...] = get_args(SigmaRule)
# slope and offset [px] of sigma = slope * max(|CoC| - offset, 0)
SIGMA_SLOPES = {"quarter": (0.25, 0.0), "syndof": (0.25, 1.0), "d3net": (0.3, 0.0)}
# what a table of renderings holds of each lens, as a camera may draw it for each frame
LENS_COLUMNS = ("focal_length_m", "aperture_m", "focus_distance_m")
MAX_COC_PX = 29.0  # the largest |CoC| of the paper's renderings


@dataclass(frozen=True, kw_only=True, slots=True)
class ThinLens:
    """A thin lens with a fixed focus distance, in front of a sensor with a given pixel pitch.

    Raises HDEDError for a length that is not positive, and for a focus distance that does not
    exceed the focal length.
    """

    focal_length_m: float
    aperture_m: float  # diameter
    focus_distance_m: float
    pixel_pitch_m: float
    max_coc_px: float = MAX_COC_PX  # |CoC| is clamped here
    sigma_rule: SigmaRule = "quarter"
    # sigma of the blur of what is in focus; it adds to that of defocus in squares
    softness_px: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "focal_length_m", "aperture_m", "focus_distance_m", "pixel_pitch_m", "max_coc_px"
        ):  # fmt: skip
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise HDEDError(f"lens: {name} is {value}; it must be a positive number")
        if self.focus_distance_m <= self.focal_length_m:
            raise HDEDError(
                f"lens: focus_distance_m {self.focus_distance_m} does not exceed the focal length "
                f"{self.focal_length_m}, so no sharp image forms; choose a larger distance"
            )
        if not 0 <= self.softness_px < np.inf:
            raise HDEDError(f"lens: softness_px is {self.softness_px}; it must be at least 0")
        check_choice("lens: sigma_rule", self.sigma_rule, SIGMA_RULES)

    @property
    def f_number(self) -> float:
        """Return the focal length divided by the aperture diameter."""
        return self.focal_length_m / self.aperture_m

    @property
    def _gain_px(self) -> float:
        """Return the CoC [px] of a point at infinity: D v/S divided by the pixel pitch."""
        image_m = self.focal_length_m * self.focus_distance_m
        image_m /= self.focus_distance_m - self.focal_length_m
        return self.aperture_m * image_m / self.focus_distance_m / self.pixel_pitch_m

    def coc_px(self, depth_m: ArrayLike) -> NDArray[np.float32]:
        """Return the signed CoC diameter [px] at depth x [m]: D (v/S) (x - S)/x, clamped."""
        depth = np.asarray(depth_m, np.float64)
        valid = np.isfinite(depth) & (depth > 0)
        x = np.where(valid, depth, self.focus_distance_m)  # invalid depth gets a CoC of 0
        # a denormal depth overflows to -inf; the clamp below makes it finite
        with np.errstate(over="ignore"):
            coc = self._gain_px * (1 - self.focus_distance_m / x)
        return np.clip(coc, -self.max_coc_px, self.max_coc_px).astype(np.float32)

    def sigma_px(self, depth_m: ArrayLike) -> NDArray[np.float32]:
        """Return the standard deviation [px] of the Gaussian that approximates the blur disc."""
        return sigma_of_coc(self.coc_px(depth_m), self.sigma_rule, self.softness_px)

    def row(self) -> tuple[float, float, float, float, float, float]:
        """Return the lens as the six numbers that `hded.blur.lenses` computes with.

        CoC [px] of a point at infinity, focus distance [m], limit of |CoC| [px], slope and offset
        of sigma = slope * max(|CoC| - offset, 0), and softness [px].
        """
        slope, offset = SIGMA_SLOPES[self.sigma_rule]
        gain, focus_m, limit = self._gain_px, self.focus_distance_m, self.max_coc_px
        return gain, focus_m, limit, slope, offset, self.softness_px


def recorded_lens(camera: Mapping[str, Any], row: Mapping[Any, Any]) -> ThinLens | None:
    """Return the lens of one rendering; None where it is not recorded.

    camera: the description that a store's attributes hold; row: the rendering's row in its table,
    which has what the camera draws for each frame.
    """
    shared = ("pixel_pitch_m", "max_coc_px", "sigma_rule")
    found = {key: row.get(key, camera.get(key)) for key in LENS_COLUMNS}
    found |= {key: camera.get(key) for key in shared}
    # a list: several focus distances
    if any(value is None or isinstance(value, list | tuple) for value in found.values()):
        return None
    return ThinLens(**found, softness_px=camera.get("softness_px", 0.0))


def sigma_of_coc(
    coc_px: ArrayLike, rule: SigmaRule = "quarter", softness_px: float = 0.0
) -> NDArray[np.float32]:
    """Return the sigma [px] of a signed CoC [px].

    `quarter`: |CoC|/4 (paper). `syndof`: (|CoC| - 1)/4, and 0 up to 1 px (SYNDOF).
    `d3net`: 0.3 |CoC| (D3-Net). softness_px: see `ThinLens`.
    """
    check_choice("sigma_rule", rule, SIGMA_RULES)
    slope, offset = SIGMA_SLOPES[rule]
    coc = np.abs(np.asarray(coc_px, np.float32))
    if offset:
        coc = np.maximum(coc - np.float32(offset), 0)
    sigma = (coc * np.float32(slope)).astype(np.float32, copy=False)
    return np.hypot(sigma, np.float32(softness_px)) if softness_px else sigma
