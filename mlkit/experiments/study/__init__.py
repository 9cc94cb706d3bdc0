"""The study of missing labels: known cells are hidden, each method learns from the rest, the full truth judges.

outputs/<study>/
    study.json        what was asked for, and of which data
    cells/*.json      one finished cell of the grid each: its settings and figures
    cells/*.lock      claims; the operating system drops that of a process which dies
    results.csv       the finished cells as one table

A cell of the grid is one method, mechanism, share of known cells and seed. Its name is the digest of all that decides its
figures, so that whatever was finished once is never computed again: after an interruption, in a study that grew, or beside
other processes that work on the same study.
"""

from mlkit.experiments.study.cells import run_study

__all__ = ["run_study"]
