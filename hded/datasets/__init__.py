"""Readers of the datasets' official raw formats, the embedded sample, and downloads."""
