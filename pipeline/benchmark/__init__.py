"""Speed and memory, measured against named baselines."""
