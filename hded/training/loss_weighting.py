"""The weights of the two tasks' losses, fixed or learned.

- `fixed`: depth + lambda x deblurring (equation 7 of the paper).
- `uncertainty`: each loss times exp(-s), plus s, with s learned (Kendall et al. 2018, whose factors
  for an L1 likelihood these are). Both start at s = 0.
- `gradnorm`: weights that sum to 2, steered so that the tasks' gradients at the encoder's output
  have norms in proportion to how far each lags behind (Chen et al. 2018, alpha 1.5).

The learned weightings do not use lambda; validation, which compares epochs, always does. A network
with one head has a single loss and no weights.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hded.common.heads import HEADS
from hded.config.schema import Loss

T = TypeVar("T", Tensor, float)

GRADNORM_ALPHA = 1.5
GRADNORM_LR = 0.025


class LossWeighting(nn.Module):
    """The weights of the tasks' losses; the state dict holds them and how they are learned."""

    def __init__(self, settings: Loss) -> None:
        super().__init__()
        self.name = settings.weighting
        self.lambda_ = settings.lambda_
        if self.name == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(len(HEADS)))
        elif self.name == "gradnorm":
            # changed by `learn`, not by the network's optimiser
            self.weights = nn.Parameter(torch.ones(len(HEADS)), requires_grad=False)
            self.first: Tensor
            self.register_buffer("first", torch.zeros(len(HEADS)))
            self.optimizer = torch.optim.Adam([self.weights], lr=GRADNORM_LR)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the losses of the tasks that are present, a scalar."""
        if self.name == "fixed" or len(losses) == 1:
            return self.by_lambda(losses)
        values = torch.stack([losses[task] for task in HEADS])
        if self.name == "uncertainty":
            return (torch.exp(-self.log_variance) * values + self.log_variance).sum()
        # a copy: `learn` changes the weights before the sum is differentiated
        return (self.weights.detach().clone() * values).sum()

    def by_lambda(self, losses: Mapping[str, T]) -> T:
        """Return depth + lambda x deblurring (equation 7), or the loss of a single head."""
        if len(losses) == 1:
            return next(iter(losses.values()))
        return losses["depth"] + self.lambda_ * losses["all_in_focus"]

    def current(self) -> dict[str, float]:
        """Return the weight that each task's loss has now."""
        if self.name == "fixed":
            return {"depth": 1.0, "all_in_focus": self.lambda_}
        weights = torch.exp(-self.log_variance) if self.name == "uncertainty" else self.weights
        return dict(zip(HEADS, weights.tolist(), strict=True))

    def learn(self, losses: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> None:
        """Take one step of GradNorm with the tasks' unweighted losses and gradient norms."""
        if self.name != "gradnorm" or len(losses) == 1:
            return
        values = torch.stack([losses[task].detach() for task in HEADS])
        norm = torch.stack([norms[task].detach() for task in HEADS])
        if not self.first.any():
            self.first.copy_(values)
        progress = values / self.first.clamp(min=1e-12)
        weighted = self.weights * norm
        target = weighted.mean() * (progress / progress.mean()) ** GRADNORM_ALPHA
        self.weights.grad = torch.sign(weighted - target) * norm
        self.optimizer.step()
        self.weights.clamp_(min=1e-3)
        self.weights.mul_(len(HEADS) / self.weights.sum())

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of GradNorm's own optimiser."""
        return self.optimizer.state_dict() if self.name == "gradnorm" else {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state that `get_extra_state` returned."""
        if self.name == "gradnorm":
            self.optimizer.load_state_dict(state)
