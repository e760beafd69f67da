"""What the commands share: paths, MLflow, devices, digests."""
