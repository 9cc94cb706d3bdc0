"""Trials of a search that take no time, and a server of their journal."""

import os

import numpy as np
import pandas as pd

from mlkit.experiments.search import Tuning
from mlkit.experiments.search.pruning import reporter
from mlkit.experiments.search.storage import STORAGE, serve


def worth(parameters):
    """Highest at a learning rate of 0.001; a little better with the larger batch."""
    return 0.9 - 0.1 * abs(np.log10(parameters["learning_rate"]) + 3) + 0.001 * (parameters["batch_size"] == 32)


def play(notebook, run, parameters, **options):
    """What notebook 02 does with its parameters, without a training: three epochs, reported, and a finished run."""
    parameters = parameters | parameters["settings"]
    watcher, epochs, stopped = reporter(parameters["trial"]), [], None
    for epoch in (1, 2, 3):
        epochs.append({"epoch": epoch, "mAP": worth(parameters) * epoch / 3})
        if watcher(epochs) and epoch < 3:
            stopped = {"reason": "pruned", "epoch": epoch}
            break
    data = Tuning.open(parameters["trial"].partition("/")[0]).data
    run.write_json("config.json", {"parameters": parameters, "created": "now", "data": data})
    run.write_table("epochs.csv", pd.DataFrame(epochs))
    facts = {"stopped": stopped, "seconds": 1.0, "epochs": len(epochs), "judged_on": "test", "mean": {"AP": 0.5}}
    run.write_json("metrics.json", facts)


def serve_journal(folder, where):
    """Serve the journal of a folder, whatever storage this process was told to use."""
    os.environ.pop(STORAGE, None)
    serve(folder, where)
