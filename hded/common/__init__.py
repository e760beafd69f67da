"""What every part uses: errors, command lines, progress bars, image files, resizing."""
