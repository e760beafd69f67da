"""params.yaml as checked types."""
