"""The losses of the paper (equations 1 to 7) and of other systems, and their weighted sum.

Depth losses average over valid pixels only; a batch without any gives zero. Images are in [0, 1].
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hded.blur.batch import gaussian_gather_batch
from hded.blur.lenses import max_sigma_px, need_lenses, sigma_px, unclamped_coc_px
from hded.blur.support import radius_px
from hded.config.schema import Gradient, Loss
from hded.network.hded import SCALE
from hded.network.readout import encode_coc, encode_ordinal, expected_error
from hded.training.batch import Batch
from hded.training.loss_weighting import LossWeighting, T
from hded.training.similarity import ssim

CHARBONNIER_EPS = 1e-3
PREWITT = ((-1.0, 0.0, 1.0),) * 3


def l1_depth(pred: Tensor, gt: Tensor, valid: Tensor) -> Tensor:
    """Return the mean absolute error (equation 1) as a scalar in the unit of `pred`.

    pred, gt, valid: (B, 1, H, W); only pixels where `valid` is true count.
    """
    return _masked_mean((pred - gt).abs(), valid)


def gradient_depth(
    pred: Tensor, gt: Tensor, valid: Tensor, operator: Gradient = "forward"
) -> Tensor:
    """Return the mean of |dx R| + |dy R| with R = pred - gt (equation 2); all (B, 1, H, W).

    `forward`: forward differences, each direction averaged over its own pairs of valid pixels.
    `prewitt`: the 3x3 Prewitt operator (unnormalised), where its nine pixels are valid.
    """
    residual = torch.where(valid, pred - gt, 0)
    if operator == "prewitt":
        kernel = torch.tensor(PREWITT, dtype=pred.dtype, device=pred.device)[None, None]
        whole = -F.max_pool2d(-valid.to(pred.dtype), 3, stride=1) > 0.5
        dx = F.conv2d(residual, kernel)
        dy = F.conv2d(residual, kernel.transpose(2, 3))
        return _masked_mean(dx.abs() + dy.abs(), whole)
    dx = (residual[..., :, 1:] - residual[..., :, :-1]).abs()
    dy = (residual[..., 1:, :] - residual[..., :-1, :]).abs()
    return _masked_mean(dx, valid[..., :, 1:] & valid[..., :, :-1]) + _masked_mean(
        dy, valid[..., 1:, :] & valid[..., :-1, :]
    )


def charbonnier(image: Tensor, reference: Tensor, eps: float = CHARBONNIER_EPS) -> Tensor:
    """Return the mean of sqrt(d^2 + eps^2) (equation 4) of images (B, 3, H, W) in [0, 1]."""
    return ((image - reference) ** 2 + eps**2).sqrt().mean()


def l1_image(image: Tensor, reference: Tensor) -> Tensor:
    """Return the mean absolute error of images (B, 3, H, W) in [0, 1]."""
    return (image - reference).abs().mean()


def ssim_loss(image: Tensor, reference: Tensor) -> Tensor:
    """Return 1 - SSIM (equation 5) of images (B, 3, H, W) in [0, 1]."""
    return 1 - ssim(image, reference).mean()


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    # where(), not a product: an invalid pixel's NaN must not reach the sum
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def mse_image(image: Tensor, reference: Tensor) -> Tensor:
    """Return the mean squared error of images (B, 3, H, W) in [0, 1]."""
    return (image - reference).square().mean()


def frequency_distance(image: Tensor, reference: Tensor) -> Tensor:
    """Return the L1 distance of the Fourier transforms of images (B, 3, H, W) in [0, 1].

    The mean absolute differences of the real parts and of the imaginary parts, added. The
    transform is not normalised, as in NRKNet: the distance grows with the image's size.
    """
    difference = torch.fft.fft2(image.float() - reference.float())
    return difference.real.abs().mean() + difference.imag.abs().mean()


def log_errors(pred: Tensor, gt: Tensor, valid: Tensor) -> Tensor:
    """Return |log pred - log gt| of depth (B, 1, H, W) [m]; pred must be positive."""
    return (pred.log() - torch.where(valid, gt, 1).log()).abs()


def ordinal_depth(logits: Tensor, gt: Tensor, valid: Tensor, thresholds_m: Tensor) -> Tensor:
    """Return the binary cross-entropy of P(depth > t_k), a mean over pixels and thresholds.

    logits: (B, K, H, W); gt, valid: (B, 1, H, W); thresholds_m: (K,) [m] (Fu et al. 2018).
    """
    target = encode_ordinal(gt, thresholds_m)
    errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _masked_mean(errors.mean(1, keepdim=True), valid)


def coc_errors(coc: Tensor, gt: Tensor, valid: Tensor, lenses: Tensor) -> Tensor:
    """Return the absolute errors (B, 1, H, W) of signed CoCs, as `encode_coc` gives them.

    coc: (B, 1, H, W), before any clamp; gt, valid: (B, 1, H, W), depth [m]; lenses: (B, 6).
    """
    return (coc - encode_coc(unclamped_coc_px(torch.where(valid, gt, 1), lenses))).abs()


def laplace(errors: Tensor, log_expected: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of |e| / b + log b, b the expected error: a Laplace negative log-likelihood.

    It is least where b is the mean |e|. errors, log_expected, valid: (B, 1, H, W).
    """
    expected = expected_error(log_expected)
    return _masked_mean(errors / expected + expected.log(), valid)


