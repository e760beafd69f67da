"""Fitting a network: data, losses, the training loop, checkpoints."""
