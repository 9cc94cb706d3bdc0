"""Average precision and ROC AUC of one attribute's ranking: of all cells, without each of them, for labels dealt out again.

Both are means over the positives: AP of the precision among the cells scored at least as high, ROC AUC of the share of
negatives scored lower, equal ones counting half.
"""

import numpy as np


class Ranking:
    """The known cells of one attribute, the highest score first.

    Args:
        p: (cells,), scores.
        positive: boolean (cells,).
    """

    def __init__(self, p: np.ndarray, positive: np.ndarray) -> None:
        self._order = np.argsort(-p, kind="stable")
        score, self._yes = -p[self._order], positive[self._order]
        self._above, self._at_least = (np.searchsorted(score, score, side=side) for side in ("left", "right"))
        hits = np.append(0, np.cumsum(self._yes))
        self._hits, self._yes_count, self._no_count = hits[self._at_least], int(hits[-1]), int(len(p) - hits[-1])
        # pairs of a positive and a negative that a cell is in, and that are in the right order
        no, no_above = self._at_least - self._hits, self._above - hits[self._above]
        below = self._no_count - (no + no_above) / 2
        self._pairs = np.where(self._yes, below, (self._hits + hits[self._above]) / 2)

    def figures(self) -> np.ndarray:
        """(2,), AP and ROC AUC; NaN where a class lacks."""
        k, m = self._yes_count, self._no_count
        if not k or not m:
            return np.full(2, np.nan)
        precision = self._hits[self._yes] / self._at_least[self._yes]
        return np.array([precision.mean(), self._pairs[self._yes].sum() / (k * m)])

    def without_each(self) -> np.ndarray:
        """(cells, 2), the figures without each cell; NaN where a class then lacks.

        A cell changes what is ranked at or below it, so that running sums from both ends of the ranking give all at once.
        """
        k, m, yes = self._yes_count, self._no_count, self._yes
        without = np.full((len(yes), 2), np.nan)
        if not k or not m:
            return without
        fewer = np.maximum(self._at_least - 1, 1)
        parts = (self._hits / self._at_least, self._hits / fewer, (self._hits - 1) / fewer)
        sums = [np.append(0, np.cumsum(yes * part)) for part in parts]
        before, after_no, after_yes = sums[0][self._above], *(part[-1] - part[self._above] for part in sums[1:])
        without[self._order, 0] = np.where(yes, (before + after_yes - parts[2]) / max(k - 1, 1), (before + after_no) / k)
        left = self._pairs[yes].sum() - self._pairs
        without[self._order, 1] = left / np.where(yes, max(k - 1, 1) * m, k * max(m - 1, 1))
        without[self._order[np.where(yes, k, m) == 1]] = np.nan
        return without


class Redealt:
    """Average precision of one attribute's scores for any order of its labels, ties included.

    Args:
        p: (images,), scores.
        y: (images,) of 1, 0 and -1 for unknown.
    """

    def __init__(self, p: np.ndarray, y: np.ndarray) -> None:
        self._order = np.argsort(-p, kind="stable")
        score = p[self._order]
        self._last = np.searchsorted(-score, -score, side="right") - 1  # of the run of equal scores
        self._ties = bool((self._last != np.arange(len(p))).any())
        self._complete = bool((y >= 0).all())
        self._positive, self._known = (y == 1).astype(np.float32), (y >= 0).astype(np.float32)

    def __call__(self, drawn: np.ndarray) -> np.ndarray:
        """(permutations,) for (permutations, images): whose label each image gets."""
        drawn = drawn[:, self._order]
        positive = self._positive[drawn]
        hits = positive.cumsum(axis=1)
        all_seen = np.arange(1, drawn.shape[1] + 1, dtype=np.float32)[None]
        seen = all_seen if self._complete else self._known[drawn].cumsum(axis=1)
        count = hits[:, -1].astype(np.float64)
        if self._ties:
            hits, seen = hits[:, self._last], seen[:, self._last]
        precision = np.divide(hits, np.maximum(seen, 1))
        ap: np.ndarray = np.einsum("rc,rc->r", positive, precision, dtype=np.float64) / count
        return ap
