"""Thin lens: depth [m] -> signed circle of confusion [px] -> Gaussian sigma [px] (equation 8).

Choices:
- the paper's f is "the distance from the lens to the image sensor": v = F S / (S - F);
- CoC is signed: negative nearer than the focus distance, positive beyond it;
- invalid depth (NaN, infinite, zero or negative) has a CoC of 0: such a pixel is not blurred, and
  every loss and metric masks it;
- unless a camera states its pixel pitch, it is the sensor's width (36 mm, as in SYNDOF) divided by
  the *original* image width: 640 px for NYU, 345 px for Make3D at 460x345. Cropping does not
  change it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hded.common.errors import HDEDError, check_choice

NOT_DEFOCUSED = "all in focus"  # the camera's name where images were not defocused
SENSOR_WIDTH_M = 0.036  # full frame
EXAMPLE_FOCUS_M = 2.0  # represents a focus distance that is drawn for each frame
SYNDOF_FOCUS_SPREAD = 0.5

SigmaRule = Literal["quarter", "syndof", "d3net"]
SIGMA_RULES: tuple[str, ...] = get_args(SigmaRule)
# slope and offset [px] of sigma = slope * max(|CoC| - offset, 0)
SIGMA_SLOPES = {"quarter": (0.25, 0.0), "syndof": (0.25, 1.0), "d3net": (0.3, 0.0)}
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

    def row(self) -> tuple[float, float, float, float, float]:
        """Return the lens as the five numbers that `hded.blur.lenses` computes with.

        CoC [px] of a point at infinity, focus distance [m], limit of |CoC| [px], and slope and
        offset of sigma = slope * max(|CoC| - offset, 0).
        """
        slope, offset = SIGMA_SLOPES[self.sigma_rule]
        return self._gain_px, self.focus_distance_m, self.max_coc_px, slope, offset


def recorded_lens(camera: Mapping[str, Any], row: Mapping[Any, Any]) -> ThinLens | None:
    """Return the lens of one rendering; None where it is not recorded.

    camera: the description that a store's attributes hold; row: the rendering's row in its table,
    which has what the camera draws for each frame.
    """
    drawn = ("focal_length_m", "aperture_m", "focus_distance_m")
    shared = ("pixel_pitch_m", "max_coc_px", "sigma_rule")
    found = {key: row.get(key, camera.get(key)) for key in drawn}
    found |= {key: camera.get(key) for key in shared}
    return None if any(value is None for value in found.values()) else ThinLens(**found)


def sigma_of_coc(coc_px: ArrayLike, rule: SigmaRule = "quarter") -> NDArray[np.float32]:
    """Return the sigma [px] of a signed CoC [px].

    `quarter`: |CoC|/4 (paper). `syndof`: (|CoC| - 1)/4, and 0 up to 1 px (SYNDOF).
    `d3net`: 0.3 |CoC| (D3-Net).
    """
    check_choice("sigma_rule", rule, SIGMA_RULES)
    slope, offset = SIGMA_SLOPES[rule]
    coc = np.abs(np.asarray(coc_px, np.float32))
    if offset:
        coc = np.maximum(coc - np.float32(offset), 0)
    return (coc * np.float32(slope)).astype(np.float32, copy=False)


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
    """A named camera: a fixed lens, or one that is drawn for each frame.

    - `focal_length_m`: one, or several of which one is drawn for each frame with the probabilities
      `focal_weights`, which need not sum to 1 (empty: all are equally likely);
    - `aperture_m` or `f_number`; with neither, the aperture is such that the frame's largest CoC is
      `max_coc_px`, as in SYNDOF (Lee et al. 2019);
    - `focus_distance_m` None: drawn for each frame (`draw_focus_m`);
    - `pixel_pitch_m` None: `sensor_width_m` divided by the original image width.

    Raises HDEDError for an aperture and an f-number together, and for weights that do not fit.
    """

    name: str
    focal_length_m: float | tuple[float, ...]
    focal_weights: tuple[float, ...] = ()
    aperture_m: float | None = None
    f_number: float | None = None
    focus_distance_m: float | None = 2.0
    sensor_width_m: float = SENSOR_WIDTH_M
    pixel_pitch_m: float | None = None
    max_coc_px: float = 29.0
    sigma_rule: SigmaRule = "quarter"

    def __post_init__(self) -> None:
        if self.aperture_m is not None and self.f_number is not None:
            raise HDEDError(f"camera {self.name}: has an aperture and an f-number; give one")
        if self.focal_weights and len(self.focal_weights) != len(self.focal_lengths_m):
            raise HDEDError(
                f"camera {self.name}: {len(self.focal_weights)} weights for "
                f"{len(self.focal_lengths_m)} focal lengths"
            )

    @property
    def focal_lengths_m(self) -> tuple[float, ...]:
        """Return every focal length that a frame's lens may have."""
        given = self.focal_length_m
        return given if isinstance(given, tuple) else (given,)

    @property
    def opens(self) -> bool:
        """Return whether each frame has the aperture at which its largest CoC is `max_coc_px`."""
        return self.aperture_m is None and self.f_number is None

    @property
    def draws(self) -> bool:
        """Return whether two frames may have different lenses."""
        several = len(self.focal_lengths_m) > 1
        return several or self.opens or self.focus_distance_m is None

    def lens(self, depth_m: NDArray, image_width_px: int, rng: np.random.Generator) -> ThinLens:
        """Return the lens for a frame of depth `depth_m`, `image_width_px` wide before cropping.

        A camera with a fixed lens uses neither the depth nor `rng`.
        """
        focal_m = self.focal_lengths_m[0]
        if len(self.focal_lengths_m) > 1:
            weights = np.asarray(self.focal_weights or np.ones(len(self.focal_lengths_m)))
            focal_m = float(rng.choice(self.focal_lengths_m, p=weights / weights.sum()))
        focus_m = self.focus_distance_m
        if focus_m is None:
            focus_m = draw_focus_m(depth_m, focal_m, rng)
        extremes = (focus_m, focus_m)
        if self.opens:
            depth = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
            extremes = (depth.min(), depth.max()) if depth.size else extremes
        return self._build(focal_m, focus_m, extremes, image_width_px)

    def example(self, depth_range_m: tuple[float, float], image_width_px: int) -> ThinLens:
        """Return the lens of a frame of this range of depth [m], without any random choice.

        What is drawn has its most likely focal length and is focused at 2 m.
        """
        weights = self.focal_weights or (1.0,)
        focal_m = self.focal_lengths_m[int(np.argmax(weights))]
        focus_m = EXAMPLE_FOCUS_M if self.focus_distance_m is None else self.focus_distance_m
        return self._build(focal_m, focus_m, depth_range_m, image_width_px)

    def _build(
        self,
        focal_length_m: float,
        focus_distance_m: float,
        depth_range_m: tuple[float, float],
        image_width_px: int,
    ) -> ThinLens:
        aperture_m = self.aperture_m
        if self.f_number is not None:
            aperture_m = focal_length_m / self.f_number
        lens = ThinLens(
            focal_length_m=focal_length_m,
            aperture_m=1.0 if aperture_m is None else aperture_m,
            focus_distance_m=focus_distance_m,
            pixel_pitch_m=self.pixel_pitch_m or self.sensor_width_m / image_width_px,
            max_coc_px=self.max_coc_px,
            sigma_rule=self.sigma_rule,
        )
        return lens if aperture_m is not None else _opened(lens, depth_range_m)

    def describe(self, image_width_px: int) -> dict[str, Any]:
        """Return the name and the settings for images `image_width_px` wide, to be recorded.

        A setting that is drawn for each frame is None.
        """
        lens = self.example((1.0, 2.0), image_width_px)
        drawn = {"focus_distance_m"} if self.focus_distance_m is None else set()
        if len(self.focal_lengths_m) > 1:
            drawn |= {"focal_length_m", "aperture_m" if self.f_number else "f_number"}
        if self.opens:
            drawn |= {"aperture_m", "f_number"}
        record = {"name": self.name, "f_number": lens.f_number, **asdict(lens)}
        return record | dict.fromkeys(drawn)


def _opened(lens: ThinLens, depth_range_m: tuple[float, float]) -> ThinLens:
    """Return the lens with the aperture at which its largest CoC over a range is `max_coc_px`."""
    unclamped = replace(lens, aperture_m=1.0, max_coc_px=float(np.finfo(np.float32).max))
    largest = float(np.abs(unclamped.coc_px(depth_range_m)).max())
    # CoC is proportional to the aperture; a flat scene in focus has f/2.8
    aperture_m = lens.max_coc_px / largest if largest else lens.focal_length_m / 2.8
    return replace(lens, aperture_m=aperture_m)


def describe_cameras(cameras: Sequence[Camera], image_width_px: int) -> dict[str, Any]:
    """Return one description of cameras that differ only in focus distance, which are listed."""
    records = [camera.describe(image_width_px) for camera in cameras]
    if len(records) == 1:
        return records[0]
    return records[0] | {"focus_distance_m": [record["focus_distance_m"] for record in records]}
