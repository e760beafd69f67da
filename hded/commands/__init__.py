"""The commands of `hded`, one module each."""
