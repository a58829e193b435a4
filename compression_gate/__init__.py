"""Model compression as a gated, repeatable part of a PyTorch repository."""

__version__ = "0.1.0"
