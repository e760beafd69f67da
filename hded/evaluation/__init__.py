"""Measuring a network on a dataset's test frames, under stated protocols."""
