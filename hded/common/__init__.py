"""Code shared by all packages: errors, command lines, progress bars, image files, resizing."""
