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
from hded.optics import ThinLens
from hded.optics.photograph import StatedLens

LARGEST_SCALE = 2.0  # enlarging further only enlarges noise
GAIN_MARGIN = 0.9  # a gain so much below that of training is told
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
    if "depth" not in predictor.network.heads:
        return View(scale)
    if not stated.missing:
        lens = stated.lens(long, **_limits(predictor))
        return _by_lens(predictor, lens, scale)
    return _by_assumption(predictor, stated, long, scale)


def _by_lens(predictor: Predictor, lens: ThinLens, scale: float) -> View:
    """Return the view of a photograph whose lens, at its own size, is known."""
    known, trained, notes = predictor.scale, predictor.lens, []
    gain_px = lens.row()[0]
    gains = None if known is None else known.gain_px
    if gains is None and trained is not None:
        gains = trained.row()[0], trained.row()[0]
    if gains is not None and predictor.geometry == "crop":
        scale = min(float(np.clip(gain_px * scale, *gains)) / gain_px, LARGEST_SCALE)
        if gain_px * scale < GAIN_MARGIN * gains[0]:
            notes.append(
                f"blur at infinity is {gain_px * scale:.2g} px wide, the least in training "
                f"{gains[0]:.2g} px: this lens shows too little blur for depth"
            )
    if predictor.network.needs_lens:
        return View(scale, _resized(lens, scale), notes=tuple(notes))
    if trained is None:
        notes.append("the network was trained through several lenses and is told none")
        return View(scale, notes=tuple(notes))
    return View(scale, factor=lens.focus_distance_m / trained.focus_distance_m, notes=tuple(notes))


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
        found = _by_lens(predictor, lens, scale)
        note = f"{missing} not known: depth is in units of it, as if it were {focus_m:.2g} m"
    else:
        lens = _assumed(float(np.sqrt(np.prod(known.gain_px))), focus_m, _limits(predictor))
        found = View(scale, lens if predictor.network.needs_lens else None)
        note = (
            f"{missing} not known: depth is in units of the focus distance, for a lens typical of "
            "training; its order is meaningful, its scale is not"
        )
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
        "max_coc_px": camera.get("max_coc_px", 29.0),
        "sigma_rule": camera.get("sigma_rule", "quarter"),
    }
