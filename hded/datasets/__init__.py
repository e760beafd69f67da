"""Readers of the datasets' official raw formats, and of a user's own pictures."""
