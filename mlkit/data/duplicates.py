"""Near duplicates: groups that a split must not tear apart, and what their labels say about label noise.

What makes two images near duplicates, and how they are found, is in `fingerprints`.
"""

import numpy as np
import pandas as pd

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.fingerprints import BITS, DISTANCE, fingerprints, near_duplicates
from mlkit.data.labels import to_codes
from mlkit.errors import ParameterError

_MOST_BITS = 16  # beyond, bands get so short that all pairs are candidates
_KEPT = "fingerprints-1"  # in the pixel cache; another number for another way to compute them


def duplicate_groups(dataset: MultiLabelDataset, distance: int = DISTANCE) -> pd.Series:
    """Group of every image, for `split_images(groups=...)`: the name of the group's first image; its own where it is alone.

    Groups are the connected components of near duplicates: the ends of a chain (frames of a film, say) may differ visibly,
    but no image on one side of a split has a near duplicate on the other.

    Args:
        dataset: its cached pixels are compared, so at its image size; 32 pixels are enough. Fingerprints are computed once
            and kept with the pixel cache.
        distance: bits in which the hashes may differ, 0 to 16; fewer find less, more cost time and add little, since the
            thumbnails must agree as well.

    Raises:
        ParameterError: if `distance` is out of range.
    """
    if not 0 <= distance <= _MOST_BITS:
        raise ParameterError(
            f"distance is {distance}; it must lie between 0 and {_MOST_BITS} bits of {BITS}, {DISTANCE} say"
        )
    firsts = near_duplicates(dataset.map_pixels(fingerprints, "hashing", keep=_KEPT), distance)
    index = dataset.labels.index
    return pd.Series(index.to_numpy()[firsts], index=index, name="group", dtype=object)


def contradictions(labels: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Groups of duplicates whose known labels differ: one row per group and attribute in dispute.

    Args:
        labels: label table.
        groups: image -> group, of `duplicate_groups`; `MultiLabelDataset.digests` for identical files alone.

    Returns:
        Columns attribute, images (of the group), labels (those known, by image).
    """
    numbers, _, positives, negatives = _known_by_group(labels, groups)
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(len(positives) + 1))
    codes = to_codes(labels)
    rows = []
    for group, attribute in np.argwhere((positives > 0) & (negatives > 0)):
        members = order[starts[group] : starts[group + 1]]
        said = [f"{labels.index[i]}: {codes[i, attribute]}" for i in members if codes[i, attribute] >= 0]
        rows.append({"attribute": labels.columns[attribute], "images": len(members), "labels": ", ".join(said)})
    return pd.DataFrame(rows, columns=["attribute", "images", "labels"])


def disputed(labels: pd.DataFrame, groups: pd.Series) -> np.ndarray:
    """Boolean (images, attributes): known cells that a duplicate of the image contradicts; arguments as before."""
    numbers, _, positives, negatives = _known_by_group(labels, groups)
    result: np.ndarray = ((positives > 0) & (negatives > 0))[numbers] & (to_codes(labels) >= 0)
    return result


def noise_ceiling(labels: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """How well labels agree with themselves, per attribute: over all pairs of duplicates that both know it.

    Arguments as for `contradictions`.

    Returns:
        pairs; disagreeing; disagreement, their share; by_chance, the share if labels were drawn at random with the
        attribute's prevalence; accuracy_ceiling, the largest accuracy that any model can show on such labels:
        1 - e, where a label that is wrong with probability e, independently, makes a share
        2 e (1 - e) of the pairs disagree. NaN where there are no pairs. A group of n images gives n (n - 1) / 2 pairs,
        so that a few large groups can dominate.
    """
    _, _, positives, negatives = _known_by_group(labels, groups)
    known = positives + negatives
    pairs = (known * (known - 1) // 2).sum(axis=0)
    disagreeing = (positives * negatives).sum(axis=0)
    share = np.divide(disagreeing, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    total = known.sum(axis=0)
    prevalence = np.divide(positives.sum(axis=0), total, out=np.full(len(pairs), np.nan), where=total > 0)
    wrong = (1 - np.sqrt(np.maximum(1 - 2 * share, 0))) / 2
    return pd.DataFrame(
        {
            "pairs": pairs,
            "disagreeing": disagreeing,
            "disagreement": share,
            "by_chance": 2 * prevalence * (1 - prevalence),
            "accuracy_ceiling": 1 - wrong,
        },
        index=pd.Index(labels.columns, name="attribute"),
    )


def _known_by_group(labels: pd.DataFrame, groups: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Group number of each image, images per group; known positives and negatives, each (groups, attributes)."""
    named = labels.index.to_series().map(groups)
    numbers, _ = pd.factorize(named.where(named.notna(), labels.index.to_series()))
    codes = to_codes(labels)
    sizes = np.bincount(numbers)
    positives, negatives = np.zeros((2, len(sizes), codes.shape[1]), np.int64)
    np.add.at(positives, numbers, codes == 1)
    np.add.at(negatives, numbers, codes == 0)
    return numbers, sizes, positives, negatives
