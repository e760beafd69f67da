"""Benchmark of speed and memory against named baselines."""
