"""Registration of a sharp photograph to a defocused one of the same scene.

Two photographs from one tripod differ by a small shift and in exposure. Both are estimated from the
two photographs alone, once for each pair, and applied to the sharp one, which is the truth: what
networks get is the defocused photograph as it was taken. Rotation and change of scale are not
modelled; a pair that differs by more is told by its residual.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter, shift
from scipy.optimize import minimize_scalar

Grey = NDArray[np.float64]  # (H, W) in [0, 1]
LARGEST_SHIFT_PX = 32
# the band of spatial frequencies that is compared: between two Gaussians [px]. Finer detail does
# not survive defocus, coarser detail is shading
FINE_PX, COARSE_PX = 2.0, 6.0
STEPS, SMALLEST_STEP_PX = 30, 1e-3
# Brightness is compared after both pictures are blurred by this share of their shorter side: far
# more than defocus blurs, since defocus lowers contrast, which would be taken for a gain below 1
EXPOSURE_SHARE = 0.05
# Large pictures are averaged over blocks before that blur, which stays at least this wide
EXPOSURE_SIGMA_PX = 8.0
DARKEST, BRIGHTEST = 5 / 255, 250 / 255  # pixels beyond are clipped, and tell no exposure
LARGEST_SIGMA_PX = 12.0
REGISTRATION_BYTES = 80  # memory that `register` takes for each pixel, the two pictures included


@dataclass(frozen=True, slots=True)
class Registration:
    """The shift and the exposure of a truth against its defocused photograph.

    `shift_px`: (down, right); `gain` and `offset` of each channel, on sRGB values in [0, 1];
    `residual`: RMS difference, in [0, 1], between the defocused photograph and the registered truth
    blurred alike everywhere, by the sigma that fits best. Blur that varies over the image is part
    of it.
    """

    shift_px: tuple[float, float]
    gain: tuple[float, float, float]
    offset: tuple[float, float, float]
    residual: float

    def apply(self, truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the truth (H, W, 3), shifted and exposed as the defocused photograph is.

        Beyond its border the edge is repeated, over at most `margin_px` pixels.
        """
        out = np.empty_like(truth)
        for channel, (gain, offset) in enumerate(zip(self.gain, self.offset, strict=True)):
            exposed = _moved(truth[..., channel] / 255.0, self.shift_px) * gain + offset
            out[..., channel] = np.rint(np.clip(exposed, 0, 1) * 255)
        return out

    @property
    def margin_px(self) -> int:
        """Return the width of the border that may hold repeated edges."""
        return int(np.ceil(max(map(abs, self.shift_px)) - 1e-9)) if any(self.shift_px) else 0


def register(truth: NDArray[np.uint8], defocused: NDArray[np.uint8]) -> Registration:
    """Estimate the shift and the exposure of a truth (H, W, 3) against a defocused photograph.

    The shift is that of the highest correlation within 32 px, refined below a pixel by Gauss-Newton
    steps; a blur that is symmetric at each pixel does not move it. The exposure is a gain and an
    offset for each channel, by least squares over unclipped pixels.
    """
    shift_px = _estimate_shift(*(image.mean(-1) / 255 for image in (truth, defocused)))
    gains, offsets = [], []
    for channel in range(3):
        moved = _moved(truth[..., channel] / 255.0, shift_px)
        x, y = (_widely_blurred(image) for image in (moved, defocused[..., channel] / 255.0))
        known = np.minimum(x, y) > DARKEST
        known &= np.maximum(x, y) < BRIGHTEST
        gain, offset = _line(x[known], y[known])
        gains.append(gain)
        offsets.append(offset)
    found = Registration(shift_px, tuple(gains), tuple(offsets), 0.0)  # pyright: ignore[reportArgumentType]
    residual = _residual(found.apply(truth), defocused, found.margin_px)
    return Registration(found.shift_px, found.gain, found.offset, residual)


