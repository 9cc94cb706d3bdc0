"""A search for better parameters: Optuna proposes, each trial is one execution of notebook 02 into a run of its own.

outputs/<name>/
    tuning.json       what is searched, from which parameters, on which data
    journal.log       the trials, in Optuna's journal: any number of processes and machines that share the folder write it
    claims/*.lock     trials at work; the operating system drops the claim of a process that dies
    trials.csv        the trials as a table
    best.yaml         the best settings, for `mlkit run -f`
outputs/<name>-trial000/ ...  the runs

Every trial stands in a queue before it runs, those of the search without values, which the sampler gives when they start. So
a search has exactly as many trials as were asked for, whoever works on it, and what was begun and lost is queued again.
"""

from mlkit.experiments.search.storage import use_storage
from mlkit.experiments.search.tuning import Tuning

__all__ = ["Tuning", "use_storage"]