def surface_depth(pred: Tensor, gt: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three terms of Hu et al. (2019) for depth (B, 1, H, W) [m].

    With e = pred - gt: the means of ln(|e| + 0.5); of ln(|dx e| + 0.5) + ln(|dy e| + 0.5), with
    forward differences; and of 1 - cos of the angle between the surfaces' normals (-dx, -dy, 1).
    """
    error = torch.where(valid, pred - gt, 0)
    depth = _masked_mean((error.abs() + 0.5).log(), valid)
    pairs = valid[..., :-1, :-1] & valid[..., :-1, 1:] & valid[..., 1:, :-1]
    ex, ey = _differences(error)
    slope = _masked_mean((ex.abs() + 0.5).log() + (ey.abs() + 0.5).log(), pairs)
    px, py = _differences(torch.where(valid, pred, 0))
    gx, gy = _differences(torch.where(valid, gt, 0))
    lengths = (px**2 + py**2 + 1).sqrt() * (gx**2 + gy**2 + 1).sqrt()
    return depth, slope, _masked_mean(1 - (px * gx + py * gy + 1) / lengths, pairs)


def reblur(image: Tensor, depth_m: Tensor, lenses: Tensor) -> Tensor:
    """Return image (B, 3, H, W) in [0, 1], blurred by depth_m (B, 1, H, W) through lenses (B, 6).

    Differentiable. Depth below 0.1 m counts as 0.1 m.
    """
    sigma = sigma_px(depth_m.clamp(min=0.1), lenses)
    return gaussian_gather_batch(image, sigma, max_sigma_px=max_sigma_px(lenses))


def image_distance(image: Tensor, reference: Tensor) -> Tensor:
    """Return 0.85 (1 - SSIM) / 2 + 0.15 L1 of images (B, 3, H, W) in [0, 1] (Godard et al.)."""
    return 0.425 * ssim_loss(image, reference) + 0.15 * l1_image(image, reference)


def smoothness(depth_m: Tensor, image: Tensor) -> Tensor:
    """Return the mean |dD| exp(-|dI|) along both axes: depth varies where the image does.

    depth_m: (B, 1, H, W), divided by its own mean here; image: (B, 3, H, W) in [0, 1].
    """
    relative = depth_m / depth_m.mean((2, 3), keepdim=True)
    total = torch.zeros((), device=depth_m.device)
    for d, i in zip(_differences(relative), _differences(image), strict=True):
        total = total + (d.abs() * torch.exp(-i.abs().mean(1, keepdim=True))).mean()
    return total


def sharpness_distance(image: Tensor, reference: Tensor) -> Tensor:
    """Return the mean difference of |second derivatives| of images (B, 3, H, W) in [0, 1]."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=image.device)
    weight = kernel.expand(image.shape[1], 1, 3, 3)

    def detail(x: Tensor) -> Tensor:
        return F.conv2d(x, weight, groups=x.shape[1]).abs()

    return (detail(image) - detail(reference)).abs().mean()


def _differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the forward differences along both axes, (..., H - 1, W - 1) each."""
    corner = x[..., :-1, :-1]
    return x[..., :-1, 1:] - corner, x[..., 1:, :-1] - corner


CONTENT = {
    "charbonnier": ("charbonnier", charbonnier),
    "l1": ("l1_image", l1_image),
    "mse": ("mse_image", mse_image),
}
# the factor of each term in the depth task's loss; l1 has the gradient term beside it
DEPTH_SHARES: dict[str, dict[str, float]] = {
    "l1": {"l1": 1.0},
    "log_l1": {"log_l1": 1.0, "error_likelihood": 1.0},  # the latter with network.confidence
    "ordinal": {"ordinal": 1.0},
    "coc": {"l1_coc": 1.0},
    "coc_likelihood": {"coc_likelihood": 1.0},
    "surface": {"surface": 1.0, "surface_slope": 1.0, "surface_normal": 1.0},
    # of Gur and Wolf (2019)
    "reblur": {"reblur": 1.0, "smoothness": 1e-3, "sharpness": 0.1},
}
# of NRKNet: the weight of the estimate at a quarter of the size, at a half, and at full size
SCALE_WEIGHTS = {4: 0.25, 2: 0.5, 1: 0.75}
LEAST_SIDE_PX = 32  # of the middle of a crop, where re-blurred images are compared


class HDEDLoss(nn.Module):
    """The total loss: that of the paper (equation 7) by default.

    `l1` and its gradient term are taken on the depth head's unscaled output, that is on depth
    divided by `depth_scale_m`: with a scale of 10, lambda weighs ten times more than with 1. No
    other depth loss depends on that scale. `thresholds_m` (K,) are those of an ordinal readout.
    """

    def __init__(
        self, settings: Loss, depth_scale_m: float = 1.0, thresholds_m: Tensor | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.depth_scale_m = depth_scale_m
        self.weighting = LossWeighting(settings)
        self.register_buffer("thresholds", thresholds_m, persistent=False)
        image = CONTENT[settings.content][0]
        depth = dict(DEPTH_SHARES[settings.depth])
        if settings.depth == "l1":
            depth["gradient"] = settings.mu
        # the factor of each term in its task's loss
        restored = {image: 1.0, "ssim": settings.psi, "frequency": settings.frequency}
        self.shares = {"depth": depth, "all_in_focus": {**restored, "scales": 1.0}}

    @property
    def needs_defocused(self) -> bool:
        """Return whether the loss compares with the defocused image, through its lens."""
        return self.settings.depth == "reblur" or self.settings.consistency > 0

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return `total` and each unweighted term, as scalars; outputs: as `HDEDNet` returns them.

        Raises HDEDError where a term needs the lenses and the batch has none.
        """
        w, terms = self.settings, {}
        if "depth" in outputs:
            terms |= self._depth_terms(outputs, batch)
        sharp = (batch.sharp + 1) / 2
        if "all_in_focus" in outputs:
            image = (outputs["all_in_focus"] + 1) / 2
            name, content = CONTENT[w.content]
            terms[name] = content(image, sharp)
            if w.psi:
                terms["ssim"] = ssim_loss(image, sharp)
            if w.frequency:
                terms["frequency"] = frequency_distance(image, sharp)
            if any(name.startswith(SCALE) for name in outputs):
                terms["scales"] = self._scales(outputs, sharp)
        total = self.weighting(self.tasks(terms))
        if w.consistency:
            image = (outputs["all_in_focus"] + 1) / 2
            terms["consistency"] = l1_image(*self._reblurred(image, outputs["depth"], batch))
        if "denoised" in outputs:
            terms["denoising"] = mse_image((outputs["denoised"] + 1) / 2, sharp)
        return {"total": total + self._beside_the_tasks(terms), **terms}

    def _depth_terms(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        w, pred, gt, valid = self.settings, outputs["depth"], batch.depth_m, batch.valid
        if w.depth == "l1":
            pred, gt = pred / self.depth_scale_m, gt / self.depth_scale_m
            terms = {"l1": l1_depth(pred, gt, valid)}
            if w.mu:
                terms["gradient"] = gradient_depth(pred, gt, valid, w.gradient)
            return terms
        if w.depth == "ordinal":
            logits, thresholds = outputs["depth_logits"], self.thresholds
            return {"ordinal": ordinal_depth(logits, gt, valid, thresholds)}  # pyright: ignore[reportArgumentType]
        if w.depth in ("coc", "coc_likelihood"):
            lenses = need_lenses(batch.lenses, f"train.loss.depth: {w.depth}")[:, 0]
            errors = coc_errors(outputs["coc"], gt, valid, lenses)
            if w.depth == "coc_likelihood":
                return {"coc_likelihood": laplace(errors, outputs["log_error"], valid)}
            return {"l1_coc": _masked_mean(errors, valid)}
        if w.depth == "log_l1":
            errors = log_errors(pred.clamp(min=1e-3), gt, valid)
            terms = {"log_l1": _masked_mean(errors, valid)}
            # the errors are constants: of depth, the term moves the layers shared with log_error
            if "log_error" in outputs:
                terms["error_likelihood"] = laplace(errors.detach(), outputs["log_error"], valid)
            return terms
        if w.depth == "surface":
            names = DEPTH_SHARES["surface"]
            return dict(zip(names, surface_depth(pred, gt, valid), strict=True))
        sharp = (batch.sharp + 1) / 2
        image, reference = self._reblurred(sharp, pred, batch)
        return {
            "reblur": image_distance(image, reference),
            "smoothness": smoothness(pred, sharp),
            "sharpness": sharpness_distance(image, reference),
        }

    def _scales(self, outputs: Mapping[str, Tensor], sharp: Tensor) -> Tensor:
        """Return the weighted losses of the estimates at other scales, against averaged pixels."""
        _, content = CONTENT[self.settings.content]
        total = torch.zeros((), device=sharp.device)
        for factor, weight in SCALE_WEIGHTS.items():
            image, target = (outputs[f"{SCALE}{factor}"] + 1) / 2, F.avg_pool2d(sharp, factor)
            total = total + weight * content(image, target)
            if self.settings.frequency:
                distance = frequency_distance(image, target)
                total = total + weight * self.settings.frequency * distance
        return total

    def _reblurred(self, image: Tensor, depth_m: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the re-blurred image and the defocused one, without the margin of a crop.

        What lies around a crop took part in its blur, and is not known here.
        """
        lenses = need_lenses(batch.lenses, "train.loss: re-blurring")[:, 0]
        blurred = reblur(image, depth_m, lenses)
        margin = radius_px(max_sigma_px(lenses))
        margin = max(0, min(margin, (min(image.shape[2:]) - LEAST_SIDE_PX) // 2))
        rows, columns = (slice(margin, n - margin) for n in image.shape[2:])
        defocused = (batch.defocused + 1) / 2
        return blurred[..., rows, columns], defocused[..., rows, columns]

    def by_lambda(self, terms: Mapping[str, float]) -> float:
        """Return the total with the fixed lambda, whatever the weighting, to compare epochs.

        Learned weights differ from epoch to epoch.
        """
        return self.weighting.by_lambda(self.tasks(terms)) + self._beside_the_tasks(terms)

    def _beside_the_tasks(self, terms: Mapping[str, T]) -> T | float:
        """Return the weighted sum of the terms that belong to no task, 0 where there are none."""
        factors = {"consistency": self.settings.consistency, "denoising": 1.0}
        return sum(factor * terms[name] for name, factor in factors.items() if name in terms)

    def tasks(self, terms: Mapping[str, T]) -> dict[str, T]:
        """Return the loss of each task that is present: the sum of its terms, by their shares."""
        return {  # pyright: ignore[reportReturnType]  (a sum starts at the integer 0)
            task: sum(share * terms[name] for name, share in shares.items() if name in terms)
            for task, shares in self.shares.items()
            if next(iter(shares)) in terms
        }
