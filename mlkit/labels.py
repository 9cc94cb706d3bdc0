"""Label tables: what is in them, counted.

A label table is a DataFrame: index `image` (path relative to the images folder), one nullable Int8 column per attribute,
`<NA>` where nobody knows. `attrs["source"]` names the file that it was read from, `attrs["notes"]` lists what the reader
tidied up.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mlkit.errors import LabelError


def to_codes(labels: pd.DataFrame) -> np.ndarray:
    """Label table as an int8 array (images, attributes) of 1, 0 and -1 for unknown."""
    return labels.to_numpy(dtype=np.int8, na_value=-1)


def from_codes(codes: np.ndarray, images: Iterable[str], attributes: Iterable[str]) -> pd.DataFrame:
    """Label table from an array (images, attributes) of 1, 0 and -1 for unknown; the inverse of `to_codes`."""
    codes = np.asarray(codes, np.int8)
    names = list(attributes)
    columns = [pd.arrays.IntegerArray(np.where(c < 0, np.int8(0), c), c < 0) for c in codes.T]
    index = pd.Index(list(images), name="image", dtype=object)
    table = pd.DataFrame(dict(enumerate(columns)), index=index)
    return table.set_axis(names, axis=1)


def captions(labels: pd.DataFrame) -> list[str]:
    """One line per image: the attributes that it has, then those unknown with a question mark."""
    names = np.array(labels.columns, dtype=object)
    return [", ".join([*names[row == 1], *(f"{name}?" for name in names[row < 0])]) or "none" for row in to_codes(labels)]


def label_counts(labels: pd.DataFrame) -> pd.DataFrame:
    """Per attribute: positives, negatives, unknown, prevalence (positives among known), imbalance (majority / minority).

    Prevalence and imbalance are NaN where they are undefined: nothing known, or one class absent.
    """
    codes = to_codes(labels)
    positives, negatives, unknown = (codes == 1).sum(0), (codes == 0).sum(0), (codes < 0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        minority = np.minimum(positives, negatives).astype(float)
        imbalance = np.maximum(positives, negatives) / np.where(minority > 0, minority, np.nan)
        prevalence = positives / np.where(positives + negatives > 0, positives + negatives, np.nan)
    return pd.DataFrame(
        {
            "positives": positives,
            "negatives": negatives,
            "unknown": unknown,
            "prevalence": prevalence,
            "imbalance": imbalance,
        },
        index=pd.Index(labels.columns, name="attribute"),
    )


def cooccurrence(labels: pd.DataFrame) -> pd.DataFrame:
    """P(column = 1 | row = 1) over the images that know both, shape (attributes, attributes); NaN where there are none."""
    codes = to_codes(labels)
    positive, known = (codes == 1).astype(float), (codes >= 0).astype(float)
    both, base = positive.T @ positive, positive.T @ known
    share = np.divide(both, base, out=np.full_like(both, np.nan), where=base > 0)
    return pd.DataFrame(share, index=labels.columns, columns=labels.columns)


def na_patterns(labels: pd.DataFrame) -> pd.DataFrame:
    """Which attributes are unknown together: one row per pattern (True = unknown), most frequent first, with `images`."""
    unknown = labels.isna()
    patterns, counts = np.unique(unknown.to_numpy(), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    table = pd.DataFrame(patterns[order], columns=labels.columns)
    return table.set_index(pd.Index(counts[order], name="images"))


def pos_weight(labels: pd.DataFrame, cap: float = 100.0) -> pd.Series:
    """Weight of a positive cell per attribute: negatives / positives among the known cells, at most `cap`.

    An attribute without known positives or without known negatives gets 1: with one class only there is no balance to
    restore, and the ratio would be infinite or zero.

    Raises:
        LabelError: if `cap` is not above 0.
    """
    if not cap > 0:
        raise LabelError(f"the cap of pos_weight is {cap}; it must be above 0")
    counts = label_counts(labels)
    both = (counts.positives > 0) & (counts.negatives > 0)
    ratio = (counts.negatives / counts.positives.where(counts.positives > 0)).where(both, 1.0)
    return ratio.clip(upper=cap).rename("pos_weight")
