"""Cameras: a thin lens, what is drawn for each frame, noise and compression."""

from hded.optics.camera import (
    NOT_DEFOCUSED,
    SENSOR_WIDTH_M,
    Camera,
    Renderer,
    describe_cameras,
    draw_focus_m,
)
from hded.optics.lens import (
    LENS_COLUMNS,
    MAX_COC_PX,
    SIGMA_RULES,
    SIGMA_SLOPES,
    SigmaRule,
    ThinLens,
    recorded_lens,
    sigma_of_coc,
)
from hded.optics.sensor import IDEAL, Sensor, Subsampling, recorded_sensor

__all__ = [
    "IDEAL",
    "LENS_COLUMNS",
    "MAX_COC_PX",
    "NOT_DEFOCUSED",
    "SENSOR_WIDTH_M",
    "SIGMA_RULES",
    "SIGMA_SLOPES",
    "Camera",
    "Renderer",
    "Sensor",
    "SigmaRule",
    "Subsampling",
    "ThinLens",
    "describe_cameras",
    "draw_focus_m",
    "recorded_lens",
    "recorded_sensor",
    "sigma_of_coc",
]
