"""Resumable, verified, atomic downloads."""
