"""Losses over logits and targets with unknown cells, one signature for all.

    loss(logits, targets, pos_weight=None, *, reduction="mean", **settings) -> scalar

- logits: (batch, attributes), any float type; half precision is computed in float32.
- targets: (batch, attributes) of 1 (yes), 0 (no) and -1 (unknown). The methods differ in what they make of an unknown cell:
  leave it out, take it for a no, or take it for a no unless the network objects.
- pos_weight: (attributes,), the weight w of a known positive cell, or None, for losses that balance by themselves.
- reduction: "mean": over the cells that the method uses, or as its paper divides; the docstring of each loss says which.
  "sum": losses over parts of a batch add up. "sum_and_count": a tensor of two numbers, the sum and what "mean" divides by;
  over micro-batches or devices add these up, then divide: known cells differ from part to part, so that a mean of means
  would be wrong. "none": (batch, attributes), zero where a cell is not used.

All raise ParameterError if shapes differ, the reduction is unknown, or a setting makes no sense. They are pure functions:
what a method carries over epochs is an argument (`epoch` of `ll_r` and `ll_ct`, `prior` of `csl`).
"""

from mlkit.losses.registry import LOSSES, Loss, get_loss, loss_table

__all__ = ["LOSSES", "Loss", "get_loss", "loss_table"]
