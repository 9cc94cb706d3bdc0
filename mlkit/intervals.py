"""Bootstrap intervals: how far a figure would move on other images of the same kind.

Images are drawn with replacement, all cells of an image together (Efron & Tibshirani 1993). A resample is kept as the number
of times that each image was drawn, and the figures take these as weights: nothing is copied, each attribute is sorted once.

Percentile intervals know only the images at hand: below some twenty known cells of a class they are too narrow, and a figure
that is perfect on these images gets no width at all.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from mlkit.metrics import DEFAULT_THRESHOLD, checked
from mlkit.progress import bar

FIGURES = ("AP", "ROC_AUC", "F1", "Brier")
MEAN = "macro mean"
_BLOCK_CELLS = 2**16  # of the matrix (resamples, images) that is worked on at a time: half a MiB, which stays in the cache


def bootstrap(
    probabilities: np.ndarray,
    targets: np.ndarray,
    attributes: list[str],
    thresholds: np.ndarray | float = DEFAULT_THRESHOLD,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile intervals of `FIGURES` per attribute and of their macro means (mAP is the one of AP).

    A resample in which an attribute lacks a class has no figure of it and is left out of its interval (Brier scores need no
    second class); the macro means of that resample are over the other attributes.

    Args:
        probabilities: (images, attributes), 0..1.
        targets: (images, attributes) of 1, 0 and -1 for unknown.
        attributes: their names.
        thresholds: probability from which an attribute counts as present, one for all, one each, or (images, attributes);
            taken as given, not chosen again in each resample.
        resamples: how many.
        level: share of resamples within the interval.
        seed: of the resamples; the same seed and number of images give the same resamples.

    Returns:
        Index (figure, attribute), the mean being attribute `MEAN`; columns value (on the data itself), low, high, and
        left_out: resamples without this figure, or, for a mean, resamples in which the mean lacks one of its attributes.

    Raises:
        ValueError: if shapes or values are not as described.
    """
    weighted = WeightedFigures(probabilities, targets, attributes, thresholds)
    value = weighted(np.ones((1, len(targets))))[0]
    draws = np.concatenate([weighted(counts) for counts in _resamples(len(targets), resamples, seed)])
    return _table(value, draws, attributes, level).rename(columns={"center": "value"})


def compare(
    first: np.ndarray,
    second: np.ndarray,
    targets: np.ndarray,
    attributes: list[str],
    first_thresholds: np.ndarray | float = DEFAULT_THRESHOLD,
    second_thresholds: np.ndarray | float = DEFAULT_THRESHOLD,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Differences `first - second` of two prediction sets on the same images, both judged on the same resamples.

    What makes an image hard is hard for both and cancels, so this sees differences that two separate intervals hide.

    Args:
        first: (images, attributes) probabilities of one model.
        second: those of the other.
        targets, attributes, resamples, level, seed: as for `bootstrap`.
        first_thresholds: of the first model, one for all or one each.
        second_thresholds: of the second.

    Returns:
        As `bootstrap`, with difference in place of value, and above_0: share of the resamples in which the first has the
        higher figure (better for all but Brier, where lower is better).
    """
    one = WeightedFigures(first, targets, attributes, first_thresholds)
    two = WeightedFigures(second, targets, attributes, second_thresholds)
    ones = np.ones((1, len(targets)))
    draws = np.concatenate([one(counts) - two(counts) for counts in _resamples(len(targets), resamples, seed)])
    table = _table((one(ones) - two(ones))[0], draws, attributes, level).rename(columns={"center": "difference"})
    defined = np.isfinite(draws).sum(axis=0)
    above = np.where(defined > 0, (draws > 0).sum(axis=0) / np.maximum(defined, 1), np.nan)
    table.insert(3, "above_0", above.ravel())
    return table


def mean_ap_draws(
    predictions: Sequence[np.ndarray],
    targets: np.ndarray,
    attributes: list[str],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """mAP of many prediction sets on the same images, all judged on the same resamples.

    Any difference between sets then has an interval: the quantiles of the same difference of the draws.

    Args:
        predictions: one (images, attributes) array of probabilities each.
        targets, attributes, resamples, seed: as for `bootstrap`.

    Returns:
        mAP (sets,) on the data itself, and draws (resamples, sets); NaN where no attribute has both classes.
    """
    weighted = [WeightedFigures(p, targets, attributes, DEFAULT_THRESHOLD) for p in predictions]
    column = FIGURES.index("AP")

    def means(weights: np.ndarray) -> np.ndarray:
        return np.stack([one(weights)[:, column, -1] for one in weighted], axis=1)

    draws = [means(counts) for counts in _resamples(len(targets), resamples, seed)]
    return means(np.ones((1, len(targets))))[0], np.concatenate(draws)


def _resamples(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is drawn, in blocks of (resamples, images); the block size does not change the draws."""
    if not images:
        raise ValueError("a bootstrap needs at least one image")
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // images)
    with bar(total=resamples, desc="bootstrap", unit="resample", delay=2) as progress:
        for start in range(0, resamples, block):
            size = min(block, resamples - start)
            drawn = rng.integers(images, size=(size, images)) + images * np.arange(size)[:, None]
            yield np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images).astype(np.float64)
            progress.update(size)


