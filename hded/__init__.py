"""Joint depth estimation and deblurring from one defocused image: the pure library.

No DVC, no MLflow, nothing done at import. The floor above, `pipeline`, turns these functions into
stages; `hded` never imports it.
"""

__version__ = "0.1.0"
