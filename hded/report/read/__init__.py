"""Readers of the files that the stages wrote."""
