"""Orders: which cells to ask a person next.

An order scores the cells that may be asked; `ask` takes the highest. What each is worth is measured by
`mlkit.experiments.simulation`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlkit.errors import ParameterError, nearest

BY = ("cell", "image")
_SHORTLIST = 10  # candidates per queued one that a spread looks at, those of the highest scores, and at least
_LOOKED_AT = 1000


@dataclass(frozen=True)
class Pool:
    """What an order may look at.

    Attributes:
        probabilities: (images, attributes) of "yes", calibrated, of models that have not seen the cell's answer; NaN where
            nothing is known, as of an attribute of which one class was never seen.
        codes: (images, attributes) labels of 1, 0 and -1 for unknown, answers included.
        open: boolean (images, attributes), cells that may be asked.
        features: (images, features) of a network, of `representative`.
        members: (members, images, attributes) probabilities of several models, of `disagreement`.
        suspicion: (images, attributes), of `errors`: how suspicious a known cell is; NaN where there is no suspicion.
        seed: decides between equal scores.
    """

    probabilities: np.ndarray
    codes: np.ndarray
    open: np.ndarray
    features: np.ndarray
    members: np.ndarray | None = None
    suspicion: np.ndarray | None = None
    seed: int = 0


def uncertain(pool: Pool) -> np.ndarray:
    """Unknown cells of which the model is least sure: the entropy of the probability (Lewis & Gale 1994)."""
    return _unknown(pool, _entropy(pool.probabilities))


def disagreement(pool: Pool) -> np.ndarray:
    """Unknown cells on which several models differ: how much an answer tells of the model (BALD, Houlsby et al. 2011).

    That is the entropy of the members' mean less their mean entropy; a cell that all call doubtful is a doubtful picture.
    """
    assert pool.members is not None  # `ask` has looked
    return _unknown(pool, _entropy(pool.members.mean(axis=0)) - _entropy(pool.members).mean(axis=0))


def rare(pool: Pool) -> np.ndarray:
    """Uncertain cells, those of attributes with few known positives first: entropy over the root of their number."""
    weight = 1 / np.sqrt(1 + (pool.codes == 1).sum(axis=0))
    return np.asarray(uncertain(pool) * weight)


def balanced(pool: Pool) -> np.ndarray:
    """Uncertain cells, were yes and no nearer in number: entropy without half of its log odds (Menon et al. 2021).

    Of an attribute that one image in a hundred has, the model is sure of a no nearly everywhere; where its probability is
    well above that share, an answer still tells a lot. All the log odds (the paper's logit adjustment) would be too much:
    most such cells are a plain no.
    """
    odds = (1 + (pool.codes == 1).sum(axis=0)) / (1 + (pool.codes == 0).sum(axis=0))
    p = pool.probabilities
    return _unknown(pool, _entropy(p / (p + (1 - p) * np.sqrt(odds))))


def representative(pool: Pool) -> np.ndarray:
    """Uncertain cells whose images are far in feature space from those queued already (Sener & Savarese 2018)."""
    return uncertain(pool)


def random(pool: Pool) -> np.ndarray:
    """Unknown cells in any order: the yardstick of the others."""
    return _unknown(pool, np.ones(pool.codes.shape))


def errors(pool: Pool) -> np.ndarray:
    """Known cells that are probably wrong, the most suspicious first (confident learning, Northcutt et al. 2021)."""
    assert pool.suspicion is not None
    return pool.suspicion


ORDERS: dict[str, Callable[[Pool], np.ndarray]] = {
    order.__name__: order for order in (uncertain, balanced, disagreement, rare, representative, random, errors)
}
DEFAULT_ORDER = "balanced"
NEEDS = {"disagreement": "members", "errors": "suspicion"}  # order -> what a pool may lack
_SOURCES = {
    "members": "several models: an ensemble, or the runs of folds",
    "suspicion": "probabilities of known cells by models that have not seen them: the runs of folds",
}
_SPREAD = ("representative",)  # orders whose cells keep their distance from each other


def meaning(order: str) -> str:
    """What an order asks, in one line."""
    return (inspect.getdoc(ORDERS[order]) or "").partition("\n")[0]


def ask(pool: Pool, order: str, count: int, by: str = "cell") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cells to ask next.

    Args:
        pool: what is known.
        order: a name of `ORDERS`.
        count: cells to ask; fewer come where fewer are open, and by image the last one is whole.
        by: "cell", or "image": all cells of an image that are open and that the order is about at once, the images by the
            mean score of these cells, which are asked in the order of the attributes.

    Returns:
        Rows, columns and scores of the cells, first to ask first. Equal scores are dealt by the pool's seed.

    Raises:
        ParameterError: if there is no such order or way, or the pool lacks what the order needs.
    """
    for name, value, known in (("order", order, ORDERS), ("by", by, BY)):
        if value not in known:
            raise ParameterError(f"{name} is {value!r}{nearest(value, known)}")
    if order in NEEDS and getattr(pool, need := NEEDS[order]) is None:
        raise ParameterError(f"order {order} needs {_SOURCES[need]}; give these, or another order, {DEFAULT_ORDER} say")
    scores = np.where(pool.open, ORDERS[order](pool), np.nan)
    asked = np.isfinite(scores)
    rows, columns = np.nonzero(asked)
    if by == "image":
        rows = np.flatnonzero(asked.any(axis=1))
        values = np.nansum(scores[rows], axis=1) / asked[rows].sum(axis=1)
    else:
        values = scores[rows, columns]
    ranked = np.lexsort((np.random.default_rng([pool.seed, *b"ask"]).random(len(values)), -values))
    if order in _SPREAD and len(ranked):
        ranked = ranked[: max(_SHORTLIST * count, _LOOKED_AT)]
        ranked = ranked[_spread(pool.features[rows[ranked]], values[ranked], count)]
    ranked = ranked[:count]
    if by == "cell":
        return rows[ranked], columns[ranked], values[ranked]
    sizes = asked[rows[ranked]].sum(axis=1)
    images = ranked[: np.searchsorted(np.cumsum(sizes), count) + 1]
    at, columns = np.nonzero(asked[rows[images]])
    return rows[images][at], columns, values[images][at]


def _unknown(pool: Pool, scores: np.ndarray) -> np.ndarray:
    """Scores of unknown cells alone."""
    return np.where(pool.codes < 0, scores, np.nan)


def _entropy(p: np.ndarray) -> np.ndarray:
    """In bits; 1, the largest, where nothing is known (NaN)."""
    p = np.clip(np.where(np.isnan(p), 0.5, p), 1e-12, 1 - 1e-12)
    entropy: np.ndarray = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    return entropy


def _spread(features: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Positions of `count` candidates, chosen greedily: the next has the largest score times distance.

    The distance is 1 less the cosine to the nearest one chosen before, of features without their mean.

    Args:
        features: (candidates, features).
        scores: (candidates,), from 0; the first of equal ones is taken.
        count: how many, at most.
    """
    unit = (features - features.mean(axis=0)).astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    distance = np.full(len(scores), 2.0)
    left = scores.astype(np.float64)
    chosen: list[int] = []
    for _ in range(min(count, len(scores))):
        best = int(np.argmax(left * distance))
        chosen.append(best)
        left[best] = -1.0  # below all others
        distance = np.minimum(distance, np.maximum(1 - unit @ unit[best], 1e-9))
    return np.array(chosen, int)
