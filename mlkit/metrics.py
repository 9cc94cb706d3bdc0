"""What predictions are worth, attribute by attribute, over the known cells only."""

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, f1_score

DEFAULT_THRESHOLD = 0.5


def evaluate(
    probabilities: np.ndarray,
    targets: np.ndarray,
    attributes: list[str],
    majority: np.ndarray,
    thresholds: np.ndarray | float = DEFAULT_THRESHOLD,
) -> pd.DataFrame:
    """Per attribute: counts of known cells, average precision, F1 and accuracy, each beside what it takes no model to get.

    Every figure equals scikit-learn's on the same data with the unknown cells removed.

    Args:
        probabilities: (images, attributes), 0..1.
        targets: (images, attributes) of 1, 0 and -1 for unknown.
        attributes: their names.
        majority: (attributes,) of 0 and 1: the more frequent value in the training data, the baseline's constant answer.
        thresholds: probability from which an attribute counts as present, one for all or one each.

    Returns:
        One row per attribute. `prevalence` is the AP of a random ranking; `majority_accuracy` is that of always answering
        the majority. AP and F1 are NaN where a class is absent.
    """
    decisions = probabilities >= thresholds
    rows = []
    for i, attribute in enumerate(attributes):
        known = targets[:, i] >= 0
        y, p, d = targets[known, i], probabilities[known, i], decisions[known, i]
        both = 0 < y.sum() < len(y)
        rows.append(
            {
                "attribute": attribute,
                "positives": int((y == 1).sum()),
                "negatives": int((y == 0).sum()),
                "prevalence": y.mean() if len(y) else np.nan,
                "AP": average_precision_score(y, p) if both else np.nan,
                "F1": f1_score(y, d) if both else np.nan,
                "accuracy": (d == y).mean() if len(y) else np.nan,
                "majority_accuracy": (y == majority[i]).mean() if len(y) else np.nan,
            }
        )
    return pd.DataFrame(rows).set_index("attribute")


def macro(table: pd.DataFrame) -> pd.Series:
    """Mean of each figure of `evaluate` over the attributes that have both classes (mAP is the mean of AP)."""
    figures = ["prevalence", "AP", "F1", "accuracy", "majority_accuracy"]
    return table.loc[table.AP.notna(), figures].mean().rename("mean")
