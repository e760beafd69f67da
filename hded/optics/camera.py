"""Named cameras: a sensor, and a lens that is fixed or drawn for each frame."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hded.common.errors import HDEDError
from hded.optics.lens import MAX_COC_PX, SigmaRule, ThinLens
from hded.optics.sensor import IDEAL, Sensor

NOT_DEFOCUSED = "all in focus"  # the camera's name where images were not defocused
SENSOR_WIDTH_M = 0.036  # full frame
EXAMPLE_FOCUS_M = 2.0  # represents a focus distance that is drawn for each frame
SYNDOF_FOCUS_SPREAD = 0.5
Renderer = Literal["gather", "layered"]
# columns of a table of frames that state a frame's own lens
STATED = {name: f"stated_{name}" for name in ("focal_length_m", "f_number", "focus_distance_m")}


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
    """A named camera: its sensor, and a fixed lens or one that is drawn for each frame.

    - `focal_length_m`: one, or several of which one is drawn for each frame with the probabilities
      `focal_weights`, which need not sum to 1 (empty: all are equally likely);
    - `aperture_m` or `f_number`, or several f-numbers of which one is drawn for each frame; with
      neither, the aperture is such that the frame's largest CoC is `max_coc_px`, as in SYNDOF (Lee
      et al. 2019);
    - `focus_distance_m` None: drawn for each frame (`draw_focus_m`);
    - `pixel_pitch_m` None: `sensor_width_m` divided by the original image width.

    Raises HDEDError for an aperture and an f-number together, and for weights that do not fit.
    """

    name: str
    focal_length_m: float | tuple[float, ...]
    focal_weights: tuple[float, ...] = ()
    aperture_m: float | None = None
    f_number: float | tuple[float, ...] | None = None
    focus_distance_m: float | None = 2.0
    sensor_width_m: float = SENSOR_WIDTH_M
    pixel_pitch_m: float | None = None
    max_coc_px: float = MAX_COC_PX
    sigma_rule: SigmaRule = "quarter"
    softness_px: float = 0.0
    sensor: Sensor = IDEAL
    photographs: bool = False  # whether it took the defocused photographs of a dataset

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
    def f_numbers(self) -> tuple[float, ...]:
        """Return every f-number that a frame's lens may have; none where none is stated."""
        if self.f_number is None:
            return ()
        return self.f_number if isinstance(self.f_number, tuple) else (self.f_number,)

    @property
    def opens(self) -> bool:
        """Return whether each frame has the aperture at which its largest CoC is `max_coc_px`."""
        return self.aperture_m is None and self.f_number is None

    @property
    def draws(self) -> bool:
        """Return whether two frames may have different lenses."""
        several = len(self.focal_lengths_m) > 1 or len(self.f_numbers) > 1
        return several or self.opens or self.focus_distance_m is None

    def of_frame(self, row: Mapping[Any, Any]) -> "Camera":
        """Return the camera with the lens that a frame's row states, as far as it does.

        Only a camera that takes photographs (`photographs`) has another lens for a frame.
        """
        # a table that was read again has empty text where a number is missing
        found = {name: float(row.get(column) or math.nan) for name, column in STATED.items()}
        stated: dict[str, Any] = {n: value for n, value in found.items() if not math.isnan(value)}
        if not self.photographs or not stated:
            return self
        if "focal_length_m" in stated:
            stated["focal_weights"] = ()
        if "f_number" in stated:
            stated["aperture_m"] = None
        return replace(self, **stated)

    def lens(self, depth_m: NDArray, image_width_px: int, rng: np.random.Generator) -> ThinLens:
        """Return the lens for a frame of depth `depth_m`, `image_width_px` wide before cropping.

        A camera with a fixed lens uses neither the depth nor `rng`.
        """
        focal_m = self.focal_lengths_m[0]
        if len(self.focal_lengths_m) > 1:
            weights = np.asarray(self.focal_weights or np.ones(len(self.focal_lengths_m)))
            focal_m = float(rng.choice(self.focal_lengths_m, p=weights / weights.sum()))
        f_number = self.f_numbers[0] if self.f_numbers else None
        if len(self.f_numbers) > 1:
            f_number = float(rng.choice(self.f_numbers))
        focus_m = self.focus_distance_m
        if focus_m is None:
            focus_m = draw_focus_m(depth_m, focal_m, rng)
        extremes = (focus_m, focus_m)
        if self.opens:
            depth = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
            extremes = (depth.min(), depth.max()) if depth.size else extremes
        return self._build(focal_m, f_number, focus_m, extremes, image_width_px)

    def example(self, depth_range_m: tuple[float, float], image_width_px: int) -> ThinLens:
        """Return the lens of a frame of this range of depth [m], without any random choice.

        Where a camera draws them, the lens has the most likely focal length, the first f-number and
        a focus distance of 2 m.
        """
        weights = self.focal_weights or (1.0,)
        focal_m = self.focal_lengths_m[int(np.argmax(weights))]
        focus_m = EXAMPLE_FOCUS_M if self.focus_distance_m is None else self.focus_distance_m
        f_number = self.f_numbers[0] if self.f_numbers else None
        return self._build(focal_m, f_number, focus_m, depth_range_m, image_width_px)

    def _build(
        self,
        focal_length_m: float,
        f_number: float | None,
        focus_distance_m: float,
        depth_range_m: tuple[float, float],
        image_width_px: int,
    ) -> ThinLens:
        aperture_m = self.aperture_m
        if f_number is not None:
            aperture_m = focal_length_m / f_number
        lens = ThinLens(
            focal_length_m=focal_length_m,
            aperture_m=1.0 if aperture_m is None else aperture_m,
            focus_distance_m=focus_distance_m,
            pixel_pitch_m=self.pixel_pitch_m or self.sensor_width_m / image_width_px,
            max_coc_px=self.max_coc_px,
            sigma_rule=self.sigma_rule,
            softness_px=self.softness_px,
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
        if self.opens or len(self.f_numbers) > 1:
            drawn |= {"aperture_m", "f_number"}
        record = {"name": self.name, "f_number": lens.f_number, **asdict(lens)}
        if not self.softness_px:
            del record["softness_px"]
        return record | dict.fromkeys(drawn) | self.sensor.describe()


def _opened(lens: ThinLens, depth_range_m: tuple[float, float]) -> ThinLens:
    """Return the lens with the aperture at which its largest CoC over a range is `max_coc_px`."""
    unclamped = replace(lens, aperture_m=1.0, max_coc_px=float(np.finfo(np.float32).max))
    largest = float(np.abs(unclamped.coc_px(depth_range_m)).max())
    # CoC is proportional to the aperture; a flat scene in focus has f/2.8
    aperture_m = lens.max_coc_px / largest if largest else lens.focal_length_m / 2.8
    return replace(lens, aperture_m=aperture_m)


def describe_cameras(
    cameras: Sequence[Camera], image_width_px: int, columns: Collection[str] = ()
) -> dict[str, Any]:
    """Return one description of cameras that differ only in focus distance, which are listed.

    columns: of the table of frames, some of which may state lenses of their own: what they state is
    None, as is what is drawn.
    """
    records = [camera.describe(image_width_px) for camera in cameras]
    if len(records) == 1:
        own = {name for name, column in STATED.items() if column in columns}
        if not cameras[0].photographs:
            own = set()
        if own & {"focal_length_m", "f_number"}:
            own |= {"aperture_m", "f_number"}
        return records[0] | dict.fromkeys(own)
    return records[0] | {"focus_distance_m": [record["focus_distance_m"] for record in records]}
