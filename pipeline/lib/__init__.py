"""Code shared by the commands: paths, MLflow, devices, fingerprints."""
