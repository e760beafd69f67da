"""Downloads that are resumed, verified, and atomic."""
