"""Losses over logits and targets with unknown cells, one signature for all.

    loss(logits, targets, pos_weight=None, *, reduction="mean", **settings) -> scalar

Targets are 1 (yes), 0 (no) or -1 (unknown). The methods differ in what they make of an unknown cell: leave it out, take it
for a no, or take it for a no unless the network objects. All are pure functions: what a method carries over epochs is an
argument (`epoch` of `ll_r` and `ll_ct`, `prior` of `csl`).

`reduction` is one of

- "mean": over the cells that the method uses, or as its paper divides; the docstring of each loss says which;
- "sum": losses over parts of a batch add up;
- "sum_and_count": a tensor of two numbers, the sum and what "mean" divides by. Over micro-batches or devices add these up,
  then divide: known cells differ from part to part, so that a mean of means would be wrong;
- "none": (batch, attributes), zero where a cell is not used.
"""

from collections.abc import Callable

from torch import Tensor

from mlkit.errors import ParameterError, nearest
from mlkit.losses.asymmetric import asl
from mlkit.losses.bce import assume_negative, masked_bce, partial_bce
from mlkit.losses.hill_loss import hill
from mlkit.losses.large_loss import ll_ct, ll_r
from mlkit.losses.selective import csl

__all__ = [
    "BALANCED_BY_FOCUS",
    "LOSSES",
    "UNKNOWN_IS_LEFT_OUT",
    "UNKNOWN_IS_NO",
    "asl",
    "assume_negative",
    "csl",
    "get_loss",
    "hill",
    "ll_ct",
    "ll_r",
    "masked_bce",
    "partial_bce",
]

LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss for loss in (masked_bce, assume_negative, partial_bce, asl, csl, hill, ll_r, ll_ct)
}
# What their papers say of them. Focusing weighs rare positives up already, so that a pos_weight would do so twice.
BALANCED_BY_FOCUS = ("asl", "csl", "hill")
# An unknown cell has no say; `hill` and `csl` lie between these and the next.
UNKNOWN_IS_LEFT_OUT = ("masked_bce", "partial_bce", "asl")
UNKNOWN_IS_NO = ("assume_negative", "ll_r", "ll_ct")


def get_loss(name: str) -> Callable[..., Tensor]:
    """Loss function of that name.

    Raises:
        ParameterError: if there is none; the text names the nearest.
    """
    if name not in LOSSES:
        raise ParameterError(f"there is no loss {name!r}{nearest(name, LOSSES)}")
    return LOSSES[name]