class WeightedFigures:
    """`FIGURES` of one prediction set for any weights of its images; what does not depend on weights is computed once."""

    def __init__(
        self, probabilities: np.ndarray, targets: np.ndarray, attributes: list[str], thresholds: np.ndarray | float
    ) -> None:
        p, y = checked(probabilities, targets, attributes)
        self.sorted = [_Sorted(p[:, i], y[:, i]) for i in range(y.shape[1])]
        present = p >= np.asarray(thresholds, np.float64)
        self.known, self.positive = (y >= 0).astype(np.float64), (y == 1).astype(np.float64)
        self.hit = ((y == 1) & present).astype(np.float64)
        self.called = ((y >= 0) & present).astype(np.float64)
        self.squared = np.where(y >= 0, np.square(np.where(y >= 0, p, 0) - y), 0)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(resamples, figures, attributes + 1) for (resamples, images) weights; the last is the macro mean."""
        known, positive = weights @ self.known, weights @ self.positive
        both = (positive > 0) & (positive < known)
        rank = np.stack([by_rank(weights) for by_rank in self.sorted], axis=-1)
        f1 = 2 * (weights @ self.hit) / np.maximum(positive + weights @ self.called, 1)
        brier = np.where(known > 0, weights @ self.squared / np.maximum(known, 1), np.nan)
        figures = np.stack([*np.where(both, rank, np.nan), np.where(both, f1, np.nan), brier], axis=1)
        # as in `metrics.macro`: no figure of an attribute that lacks a class enters
        count = both.sum(axis=1)[:, None]
        total = np.where(both[:, None], figures, 0).sum(axis=2)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return np.concatenate([figures, mean[..., None]], axis=2)


class _Sorted:
    """Average precision and ROC AUC of one attribute for any weights of its images, ties included.

    Both are means over the positives: AP of the precision among the cells scored at least as high, ROC AUC of the share of
    negatives scored lower, equal ones counting half. Running sums down the ranking give both.
    """

    def __init__(self, p: np.ndarray, y: np.ndarray) -> None:
        known = np.flatnonzero(y >= 0)
        self.order = known[np.argsort(-p[known], kind="stable")]
        self.positive = (y[self.order] == 1).astype(np.float64)
        score = p[self.order]
        self.starts = np.flatnonzero(np.diff(score, prepend=np.inf))  # where a run of equal scores begins
        self.ties = len(self.starts) < len(score)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(2, resamples): AP and ROC AUC; meaningless where a class has no weight."""
        if not len(self.order):
            return np.zeros((2, len(weights)))
        cells = weights.take(self.order, axis=1)
        positives = cells * self.positive
        if self.ties:  # equal scores enter the ranking at once
            cells, positives = (np.add.reduceat(part, self.starts, axis=1) for part in (cells, positives))
        tied_pairs = np.einsum("rc,rc->r", positives, cells - positives) if self.ties else 0.0
        hits, retrieved = np.cumsum(positives, axis=1), np.cumsum(cells, axis=1)
        positive, negative = hits[:, -1].copy(), retrieved[:, -1] - hits[:, -1]
        at_least_as_high = np.einsum("rc,rc->r", positives, retrieved - hits)  # pairs with a negative no lower
        precision = np.divide(hits, np.maximum(retrieved, 1, out=retrieved), out=hits)
        ap = np.einsum("rc,rc->r", positives, precision) / np.maximum(positive, 1)
        return np.stack([ap, 1 - (at_least_as_high - tied_pairs / 2) / np.maximum(positive * negative, 1)])


def _table(center: np.ndarray, draws: np.ndarray, attributes: list[str], level: float) -> pd.DataFrame:
    """Percentiles of (resamples, figures, attributes + 1) draws, and how many were left out."""
    undefined = np.isnan(draws)
    left_out = undefined.sum(axis=0)
    counted = np.isfinite(center[0, :-1])
    left_out[:, -1] = undefined[:, 0, :-1][:, counted].any(axis=1).sum()
    tails = (0.5 - level / 2, 0.5 + level / 2)
    columns = [column[~np.isnan(column)] for column in draws.reshape(len(draws), -1).T]
    low, high = np.array([np.quantile(column, tails) if len(column) else (np.nan, np.nan) for column in columns]).T
    index = pd.MultiIndex.from_product([FIGURES, [*attributes, MEAN]], names=["figure", "attribute"])
    return pd.DataFrame({"center": center.ravel(), "low": low, "high": high, "left_out": left_out.ravel()}, index=index)
