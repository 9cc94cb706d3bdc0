"""What predictions are worth, attribute by attribute, over the known cells only.

Every figure equals scikit-learn's on the same data with the unknown cells removed. Beside each stands what it takes no model
to get: `chance` is the average precision of a random ranking, `majority_accuracy` the accuracy of always answering the
training majority, `prevalence_Brier` the Brier score of always predicting the training prevalence.
"""

import numpy as np
import pandas as pd

from mlkit.evaluation.ranking import Ranking

DEFAULT_THRESHOLD = 0.5
CALIBRATION_BINS = 15
# Known cells of each class: with fewer, no figure has an interval, and nothing is called above chance.
ENOUGH = 10
FIGURES = (
    "prevalence",
    "chance",
    "AP",
    "ROC_AUC",
    "F1",
    "precision",
    "recall",
    "accuracy",
    "majority_accuracy",
    "Brier",
    "prevalence_Brier",
    "ECE",
)


def evaluate(
    probabilities: np.ndarray,
    targets: np.ndarray,
    attributes: list[str],
    training_prevalence: np.ndarray,
    thresholds: np.ndarray | float = DEFAULT_THRESHOLD,
) -> pd.DataFrame:
    """Counts of known cells and all figures, per attribute.

    Args:
        probabilities: (images, attributes), 0..1.
        targets: (images, attributes) of 1, 0 and -1 for unknown.
        attributes: their names.
        training_prevalence: (attributes,), share of positives among the known training cells, from which the baselines
            follow; NaN (nothing known in training) counts as 0.5.
        thresholds: probability from which an attribute counts as present, one for all or one each.

    Returns:
        One row per attribute: positives, negatives, threshold and `FIGURES`. AP, chance, ROC AUC, F1, precision and recall
        are NaN where a class is absent; the others only where no cell is known.

    Raises:
        ValueError: if shapes or values are not as described.
    """
    probabilities, targets = checked(probabilities, targets, attributes)
    every_threshold = np.broadcast_to(np.asarray(thresholds, np.float64), len(attributes))
    prior = _prior(training_prevalence)
    rows = []
    for i in range(len(attributes)):
        known = targets[:, i] >= 0
        y, p = targets[known, i], probabilities[known, i]
        counts = {"positives": int(y.sum()), "negatives": int((1 - y).sum()), "threshold": every_threshold[i]}
        rows.append(counts | _figures(y, p, p >= every_threshold[i], np.full(len(y), prior[i])))
    return pd.DataFrame(rows, index=pd.Index(attributes, name="attribute"))


def macro(table: pd.DataFrame) -> pd.Series:
    """Mean of each figure of `evaluate` over the attributes that have both classes (mAP is the mean of AP).

    `attrs["left_out"]` of the result lists the attributes that lack a class and so are not in the mean; `attrs["over"]` says
    over how many of how many it is, "2 of 8 attributes".
    """
    both = (table.positives > 0) & (table.negatives > 0)
    mean = table.loc[both, list(FIGURES)].mean().rename("mean")
    mean.attrs["left_out"] = [str(name) for name in table.index[~both]]
    mean.attrs["over"] = f"{both.sum()} of {len(both)} attributes"
    return mean


def chance(positives: int, cells: int) -> float:
    """Average precision that a random ranking of `cells` has on average, `positives` of them positive.

    With k of n positive and H = 1 + 1/2 + ... + 1/n it is `(k - 1) / (n - 1) (1 - H / n) + H / n`: a positive at rank r has
    itself and, on average, (r - 1) (k - 1) / (n - 1) others among the first r (Bestgen 2015). While positives are few, that
    is well above the prevalence k / n: 0.31 for 1 of 9.
    """
    share = float((1 / np.arange(1, cells + 1)).sum()) / cells
    return (positives - 1) / (cells - 1) * (1 - share) + share


def micro(
    probabilities: np.ndarray,
    targets: np.ndarray,
    training_prevalence: np.ndarray,
    thresholds: np.ndarray | float = DEFAULT_THRESHOLD,
) -> pd.Series:
    """Each figure over the known cells of all attributes in one pool: frequent and well-known attributes weigh more.

    Arguments as for `evaluate`. Attributes that lack a class are in the pool. The rank figures compare cells of different
    attributes, so here, unlike in the macro mean, ranking by prevalence alone beats a random ranking.
    """
    probabilities, targets = checked(probabilities, targets)
    known = targets >= 0
    prior = np.broadcast_to(_prior(training_prevalence), targets.shape)
    decisions = probabilities >= np.asarray(thresholds, np.float64)
    return pd.Series(_figures(targets[known], probabilities[known], decisions[known], prior[known]), name="micro")


