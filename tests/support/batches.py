"""Batches for tests of losses."""

from torch import Tensor

from hded.training.batch import Batch


def truth(depth_m: Tensor, valid: Tensor, sharp: Tensor) -> Batch:
    """A batch of this truth, whose defocused images are the sharp ones, of unknown lenses."""
    return Batch(sharp, sharp, sharp, depth_m, valid, None, ())
