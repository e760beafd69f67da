"""Readers for the files that the stages write."""
