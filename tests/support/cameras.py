"""The cameras of params.yaml, as Python: tests do not depend on what a user makes of that file."""

from hded.optics import Camera

PAPER = Camera(name="paper", focal_length_m=0.07, aperture_m=0.0448)
D3NET = Camera(
    name="d3net", focal_length_m=0.015, f_number=2.8, pixel_pitch_m=5.6e-6, sigma_rule="d3net"
)
SYNDOF = Camera(
    name="syndof",
    focal_length_m=(0.050, 0.070, 0.085),
    focal_weights=(0.1, 0.4, 0.4),
    focus_distance_m=None,
    sigma_rule="syndof",
)
CAMERAS = {camera.name: camera for camera in (PAPER, D3NET, SYNDOF)}
