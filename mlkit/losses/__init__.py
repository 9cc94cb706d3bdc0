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

from mlkit.losses.bce import masked_bce
from mlkit.losses.registry import LOSSES, Loss, get_loss, loss_table

__all__ = ["LOSSES", "Loss", "get_loss", "loss_table", "masked_bce"]
