"""A production embedding API for small CPU servers."""

__version__ = "0.1.0"
