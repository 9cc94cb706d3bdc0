"""The ordered notebooks, headless: parameters checked, unchanged notebooks skipped, failures reported with the way on."""

from mlkit.notebooks.chain import CHAIN, TRAINING, select
from mlkit.notebooks.execution import InterruptedNotebook, NotebookError, execute, light_formats
from mlkit.notebooks.pipeline import earlier_parameters, run_notebooks

__all__ = [
    "CHAIN",
    "TRAINING",
    "InterruptedNotebook",
    "NotebookError",
    "earlier_parameters",
    "execute",
    "light_formats",
    "run_notebooks",
    "select",
]
