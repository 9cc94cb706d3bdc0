"""Multi-label image classification with missing labels."""

__version__ = "0.1.0"
