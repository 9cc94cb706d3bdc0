"""The study of missing labels: known cells are hidden, each method learns from the rest, the full truth judges.

A cell of the grid (`mlkit.experiments.grid`) is one method, mechanism, share of known cells and seed.
"""

from mlkit.experiments.study.cells import run_study

__all__ = ["run_study"]
