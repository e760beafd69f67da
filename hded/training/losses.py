"""The losses of the paper (equations 1 to 7) as pure functions, and their weighted sum.

Depth losses average over valid pixels only; a batch without any gives zero. Images are in [0, 1].
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hded.config.schema import Gradient, Loss
from hded.metrics.structural_similarity import ssim
from hded.training.loss_weighting import LossWeighting, T

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


CONTENT = {"charbonnier": ("charbonnier", charbonnier), "l1": ("l1_image", l1_image)}


class HDEDLoss(nn.Module):
    """The total loss of the paper (equation 7): depth (3) plus lambda times deblurring (6).

    The depth terms are taken on the depth head's unscaled output, that is on depth divided by
    `depth_scale_m`: with a scale of 10, lambda weighs ten times more than with 1.
    """

    def __init__(self, settings: Loss, depth_scale_m: float = 1.0) -> None:
        super().__init__()
        self.settings = settings
        self.depth_scale_m = depth_scale_m
        self.weighting = LossWeighting(settings)
        image = CONTENT[settings.content][0]
        # the factor of each term in its task's loss
        self.shares = {
            "depth": {"l1": 1.0, "gradient": settings.mu},
            "all_in_focus": {image: 1.0, "ssim": settings.psi},
        }

    def forward(
        self, outputs: Mapping[str, Tensor], depth_m: Tensor, valid: Tensor, sharp: Tensor
    ) -> dict[str, Tensor]:
        """Return `total` and each unweighted term, as scalars.

        outputs: by head, as `HDEDNet` returns them; depth_m, valid (bool): (B, 1, H, W);
        sharp: (B, 3, H, W) in [-1, 1].
        """
        w, terms = self.settings, {}
        if "depth" in outputs:
            pred, gt = outputs["depth"] / self.depth_scale_m, depth_m / self.depth_scale_m
            terms["l1"] = l1_depth(pred, gt, valid)
            if w.mu:
                terms["gradient"] = gradient_depth(pred, gt, valid, w.gradient)
        if "all_in_focus" in outputs:
            image, reference = (outputs["all_in_focus"] + 1) / 2, (sharp + 1) / 2
            name, content = CONTENT[w.content]
            terms[name] = content(image, reference)
            if w.psi:
                terms["ssim"] = ssim_loss(image, reference)
        return {"total": self.weighting(self.tasks(terms)), **terms}

    def by_lambda(self, terms: Mapping[str, float]) -> float:
        """Return the total with the fixed lambda, whatever the weighting, to compare epochs.

        Learned weights differ from epoch to epoch.
        """
        return self.weighting.by_lambda(self.tasks(terms))

    def tasks(self, terms: Mapping[str, T]) -> dict[str, T]:
        """Return the loss of each task that is present: the sum of its terms, by their shares."""
        return {  # pyright: ignore[reportReturnType]  (a sum starts at the integer 0)
            task: sum(share * terms[name] for name, share in shares.items() if name in terms)
            for task, shares in self.shares.items()
            if next(iter(shares)) in terms
        }
