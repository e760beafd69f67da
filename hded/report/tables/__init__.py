"""The tables: the paper's and ours, as Markdown, CSV and LaTeX."""