def _estimate_shift(sharp: Grey, blurred: Grey) -> tuple[float, float]:
    a, b = _band(sharp), _band(blurred)
    down, right = _whole_shift(a, b)
    for _ in range(STEPS):
        moved = _moved(a, (down, right))
        inside = slice(LARGEST_SHIFT_PX, -LARGEST_SHIFT_PX or None)
        gradients: list[Grey] = np.gradient(moved)  # pyright: ignore[reportAssignmentType]
        dy, dx = (gradient[inside, inside] for gradient in gradients)
        m, target = moved[inside, inside], b[inside, inside]
        # b = contrast * (moved - step . gradient), whose contrast is free, since blur lowers it;
        # by the normal equations, which need no copy of the images
        columns = (m, -dy, -dx)
        gram = np.array([[np.vdot(first, second) for second in columns] for first in columns])
        right_side = np.array([np.vdot(column, target) for column in columns])
        contrast, ddown, dright = np.linalg.lstsq(gram, right_side, rcond=None)[0]
        if not contrast > 0:
            break
        step = np.clip(np.array([ddown, dright]) / contrast, -1, 1)
        down, right = down + step[0], right + step[1]
        if np.abs(step).max() < SMALLEST_STEP_PX:
            break
    return float(down), float(right)


def _band(image: Grey) -> Grey:
    return gaussian_filter(image, FINE_PX) - gaussian_filter(image, COARSE_PX)


def _whole_shift(a: Grey, b: Grey) -> tuple[float, float]:
    """Return the whole shift (down, right) of a within 32 px at which it correlates best with b."""
    window = np.outer(np.hanning(a.shape[0]), np.hanning(a.shape[1]))
    spectra = [np.asarray(rfft2(image * window)) for image in (a, b)]
    correlation = np.asarray(irfft2(np.conj(spectra[0]) * spectra[1], a.shape))
    reach = [min(LARGEST_SHIFT_PX, n // 2 - 1) for n in a.shape]
    rows, columns = (np.r_[0 : r + 1, -r:0] for r in reach)
    near = correlation[np.ix_(rows, columns)]
    y, x = np.unravel_index(int(near.argmax()), near.shape)
    return float(rows[y]), float(columns[x])


def _moved(image: Grey, shift_px: tuple[float, float]) -> Grey:
    """Return an image (H, W), shifted (down, right) by cubic splines."""
    return np.asarray(shift(image, shift_px, order=3, mode="nearest")) if any(shift_px) else image


def _widely_blurred(image: Grey) -> Grey:
    """Return an image, blurred by EXPOSURE_SHARE, at a resolution that is as coarse as the blur."""
    sigma_px = EXPOSURE_SHARE * min(image.shape)
    factor = max(1, int(sigma_px / EXPOSURE_SIGMA_PX))
    height, width = (length // factor for length in image.shape)
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return gaussian_filter(blocks.mean((1, 3)), sigma_px / factor)


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return gain and offset of y over x; a flat image has an offset alone."""
    if x.size < 2 or x.std() < 1e-3:
        return 1.0, float((y - x).mean()) if x.size else 0.0
    gain = float(np.cov(x, y)[0, 1] / x.var(ddof=1))
    return gain, float(y.mean() - gain * x.mean())


def _residual(truth: NDArray[np.uint8], defocused: NDArray[np.uint8], margin_px: int) -> float:
    inside = (slice(margin_px, -margin_px or None),) * 2

    def square(sigma_px: float) -> float:
        total = 0.0
        for channel in range(3):
            sharp, blurred = (image[..., channel] / 255.0 for image in (truth, defocused))
            difference = gaussian_filter(sharp, sigma_px) - blurred
            total += float((difference[inside] ** 2).mean())
        return total / 3

    best = minimize_scalar(square, bounds=(0, LARGEST_SIGMA_PX), method="bounded",
                           options={"xatol": 0.05})  # fmt: skip
    return float(np.sqrt(min(best.fun, square(0.0))))
