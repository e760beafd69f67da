"""Shared by every package: errors, command lines, progress bars, image files, resizing."""
