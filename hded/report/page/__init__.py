"""The report's page: figures, example images and tables in one HTML file."""
