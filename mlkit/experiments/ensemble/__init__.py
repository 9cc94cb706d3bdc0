"""An ensemble: the calibrated logits of several runs averaged, as one model file and a run folder of its own.

It is judged from what its members left in their run folders, see `votes`; nothing is trained or computed again.
"""

from mlkit.experiments.ensemble.build import build_ensemble

__all__ = ["build_ensemble"]
