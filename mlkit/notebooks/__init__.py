"""The ordered notebooks, headless: parameters checked, unchanged notebooks skipped, failures reported with the way on."""

from mlkit.notebooks.chain import CHAIN, TRAINING, select
from mlkit.notebooks.execution import InterruptedNotebook, NotebookError, execute
from mlkit.notebooks.pipeline import earlier_parameters, run_notebooks

__all__ = [
    "CHAIN",
    "TRAINING",
    "InterruptedNotebook",
    "NotebookError",
    "earlier_parameters",
    "execute",
    "run_notebooks",
    "select",
]
