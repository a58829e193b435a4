"""Model compression as a gated, repeatable part of a PyTorch repository.

PYTEST_DONT_REWRITE: pytest would warn where it is started by a program that has imported this package already.
"""

__version__ = "0.1.0"
