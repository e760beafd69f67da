"""The commands: the DVC stages read files, call `hded`, write files, and log to MLflow."""

import os

# Waiting OpenMP threads spin before they sleep, which on shared cores slows down the very work that
# they wait for; measured in reports/promises.md. torch reads the variable when it is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
