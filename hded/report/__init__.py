"""Tables I to IV beside the published numbers, and a self-contained HTML page."""
