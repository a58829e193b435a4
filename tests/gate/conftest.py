"""A finished run, written by hand."""

from finished_run import finished

__all__ = ["finished"]
