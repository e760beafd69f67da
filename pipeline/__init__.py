"""The commands: the DVC stages read files, call `hded`, write files, and log to MLflow."""

import os

# Waiting OpenMP threads spin before they sleep, and on shared cores take time from the work they
# wait for; figures in reports/promises.md. Read when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
