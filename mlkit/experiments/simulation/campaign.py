"""One campaign: a person answers in rounds, a model learns after each, the truth of the test images judges it."""

import numpy as np
import pandas as pd

from mlkit.curation.label_errors import suspicion
from mlkit.curation.orders import NEEDS, Pool, ask
from mlkit.data.labels import from_codes, to_codes
from mlkit.evaluation.ranking import Ranking
from mlkit.experiments.simulation.config import Campaign, Simulation
from mlkit.experiments.simulation.learners import Learner
from mlkit.experiments.study.hiding import hide


def run_campaign(
    simulation: Simulation, campaign: Campaign, truth: pd.DataFrame, test: np.ndarray, features: np.ndarray, learner: Learner
) -> tuple[list[int], list[float]]:
    """The curve of a campaign.

    Args:
        simulation: its rounds and answers.
        campaign: what to run.
        truth: label table; what it does not know is neither asked nor judged.
        test: boolean (images,), those that judge and are not asked.
        features: (images, features), of `representative`.
        learner: who learns.

    Returns:
        How many answers had been given when the model learned, from 0, and as many mAP on the full truth of the test images.
    """
    true = to_codes(truth)
    codes, answers = person(simulation, campaign, truth, test)
    may_ask = (true >= 0) & ~test[:, None]
    given: list[int] = [0]
    curve: list[float] = []
    while True:
        probabilities = learner.learn(codes)
        curve.append(mean_ap(probabilities[test], true[test]))
        if len(curve) > simulation.rounds:
            return given, curve
        one_sided = (codes == 1).any(axis=0) != (codes == 0).any(axis=0)
        probabilities[:, one_sided] = np.nan  # a model that knows one class alone is sure of it
        need = NEEDS.get(campaign.order)
        several = learner.members(codes) if need else None
        suspicious = None
        if several is not None and need == "suspicion":
            labels = from_codes(codes, truth.index, truth.columns)
            unseen = several[learner.folds, np.arange(len(codes))]
            suspicious = suspicion(labels, pd.DataFrame(unseen, labels.index, labels.columns))
        seed = campaign.seed * simulation.rounds + len(curve)
        pool = Pool(probabilities, codes, may_ask, features, several, suspicious, seed)
        rows, columns, _ = ask(pool, campaign.order, simulation.answers_per_round, campaign.by)
        if not len(rows):
            return given, curve
        codes[rows, columns] = answers[rows, columns]
        may_ask[rows, columns] = False
        given.append(given[-1] + len(rows))


def person(
    simulation: Simulation, campaign: Campaign, truth: pd.DataFrame, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (images, attributes) that are known at the start, none of a test image, and what the person answers to each.

    Both are wrong in a share of `campaign.error`, independently. Who asks the same cells gets the same answers.
    """
    labels = truth.copy()
    labels[test] = pd.NA
    known = to_codes(
        hide(labels, 1 - campaign.hidden, campaign.mechanism, campaign.seed, simulation.ratio, simulation.block_images)
    )
    wrong = np.random.default_rng([campaign.seed, *b"person"]).random((2, *known.shape)) < campaign.error
    return _flipped(known, wrong[0]), _flipped(to_codes(truth), wrong[1])


def _flipped(codes: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Codes whose known cells are the other way round where `wrong`."""
    return np.where(wrong & (codes >= 0), 1 - codes, codes)


def mean_ap(probabilities: np.ndarray, true: np.ndarray) -> float:
    """Mean over the attributes of average precision on their known cells; those that lack a class are left out."""
    known = [(p[y >= 0], y[y >= 0] == 1) for p, y in zip(probabilities.T, true.T, strict=True)]
    return float(np.nanmean([Ranking(p, positive).figures()[0] for p, positive in known]))
