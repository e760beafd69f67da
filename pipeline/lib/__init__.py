"""Shared by the commands: paths, MLflow, devices, digests."""
