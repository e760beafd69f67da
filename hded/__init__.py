"""Joint depth estimation and deblurring from one defocused image: the library.

It uses neither DVC nor MLflow, and importing it has no side effects. The package `pipeline` turns
its functions into stages; `hded` never imports `pipeline`.
"""

__version__ = "0.1.0"
