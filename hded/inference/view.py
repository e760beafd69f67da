"""How a photograph is brought to what a network knows: its size, and what its lens makes of depth.

Blur is measured in pixels. In one family of thin lenses the CoC is gain (1 - S / x), with S the
focus distance: a photograph at another size has another gain, and depth over focus distance, x / S,
is a function of CoC over gain alone.

- A network that needs the lens gets that of the photograph at the size at which it is processed:
  the width of the training images, unless the gain there lies outside that of training.
- A network that was trained with one lens gets the photograph at the size at which both gains are
  equal; its depth is multiplied by the ratio of the focus distances.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from hded.inference.predictor import Predictor
from hded.optics import MAX_COC_PX, ThinLens
from hded.optics.photograph import StatedLens

LARGEST_SCALE = 2.0  # enlarging further only enlarges noise
LEAST_PX = 128  # of a photograph's long side, below which too little of it is left
GAIN_MARGIN = 0.9  # the user is warned of a gain below this share of training's smallest
ASSUMED_FOCAL_M, ASSUMED_F_NUMBER = 0.05, 2.8
WORDS = {
    "focal_length_m": "focal length",
    "f_number": "f-number",
    "focus_distance_m": "focus distance",
    "sensor_width_m": "sensor width",
}
Unit = Literal["m", "focus distance"]


@dataclass(frozen=True, slots=True)
class View:
    """The way of one photograph through a network.

    It is resized by `scale`; `lens`: at that size, for a network that needs it; the network's depth
    times `factor` is depth in `unit`; `notes`: what a user must know about it, as sentences.
    """

    scale: float = 1.0
    lens: ThinLens | None = None
    factor: float = 1.0
    unit: Unit = "m"
    notes: tuple[str, ...] = ()


def view_of(predictor: Predictor, size: tuple[int, int], stated: StatedLens) -> View:
    """Return how a photograph of `size` (H, W) by this lens is given to the network.

    Raises HDEDError for a lens that is focused inside its focal length.
    """
    long = max(size)
    known = predictor.scale
    scale = 1.0
    if known is not None and predictor.geometry == "crop":
        scale = min(1.0, known.image_width_px / long)
    if "depth" not in predictor.network.heads and not predictor.network.needs_lens:
        return View(scale)
    if not stated.missing:
        return _by_lens(predictor, stated.lens(long, **_limits(predictor)), long, scale)
    return _by_assumption(predictor, stated, long, scale)


def _by_lens(predictor: Predictor, lens: ThinLens, long_side_px: int, scale: float) -> View:
    """Return the view of a photograph whose lens, at its own size, is known."""
    trained, notes = predictor.lens, []
    # a network of resized frames was told the lens at their width before they were resized
    squashes, known = predictor.geometry == "resize", predictor.scale
    seen = known.image_width_px / long_side_px if squashes and known is not None else scale
    gains = _gains(predictor)
    if gains is not None:
        gain_px = lens.row()[0]
        if not squashes:
            seen = scale = _scale_for(predictor, gain_px, gains, long_side_px, scale)
        if gain_px * seen < GAIN_MARGIN * gains[0]:
            notes.append(
                f"blur at infinity is {gain_px * seen:.2g} px wide, the least in training "
                f"{gains[0]:.2g} px: this lens shows too little blur for depth"
            )
        if GAIN_MARGIN * gain_px * seen > gains[1]:
            notes.append(
                f"blur at infinity is {gain_px * seen:.2g} px wide, the most in training "
                f"{gains[1]:.2g} px: depth by this lens is uncertain"
            )
    if long_side_px * scale < LEAST_PX <= long_side_px:
        notes.append(
            f"the blur of this lens is so wide that the photograph was processed at "
            f"{long_side_px * scale:.0f} px: most of its detail is lost"
        )
    if predictor.network.needs_lens:
        return View(scale, _resized(lens, seen), notes=tuple(notes))
    if trained is None:
        notes.append("the network was trained through several lenses and is told none")
        return View(scale, notes=tuple(notes))
    return View(scale, factor=lens.focus_distance_m / trained.focus_distance_m, notes=tuple(notes))


def taken_lens(predictor: Predictor, stated: StatedLens, long_side_px: int) -> StatedLens:
    """Return the lens that is assumed to have taken a photograph.

    Where the photograph's lens is not wholly known and the network was trained with one lens, it is
    that one, to which depth then refers, with the photograph's own f-number where that is known.
    long_side_px: the photograph's longer side.
    """
    trained, known = predictor.lens, predictor.scale
    if not stated.missing or trained is None:
        return stated
    width_px = known.image_width_px if known is not None else long_side_px
    return StatedLens(f_number=stated.f_number).or_else(StatedLens.of(trained, width_px))


def _gains(predictor: Predictor) -> tuple[float, float] | None:
    """Return the smallest and the largest gain [px] of the training images; None if not known."""
    if predictor.scale is not None and predictor.scale.gain_px is not None:
        return predictor.scale.gain_px
    trained = predictor.lens
    return None if trained is None else (trained.row()[0], trained.row()[0])


def _scale_for(
    predictor: Predictor,
    gain_px: float,
    gains: tuple[float, float],
    long_side_px: int,
    scale: float,
) -> float:
    """Return the scale at which a photograph has a gain of training, near to `scale`.

    It is `scale` where that would have to be larger than the photograph itself, or, of a small
    photograph, larger than twice the training images.
    """
    wanted = float(np.clip(gain_px * scale, *gains)) / gain_px
    width_px = predictor.scale.image_width_px if predictor.scale is not None else long_side_px
    limit = max(1.0, min(LARGEST_SCALE, LARGEST_SCALE * width_px / long_side_px))
    if wanted <= limit:
        return wanted
    return limit if gain_px * limit >= GAIN_MARGIN * gains[0] else scale


def _by_assumption(
    predictor: Predictor, stated: StatedLens, long_side_px: int, scale: float
) -> View:
    """Return the view of a photograph whose lens is not, or not wholly, known."""
    missing = " and ".join(WORDS[name] for name in stated.missing)
    trained, known = predictor.lens, predictor.scale
    if trained is not None:
        note = (
            f"{missing} not known: depth is that of the training camera, "
            f"{1e3 * trained.focal_length_m:.3g} mm f/{trained.f_number:.2g} focused at "
            f"{trained.focus_distance_m:.3g} m"
        )
        return View(scale, trained if predictor.network.needs_lens else None, notes=(note,))
    if known is None or known.gain_px is None or known.focus_distance_m is None:
        return View(scale, notes=(f"{missing} not known, nor the lenses of training",))
    focus_m = known.focus_distance_m
    if stated.missing == ("focus_distance_m",):
        lens = replace(stated, focus_distance_m=focus_m).lens(long_side_px, **_limits(predictor))
        found = _by_lens(predictor, lens, long_side_px, scale)
        note = f"{missing} not known: depth is in units of it, as if it were {focus_m:.2g} m"
    else:
        lens = _assumed(float(np.sqrt(np.prod(known.gain_px))), focus_m, _limits(predictor))
        found = View(scale, lens if predictor.network.needs_lens else None)
        note = (
            f"{missing} not known: depth is in units of the focus distance, for a lens typical of "
            "training; its order is meaningful, its scale is not"
        )
        if unused := [WORDS[name] for name in WORDS if name not in stated.missing]:
            note += f"; the photograph's {' and '.join(unused)} was not used"
    return replace(
        found, factor=found.factor / focus_m, unit="focus distance", notes=(note, *found.notes)
    )


def _assumed(gain_px: float, focus_m: float, limits: dict[str, Any]) -> ThinLens:
    """Return a lens of this gain and focus distance."""
    lens = ThinLens(
        focal_length_m=ASSUMED_FOCAL_M,
        aperture_m=ASSUMED_FOCAL_M / ASSUMED_F_NUMBER,
        focus_distance_m=focus_m,
        pixel_pitch_m=1e-5,
        **limits,
    )
    return replace(lens, pixel_pitch_m=lens.pixel_pitch_m * lens.row()[0] / gain_px)


def _resized(lens: ThinLens, scale: float) -> ThinLens:
    """Return the lens of a photograph that was resized by `scale`."""
    return replace(lens, pixel_pitch_m=lens.pixel_pitch_m / scale)


def _limits(predictor: Predictor) -> dict[str, Any]:
    """Return the settings of a lens that are not the photographer's, as in training."""
    camera = predictor.cameras[0] if predictor.cameras else {}
    return {
        "max_coc_px": camera.get("max_coc_px", MAX_COC_PX),
        "sigma_rule": camera.get("sigma_rule", "quarter"),
    }
