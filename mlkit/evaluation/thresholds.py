"""Thresholds: the probability from which an attribute counts as present, chosen on validation data."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mlkit.errors import ParameterError, nearest
from mlkit.evaluation.metrics import DEFAULT_THRESHOLD, ENOUGH, checked
from mlkit.progress import listed

# An attribute with so many known positives stands alone; below, its threshold is mixed with the pooled one.
ENOUGH_POSITIVES = 50
# Known positives at which own and pooled threshold weigh the same. The weight n / (n + k) is that of an empirical Bayes
# mean, as noise falls with 1 / n. Of k = 0, 5, 10, 20, 50 and 100, in simulations (attributes of 2 to 80 % prevalence,
# scores calibrated or balanced), 5 lost the least F1 on average; where attributes differ, more borrowing does harm.
POOLED_WEIGHT = 5


def choose_thresholds(
    probabilities: np.ndarray, targets: np.ndarray, attributes: list[str], policy: str | float = "f1"
) -> pd.DataFrame:
    """Choose the threshold of each attribute on its known cells.

    An attribute with n < 50 known positives gets `w own + (1 - w) pooled` with `w = n / (n + 5)`, where pooled is the choice
    for the cells of all attributes together; an attribute that lacks a class gets the pooled one. The figures at thresholds
    on the data that chose them are flattering: report them on other data.

    Args:
        probabilities: (images, attributes), 0..1.
        targets: (images, attributes) of 1, 0 and -1 for unknown.
        attributes: their names.
        policy: "f1" for the highest F1; "precision:0.9" for the highest recall among thresholds of at least that precision
            (the highest precision if none reaches it); "recall:0.9" likewise; "fixed:0.3" or a number for that threshold,
            "fixed" for 0.5; "guarantee:0.95" for the thresholds of "f1".

    Returns:
        One row per attribute: threshold, and how it came about: own (NaN if a class is absent), pooled, own_weight,
        positives.

    Raises:
        ParameterError: if the policy is unknown.
        ValueError: if shapes or values are not as described.
    """
    name, wanted = parse_policy(policy)
    if name == "guarantee":  # decides by probabilities of its own, see `guarantee.certify`
        name = "f1"
    probabilities, targets = checked(probabilities, targets, attributes)
    known = targets >= 0
    positives = (targets == 1).sum(axis=0)
    if name == "fixed":
        pooled, own, weight = wanted, np.full(len(attributes), wanted), np.ones(len(attributes))
    else:
        pooled = _choose(probabilities[known], targets[known], name, wanted)
        pooled = DEFAULT_THRESHOLD if np.isnan(pooled) else pooled
        columns = [(probabilities[known[:, i], i], targets[known[:, i], i]) for i in range(len(attributes))]
        own = np.array([_choose(p, y, name, wanted) for p, y in columns])
        weight = np.where(positives < ENOUGH_POSITIVES, positives / (positives + POOLED_WEIGHT), 1.0)
        weight[np.isnan(own)] = 0.0
    return pd.DataFrame(
        {
            "threshold": weight * np.nan_to_num(own) + (1 - weight) * pooled,
            "own": own,
            "pooled": pooled,
            "own_weight": weight,
            "positives": positives,
        },
        index=pd.Index(attributes, name="attribute"),
    )


def smallest_class(targets: np.ndarray, attributes: list[str]) -> dict[str, int]:
    """Of each attribute the known yes or the known no, whichever are fewer: what thresholds and calibration rest on."""
    cells = np.minimum((targets == 1).sum(axis=0), (targets == 0).sum(axis=0))
    return {name: int(count) for name, count in zip(attributes, cells, strict=True)}


def rests_on_few(cells: Mapping[str, int]) -> str:
    """Of `smallest_class`, which attributes have fewer than `metrics.ENOUGH`, in words; empty where none has."""
    few = [f"{name} ({count})" for name, count in cells.items() if count < ENOUGH]
    where = f"fewer than {ENOUGH} known yes, or known no, of the validation images"
    return f"threshold and calibration rest on {where}: {listed(few)}" if few else ""


def parse_policy(policy: str | float) -> tuple[str, float]:
    """Name and number of a policy, NaN where it has none.

    Raises:
        ParameterError: naming the nearest known policy, or the range of the number.
    """
    name, _, number = str(policy).replace(" ", "").lower().partition(":")
    if _number(name) is not None and not number:
        name, number = "fixed", name
    if name == "fixed" and not number:
        return name, DEFAULT_THRESHOLD
    if name == "f1" and not number:
        return name, np.nan
    if name not in ("precision", "recall", "fixed", "guarantee"):
        known = ("f1", "precision:0.9", "recall:0.9", "fixed:0.5", "guarantee:0.95")
        raise ParameterError(f"threshold policy {policy!r} is unknown{nearest(str(policy), known)}")
    value = _number(number)
    if name == "guarantee" and value is not None and not 0.5 <= value < 1:
        raise ParameterError(f"threshold policy {policy!r}: what is promised must be from 0.5 to below 1")
    if value is None or not 0 <= value <= 1:
        raise ParameterError(f"threshold policy {policy!r}: {name} needs a number between 0 and 1, as in {name}:0.9")
    return name, value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _choose(p: np.ndarray, y: np.ndarray, name: str, wanted: float) -> float:
    """The threshold for known cells; NaN where a class is absent."""
    if not 0 < y.sum() < len(y):
        return np.nan
    from sklearn.metrics import precision_recall_curve

    precision, recall, scores = precision_recall_curve(y, p)
    precision, recall = precision[:-1], recall[:-1]  # the last point is "nothing is present", without a score
    if name == "f1":
        merit, tie = 2 * precision * recall / np.maximum(precision + recall, 1e-12), recall
    elif name == "precision":
        merit, tie = np.minimum(precision, wanted), recall
    else:
        merit, tie = np.minimum(recall, wanted), precision
    best = np.lexsort((tie, merit))[-1]
    # Half-way to the next lower score: the same decisions here, and no new image is refused for lying a hair below.
    lower = scores[best - 1] if best else 0.0
    return float((scores[best] + lower) / 2)
