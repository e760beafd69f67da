"""params.yaml as validated types."""