def confusion(
    probabilities: np.ndarray,
    targets: np.ndarray,
    attributes: list[str],
    thresholds: np.ndarray | float = DEFAULT_THRESHOLD,
) -> pd.DataFrame:
    """Known cells by truth and decision: one row per attribute, columns TP, FN, FP, TN; arguments as for `evaluate`."""
    probabilities, targets = checked(probabilities, targets, attributes)
    decisions = probabilities >= np.asarray(thresholds, np.float64)
    cells = {"TP": (1, True), "FN": (1, False), "FP": (0, True), "TN": (0, False)}
    columns = {name: ((targets == y) & (decisions == d)).sum(axis=0) for name, (y, d) in cells.items()}
    return pd.DataFrame(columns, index=pd.Index(attributes, name="attribute"))


def reliability(probabilities: np.ndarray, targets: np.ndarray, bins: int = CALIBRATION_BINS) -> pd.DataFrame:
    """Mean prediction against observed share of positives, in equal-mass bins of one attribute's known cells.

    The bins hold equal numbers of cells: most attributes are imbalanced, their predictions crowd near 0, and
    bins of equal width would put nearly all cells into one (Nguyen & O'Connor 2015). Equal predictions share a bin.

    Args:
        probabilities: (images,), 0..1.
        targets: (images,) of 1, 0 and -1 for unknown.
        bins: at most so many; empty ones are left out.

    Returns:
        One row per bin: predicted, observed, cells.
    """
    known = targets >= 0
    y, p = targets[known], probabilities[known].astype(np.float64)
    if not len(y):
        return pd.DataFrame({"predicted": [], "observed": [], "cells": []})
    number = np.searchsorted(np.sort(p), p) * bins // len(p)  # by rank: equal predictions have the lowest one of theirs
    cells, predicted, observed = (np.bincount(number, weights, minlength=bins) for weights in (None, p, y))
    full = cells > 0
    cells = cells[full]
    return pd.DataFrame({"predicted": predicted[full] / cells, "observed": observed[full] / cells, "cells": cells})


def expected_calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Mean of |predicted - observed| over the cells in `reliability`'s bins; NaN without a known cell.

    Naeini, Cooper & Hauskrecht 2015, with equal-mass bins. With few cells it is above zero even for perfect predictions: by
    roughly `sqrt(bins p (1 - p) / cells)`.
    """
    table = reliability(probabilities, targets, bins)
    if table.empty:
        return np.nan
    return float(np.average((table.predicted - table.observed).abs(), weights=table.cells))


def checked(
    probabilities: np.ndarray, targets: np.ndarray, attributes: list[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities as float64 and targets as small integers, after a look at shapes and values.

    float64 because a float32 probability at its threshold must compare as it does in `Predictor`.

    Raises:
        ValueError: with what was expected and what came.
    """
    probabilities, targets = np.asarray(probabilities, np.float64), np.asarray(targets)
    if probabilities.ndim != 2 or probabilities.shape != targets.shape:
        raise ValueError(
            f"probabilities {probabilities.shape} and targets {targets.shape} must both be (images, attributes)"
        )
    if attributes is not None and len(attributes) != targets.shape[1]:
        raise ValueError(f"{len(attributes)} attributes named, but the targets have {targets.shape[1]} columns")
    unknown = targets < 0
    if not (unknown | (targets == 0) | (targets == 1)).all():
        raise ValueError("targets must be 1, 0 or below 0 for unknown")
    if not (unknown | ((probabilities >= 0) & (probabilities <= 1))).all():
        raise ValueError("probabilities of known cells must be between 0 and 1 (logits? NaN?)")
    return probabilities, np.where(unknown, -1, targets).astype(np.int8)


def _prior(training_prevalence: np.ndarray) -> np.ndarray:
    prevalence = np.asarray(training_prevalence, np.float64)
    return np.where(np.isnan(prevalence), 0.5, prevalence)


def _figures(y: np.ndarray, p: np.ndarray, d: np.ndarray, prior: np.ndarray) -> dict[str, float]:
    """`FIGURES` of known cells: truth, probability, decision and training prevalence of each."""
    figures = dict.fromkeys(FIGURES, np.nan)
    if len(y):
        figures["prevalence"] = y.mean()
        figures["accuracy"] = (d == y).mean()
        figures["majority_accuracy"] = ((prior >= 0.5) == y).mean()
        figures["Brier"] = np.square(p - y).mean()
        figures["prevalence_Brier"] = np.square(prior - y).mean()
        figures["ECE"] = expected_calibration_error(p, y)
    if 0 < y.sum() < len(y):
        figures["chance"] = chance(int(y.sum()), len(y))
        figures["AP"], figures["ROC_AUC"] = Ranking(p, y == 1).figures()
        found, claimed = (d & (y == 1)).sum(), d.sum()
        # No positive decision gives precision 0, as scikit-learn does, so that the mean cannot profit from it.
        figures["precision"], figures["recall"] = found / max(claimed, 1), found / y.sum()
        figures["F1"] = 2 * found / (claimed + y.sum())
    return figures
