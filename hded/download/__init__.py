"""Downloads that are resumed, verified, and never left half there."""
