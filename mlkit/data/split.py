"""Which images to train on, to validate on, to test on: stratified by what is known of each attribute."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from mlkit.data.labels import to_codes
from mlkit.errors import LabelError


def split_images(
    labels: pd.DataFrame,
    validation: float = 0.2,
    seed: int = 0,
    groups: Mapping[str, str] | pd.Series | None = None,
    test: float = 0.0,
    folds: int = 0,
    fold: int = 0,
) -> pd.Series:
    """Assign every image to "train", "validation" or "test", keeping each attribute's known cells in proportion.

    Iterative stratification (Sechidis et al. 2011, iterative-stratification) on the indicator columns [y = 1, y = 0]: an
    unknown cell counts for neither. Its sizes are near what is asked, not exact.

    Args:
        labels: label table.
        validation: share of images for validation, between 0 and 1.
        seed: same seed, same split.
        groups: image -> group; a group stays on one side (files with identical content, say). An image that is not
            named is a group of its own.
        test: share of images for the test, from 0.
        folds: k of k-fold cross-validation, whose fold number `fold` is the test set instead; 0 for none.
        fold: from 0 to folds - 1.

    Raises:
        LabelError: if there are too few images to split.
    """
    numbers, indicators = _indicators(labels, groups)
    count, share = len(indicators), 1 / folds if folds else test
    if not 0 < validation < 1 or not 0 <= share < 1 - validation:
        raise LabelError(
            f"validation_fraction is {validation} and the share for the test {share:.2f}; validation must lie between 0 and "
            "1, and both together below 1"
        )
    if count < max(4, folds):
        raise LabelError(f"{count} different images are too few to split; label at least {max(4, folds)}")
    side = np.full(count, "train", dtype=object)
    if folds:
        side[_folds(indicators, folds, seed) == fold] = "test"
    elif test:
        side[_held_out(indicators, test, seed)] = "test"
    rest = np.flatnonzero(side == "train")
    side[rest[_held_out(indicators[rest], validation / (1 - share), seed)]] = "validation"
    wanted = {"train", "validation"} | ({"test"} if share else set())
    if missing := wanted - set(side):
        raise LabelError(f"the split leaves no image of {count} for {', '.join(missing)}; change its fractions")
    split = pd.Series(side[numbers], index=labels.index, name="split")
    if (split == "train").sum() < 2:  # batch normalisation, and any learning, compares images
        raise LabelError(
            f"the split leaves 1 image of {len(split)} to train on, 2 are needed; label more, or lower its fractions"
        )
    return split


def fold_images(
    labels: pd.DataFrame, folds: int = 5, seed: int = 0, groups: Mapping[str, str] | pd.Series | None = None
) -> pd.Series:
    """Fold of every image, 0 to folds - 1, for cross-validation; stratified and grouped as `split_images` does.

    Raises:
        LabelError: if there are fewer groups than folds, or fewer than 2 folds.
    """
    numbers, indicators = _indicators(labels, groups)
    if not 2 <= folds <= len(indicators):
        raise LabelError(
            f"{len(indicators)} different images cannot make {folds} folds; ask for at least 2, at most that many"
        )
    return pd.Series(_folds(indicators, folds, seed)[numbers], index=labels.index, name="fold")


def _indicators(labels: pd.DataFrame, groups: Mapping[str, str] | pd.Series | None) -> tuple[np.ndarray, np.ndarray]:
    """Number of each image's group, and what is known of each group: columns [y = 1, y = 0].

    A group counts as positive (negative) for an attribute if any of its images is.
    """
    own = labels.index.to_series()
    group = own if groups is None else own.map(groups).astype(object)
    numbers, names = pd.factorize(group.where(group.notna(), own))
    codes = to_codes(labels)
    indicators = np.zeros((len(names), 2 * codes.shape[1]), np.int8)
    np.maximum.at(indicators, numbers, np.hstack([codes == 1, codes == 0]).astype(np.int8))
    return numbers, indicators


def _folds(indicators: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Stratified fold of every row."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    splitter = MultilabelStratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold = np.zeros(len(indicators), np.int64)
    for number, (_, held_out) in enumerate(splitter.split(indicators, indicators)):
        fold[held_out] = number
    return fold


def _held_out(indicators: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Positions of a stratified share of the rows."""
    if math.ceil(share * len(indicators)) >= len(indicators):
        raise LabelError(f"the split leaves no image of {len(indicators)} to train on; lower validation_fraction")
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    held_out: np.ndarray = next(splitter.split(indicators, indicators))[1]
    return held_out
