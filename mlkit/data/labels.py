"""Label tables: what is in them, counted.

A label table is a DataFrame: index `image` (path relative to the images folder), one nullable Int8 column per attribute,
`<NA>` where nobody knows. `attrs["source"]` names the file that it was read from, `attrs["notes"]` lists how, where that may
not be expected.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mlkit.errors import LabelError, ParameterError, nearest
from mlkit.progress import listed, shorten

POS_WEIGHT_POLICIES = ("balanced", "sqrt", "effective", "none")


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


def captions(labels: pd.DataFrame, most: int = 8) -> list[str]:
    """One line per image: the attributes that it has, then those unknown with a question mark; of many, the first `most`.

    For figures: long names lose their middle.
    """
    names = np.array([shorten(str(name), 24) for name in labels.columns], dtype=object)
    return [listed([*names[row == 1], *(f"{name}?" for name in names[row < 0])], most) for row in to_codes(labels)]


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


def one_sided(labels: pd.DataFrame, most: int = 8) -> list[str]:
    """What is known on one side only, a sentence each: attributes without a yes, without a no; of many, the first `most`."""
    counts = label_counts(labels)
    known = counts.positives + counts.negatives > 0
    if known.any() and not counts.negatives.any():
        return ["every known cell is a yes: a file of positives only, in which a no cannot be told from an unknown cell"]
    said = []
    lacks = {"known cell": ~known, "yes": known & (counts.positives == 0), "no": known & (counts.negatives == 0)}
    for what, lacking in lacks.items():
        if lacking.any():
            said.append(f"attributes without a {what}: {listed(counts.index[lacking], most)}")
    return said


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


def pos_weight(
    labels: pd.DataFrame,
    cap: float = 100.0,
    policy: str = "balanced",
    beta: float = 0.999,
    image_weights: np.ndarray | None = None,
) -> pd.Series:
    """Weight of a positive cell per attribute, from its known cells, at most `cap`.

    An attribute without known positives or without known negatives gets 1: with one class only there is no balance to
    restore, and the ratio would be infinite or zero.

    Args:
        labels: the label table.
        cap: the largest weight; a handful of positives should not outweigh everything else.
        policy: "balanced", negatives / positives; "sqrt", its square root, a compromise where rare attributes are
            overpredicted; "effective", E(negatives) / E(positives) of the effective numbers E(n) = (1 - beta^n) / (1 - beta)
            (Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019); "none", 1.
        beta: of the effective number, in [0, 1); images beyond 1 / (1 - beta) of a class add little to it.
        image_weights: (images,), how often each is drawn where a sampler prefers some; the cells are counted as drawn, so
            that sampler and weight do not both make up for the same imbalance. None counts each once.

    Raises:
        LabelError: if `cap` is not above 0.
        ParameterError: if the policy is unknown or beta outside [0, 1).
    """
    if not cap > 0:
        raise LabelError(f"the cap of pos_weight is {cap}; it must be above 0")
    if policy not in POS_WEIGHT_POLICIES:
        raise ParameterError(f"there is no pos_weight policy {policy!r}{nearest(policy, POS_WEIGHT_POLICIES)}")
    if not 0 <= beta < 1:
        raise ParameterError(f"beta of pos_weight is {beta}; it must be at least 0 and below 1")
    codes = to_codes(labels)
    drawn = np.ones(len(codes)) if image_weights is None else np.asarray(image_weights, float)
    positives = pd.Series(drawn @ (codes == 1), index=pd.Index(labels.columns, name="attribute"))
    negatives = pd.Series(drawn @ (codes == 0), index=positives.index)
    weighted = (positives > 0) & (negatives > 0) & (policy != "none")
    if policy == "effective":  # the factor 1 - beta of both effective numbers cancels
        positives, negatives = 1 - beta**positives, 1 - beta**negatives
    weights = negatives / positives.where(weighted)
    if policy == "sqrt":
        weights **= 0.5
    return weights.clip(upper=cap).where(weighted, 1.0).rename("pos_weight")
