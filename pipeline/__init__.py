"""The DVC stages: each reads files, calls `hded`, writes files, and logs to MLflow."""
