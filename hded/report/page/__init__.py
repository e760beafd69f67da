"""The page: figures, images and tables in one HTML file."""
