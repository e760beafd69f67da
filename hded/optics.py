"""Thin lens: depth [m] -> signed circle of confusion [px] -> Gaussian sigma [px] (equation 8).

Choices:
- the paper's f is "the distance from the lens to the image sensor": v = F S / (S - F);
- CoC is signed: negative nearer than the focus distance, positive beyond it;
- invalid depth (NaN, infinite, zero or negative) has a CoC of 0: such a pixel is not blurred, and
  every loss and metric masks it;
- the pixel pitch is 36 mm (SYNDOF's sensor width) divided by the *original* image width: 640 px
  for NYU, 345 px for Make3D at 460x345. Cropping does not change it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hded.common.errors import HDEDError, check_choice

NOT_DEFOCUSED = "all in focus"  # the camera's name where images were not defocused
SENSOR_WIDTH_M = 0.036  # full frame
D3NET_PIXEL_PITCH_M = 5.6e-6
SYNDOF_FOCAL_LENGTHS_M = (0.050, 0.070, 0.085)
SYNDOF_FOCAL_WEIGHTS = (0.1, 0.4, 0.4)
SYNDOF_FOCUS_SPREAD = 0.5

SigmaRule = Literal["quarter", "syndof", "d3net"]
SIGMA_RULES: tuple[str, ...] = get_args(SigmaRule)
Renderer = Literal["gather", "layered"]


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
    max_coc_px: float = 29.0  # |CoC| is clamped here
    sigma_rule: SigmaRule = "quarter"

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
        return sigma_of_coc(self.coc_px(depth_m), self.sigma_rule)


def sigma_of_coc(coc_px: ArrayLike, rule: SigmaRule = "quarter") -> NDArray[np.float32]:
    """Return the sigma [px] of a signed CoC [px].

    `quarter`: |CoC|/4 (paper). `syndof`: (|CoC| - 1)/4, and 0 up to 1 px (SYNDOF).
    `d3net`: 0.3 |CoC| (D3-Net).
    """
    check_choice("sigma_rule", rule, SIGMA_RULES)
    coc = np.abs(np.asarray(coc_px, np.float32))
    if rule == "quarter":
        return (coc / np.float32(4)).astype(np.float32, copy=False)
    if rule == "syndof":
        coc = np.maximum(coc - np.float32(1), 0)
        return (coc / np.float32(4)).astype(np.float32, copy=False)
    return coc * np.float32(0.3)


def draw_focus_m(
    depth_m: NDArray, focal_length_m: float, rng: np.random.Generator, focus_if_flat_m: float = 2.0
) -> float:
    """Draw a focus distance [m] as SYNDOF's code does: one of the frame's own depths.

    The distinct depths (here to 1 cm) are sorted from the nearest; one that lies behind a fraction
    t of the others has the weight exp(-t^2 / (2 0.5^2)), half a normal distribution. A frame
    without valid depth is focused at `focus_if_flat_m`. The distance is always beyond the focal
    length.
    """
    depth = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
    # depths beyond a kilometre are measurement errors
    levels = np.flatnonzero(np.bincount(np.rint(np.clip(depth, 0.01, 1000) * 100).astype(np.intp)))
    if not levels.size:
        return focus_if_flat_m
    weight = np.exp(-((np.arange(levels.size) / levels.size) ** 2) / (2 * SYNDOF_FOCUS_SPREAD**2))
    drawn_m = float(rng.choice(levels, p=weight / weight.sum())) / 100
    # rounding to centimetres may leave the range of the depths
    drawn_m = min(max(drawn_m, float(depth.min())), float(depth.max()))
    return max(drawn_m, 1.01 * focal_length_m)


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """A named camera of fixed focal length and aperture.

    `pixel_pitch_m` None: 36 mm divided by the original image width. `focus_distance_m` None: drawn
    for each frame (`draw_focus_m`).
    """

    name: str
    focal_length_m: float
    aperture_m: float
    focus_distance_m: float | None = 2.0
    pixel_pitch_m: float | None = None
    max_coc_px: float = 29.0
    sigma_rule: SigmaRule = "quarter"

    def lens(self, depth_m: NDArray, image_width_px: int, rng: np.random.Generator) -> ThinLens:
        """Return the lens for a frame of depth `depth_m`, `image_width_px` wide before cropping.

        A camera of fixed focus uses neither the depth nor `rng`.
        """
        focus_m = self.focus_distance_m
        if focus_m is None:
            focus_m = draw_focus_m(depth_m, self.focal_length_m, rng)
        return ThinLens(
            focal_length_m=self.focal_length_m,
            aperture_m=self.aperture_m,
            focus_distance_m=focus_m,
            pixel_pitch_m=self.pixel_pitch_m or SENSOR_WIDTH_M / image_width_px,
            max_coc_px=self.max_coc_px,
            sigma_rule=self.sigma_rule,
        )

    def describe(self, image_width_px: int) -> dict[str, Any]:
        """Return the name and the settings for images `image_width_px` wide, to be recorded.

        A setting that is drawn for each frame is None.
        """
        lens = self.lens(np.empty(0), image_width_px, np.random.default_rng(0))
        drawn = {} if self.focus_distance_m else {"focus_distance_m": None}
        return {"name": self.name, "f_number": lens.f_number, **asdict(lens), **drawn}


@dataclass(frozen=True, kw_only=True, slots=True)
class SyndofCamera:
    """SYNDOF's random camera (Lee et al. 2019): each frame has a lens of its own.

    The focal length is drawn from 50, 70 and 85 mm and the focus distance by `draw_focus_m`; the
    aperture is such that the largest CoC is `max_coc_px`.
    """

    name: str = "syndof"
    max_coc_px: float = 29.0
    sigma_rule: SigmaRule = "syndof"

    def lens(self, depth_m: NDArray, image_width_px: int, rng: np.random.Generator) -> ThinLens:
        """Return a lens drawn for a frame of depth `depth_m`, `image_width_px` wide uncropped."""
        weights = np.asarray(SYNDOF_FOCAL_WEIGHTS)
        focal_m = float(rng.choice(SYNDOF_FOCAL_LENGTHS_M, p=weights / weights.sum()))
        focus_m = draw_focus_m(depth_m, focal_m, rng)
        depth = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
        extremes = (depth.min(), depth.max()) if depth.size else (focus_m, focus_m)
        return self.solve(focal_m, focus_m, extremes, image_width_px)

    def solve(
        self,
        focal_length_m: float,
        focus_distance_m: float,
        depth_range_m: tuple[float, float],
        image_width_px: int,
    ) -> ThinLens:
        """Return the lens whose largest CoC over a range of depth [m] is `max_coc_px`."""
        lens = ThinLens(
            focal_length_m=focal_length_m,
            aperture_m=1.0,
            focus_distance_m=focus_distance_m,
            pixel_pitch_m=SENSOR_WIDTH_M / image_width_px,
            max_coc_px=float(np.finfo(np.float32).max),
            sigma_rule=self.sigma_rule,
        )
        largest = float(np.abs(lens.coc_px(depth_range_m)).max())
        # CoC is proportional to the aperture; a flat scene in focus has f/2.8
        aperture_m = self.max_coc_px / largest if largest else focal_length_m / 2.8
        return replace(lens, aperture_m=aperture_m, max_coc_px=self.max_coc_px)

    def describe(self, image_width_px: int) -> dict[str, Any]:
        """Return the name and the settings to be recorded; those drawn for each frame are None."""
        drawn = ("f_number", "focal_length_m", "aperture_m", "focus_distance_m")
        return {
            "name": self.name,
            **dict.fromkeys(drawn),
            "pixel_pitch_m": SENSOR_WIDTH_M / image_width_px,
            "max_coc_px": self.max_coc_px,
            "sigma_rule": self.sigma_rule,
        }


AnyCamera = Camera | SyndofCamera


def describe_cameras(cameras: Sequence[AnyCamera], image_width_px: int) -> dict[str, Any]:
    """Return one description of cameras that differ only in focus distance, which are listed."""
    records = [camera.describe(image_width_px) for camera in cameras]
    if len(records) == 1:
        return records[0]
    return records[0] | {"focus_distance_m": [record["focus_distance_m"] for record in records]}


CAMERAS: dict[str, AnyCamera] = {
    camera.name: camera
    for camera in (
        Camera(name="paper", focal_length_m=0.07, aperture_m=0.0448),
        Camera(
            name="d3net",
            focal_length_m=0.015,
            aperture_m=0.015 / 2.8,
            pixel_pitch_m=D3NET_PIXEL_PITCH_M,
            sigma_rule="d3net",
        ),
        SyndofCamera(),
    )
}
