"""Cells of a complete label table hidden on purpose, the way that labels go missing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from mlkit.data.labels import from_codes, to_codes
from mlkit.errors import ParameterError, nearest


def hide(
    labels: pd.DataFrame, known: float, mechanism: str = "random", seed: int = 0, ratio: float = 3.0, block_images: int = 20
) -> pd.DataFrame:
    """Label table in which only a share of the known cells is still known.

    Cells are hidden one after the other until the share is reached, in an order that the seed alone decides: what is known
    at a low share is known at every higher one too. A cell that is unknown already stays so and does not count.

    - "random": every known cell is equally likely to be next.
    - "positives": the odds that a cell is hidden are `ratio` times as high for a positive as for a negative. The share that
      is hidden is the same, but what remains is no fair sample any more, as where what is there is easily overlooked.
    - "blocks": one attribute of a whole group of `block_images` images is next, as where an annotator skips a question.
      Groups are dealt at random. The last block is hidden or left so that the share comes nearest.

    Args:
        labels: the label table.
        known: share of the known cells that stays known, above 0, at most 1.
        mechanism: a name of `MECHANISMS`.
        seed: of the order.
        ratio: of "positives"; at 1 it is "random".
        block_images: of "blocks".

    Raises:
        ParameterError: if the mechanism is unknown or a value makes no sense.
    """
    if mechanism not in MECHANISMS:
        raise ParameterError(f"there is no mechanism {mechanism!r}{nearest(mechanism, MECHANISMS)}")
    if not 0 < known <= 1:
        raise ParameterError(f"the share of known cells is {known}; it must be above 0 and at most 1")
    if not ratio > 0 or block_images < 1:
        raise ParameterError(f"ratio is {ratio} and block_images {block_images}; they must be above 0 and at least 1")
    codes = to_codes(labels)
    # a stream of its own: labels that were simulated with the same seed must not decide what is hidden
    rng = np.random.default_rng([seed, *b"hide"])
    rank = MECHANISMS[mechanism](codes, rng, ratio, block_images)
    there = codes >= 0
    hidden = _first(rank[there], round((1 - known) * int(there.sum())))
    result = codes.copy()
    result[there] = np.where(hidden, -1, codes[there])
    return from_codes(result, labels.index, labels.columns)


def _random(codes: np.ndarray, rng: np.random.Generator, ratio: float, block_images: int) -> np.ndarray:
    return rng.random(codes.shape)


def _positives(codes: np.ndarray, rng: np.random.Generator, ratio: float, block_images: int) -> np.ndarray:
    # hidden below any c with the odds exp(c) or, where the logistic variable is shifted, ratio * exp(c)
    rank: np.ndarray = rng.logistic(size=codes.shape) - np.log(ratio) * (codes == 1)
    return rank


def _blocks(codes: np.ndarray, rng: np.random.Generator, ratio: float, block_images: int) -> np.ndarray:
    groups = -(-len(codes) // block_images)
    group = rng.permutation(len(codes)) % groups
    blocks: np.ndarray = rng.random((groups, codes.shape[1]))[group]
    return blocks


MECHANISMS: dict[str, Callable[[np.ndarray, np.random.Generator, float, int], np.ndarray]] = {
    "random": _random,
    "positives": _positives,
    "blocks": _blocks,
}


def settings_of(mechanism: str, ratio: float, block_images: int) -> dict[str, Any]:
    """Of the settings of `hide`, those that this mechanism depends on."""
    own: dict[str, dict[str, Any]] = {"positives": {"ratio": ratio}, "blocks": {"block_images": block_images}}
    return own.get(mechanism, {})


def _first(rank: np.ndarray, count: int) -> np.ndarray:
    """Mask of the cells of lowest rank, `count` of them or, where equal ranks stay together, as near as that comes."""
    ranks, sizes = np.unique(rank, return_counts=True)
    totals = np.concatenate([[0], np.cumsum(sizes)[:-1]])  # without the last: something stays known
    return np.asarray(rank < ranks[np.abs(totals - count).argmin()] if len(ranks) else rank < 0)
