"""The thresholds of a finished run, chosen again; nothing is trained."""

import numpy as np
import pandas as pd

from mlkit.evaluation.predictions import Predictions
from mlkit.evaluation.thresholds import parse_policy
from mlkit.models.modelfile import load_model
from mlkit.notebooks import CHAIN, TRAINING
from mlkit.notebooks.manifest import Manifest
from mlkit.runs import Run
from mlkit.training.finish import Outputs, TrainedModel, finish_run
from mlkit.training.recipe import data_of


def choose_again(run: Run, policy: str) -> pd.DataFrame:
    """Choose the thresholds of a finished run by another policy, on the same validation images.

    Replaces model.pth and metrics.json, and lets notebooks that read them be executed again by the next `mlkit run`.

    Returns:
        See `metrics.evaluate`.

    Raises:
        ParameterError: if the policy is none.
        RunError: if the run is not finished, another process is at work there, or a guarantee is asked for and the data is
            another one than the run was made from.
    """
    parse_policy(policy)
    run.check_finished()
    old, (network, meta) = run.read_json("metrics.json"), load_model(run / "model.pth")
    sides = {side: Predictions.read(run, side) for side in ("validation", "test")}
    outputs = {side: Outputs(pd.Index(of.images), of.logits.astype(np.float32), of.targets) for side, of in sides.items()}
    prevalence = np.array([np.nan if share is None else share for share in old["training_prevalence"].values()])
    model = TrainedModel(network, {key: value for key, value in meta.items() if key != "guarantee"}, prevalence, None)
    facts = {key: value for key, value in old.items() if key != "guarantee"}

    with run.claimed():
        table = finish_run(run, model, outputs, policy, facts, lambda: data_of(run))
        Manifest(run).forget(CHAIN[CHAIN.index(TRAINING) + 1 :])
    return table
