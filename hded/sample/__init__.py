"""The embedded sample: ray-cast scenes, written in the datasets' official raw formats."""
