"""The page: figures, pictures and tables in one HTML file."""
