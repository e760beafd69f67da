"""Evaluation of a trained network on a dataset's test frames, under stated protocols."""
