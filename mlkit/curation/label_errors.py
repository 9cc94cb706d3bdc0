"""Labels that are probably wrong: known cells that contradict a model which has not seen them."""

import numpy as np
import pandas as pd

from mlkit.data.labels import to_codes

COLUMNS = ["attribute", "rank", "image", "label", "probability", "score", "probable_error"]


def label_errors(labels: pd.DataFrame, probabilities: pd.DataFrame, most: int | None = None) -> pd.DataFrame:
    """Known cells of each attribute, the most suspicious first, by confident learning (cleanlab, Northcutt et al. 2021).

    Scores are adjusted for each class's mean confidence: a model of an imbalanced attribute is unsure of all its positives,
    and they must not be flagged for that alone.

    Args:
        labels: label table.
        probabilities: same shape, of "yes", from models that have not seen the image: out-of-fold, as
            `probe.out_of_fold` gives them. A model that has seen a wrong label believes it.
        most: cells per attribute; all by default.

    Returns:
        One row per cell: attribute, rank (1: most suspicious), image, label (as given), probability (of the label given),
        score (lower: more suspicious), probable_error (whether cleanlab counts it as one). Unknown cells, and attributes
        with fewer than two known cells of either class, are not listed.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    p = probabilities.loc[labels.index, list(labels.columns)].to_numpy(dtype=np.float64)
    tables = [pd.DataFrame({column: pd.Series(dtype=object) for column in COLUMNS})]
    for i, (attribute, column) in enumerate(zip(labels.columns, to_codes(labels).T, strict=True)):
        known = np.flatnonzero(column >= 0)
        given = column[known].astype(np.int64)
        if np.bincount(given, minlength=2).min() < 2:
            continue
        both = np.stack([1 - p[known, i], p[known, i]], axis=1)
        score = get_label_quality_scores(given, both, method="self_confidence", adjust_pred_probs=True)
        wrong = find_label_issues(given, both, filter_by="prune_by_noise_rate", n_jobs=1)
        order = np.argsort(score, kind="stable")[:most]
        cells = {
            "attribute": attribute,
            "rank": np.arange(1, len(order) + 1),
            "image": labels.index.to_numpy()[known[order]],
            "label": given[order],
            "probability": both[order, given[order]],
            "score": score[order],
            "probable_error": wrong[order],
        }
        tables.append(pd.DataFrame(cells, columns=COLUMNS))
    return pd.concat(tables[1:], ignore_index=True) if len(tables) > 1 else tables[0]


def suspicion(labels: pd.DataFrame, probabilities: pd.DataFrame) -> np.ndarray:
    """How suspicious each cell (images, attributes) is that `label_errors` counts as a probable error; NaN for all others.

    Arguments as for `label_errors`.
    """
    found = label_errors(labels, probabilities)
    found = found[found.probable_error.astype(bool)]
    result = np.full(labels.shape, np.nan)
    rows, columns = labels.index.get_indexer(pd.Index(found.image)), labels.columns.get_indexer(pd.Index(found.attribute))
    result[rows, columns] = 1 - found.score
    return result
