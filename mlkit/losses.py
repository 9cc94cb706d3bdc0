"""Losses over (logits, targets) with unknown cells.

Targets are 1 (yes), 0 (no) or -1 (unknown). A loss sees the known cells only: it equals, value and gradient, the same loss
computed after the unknown cells were removed.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_bce(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Binary cross-entropy over the known cells.

    `-[w y log sigmoid(x) + (1 - y) log(1 - sigmoid(x))]`, with `w` the attribute's pos_weight, averaged over the cells with
    `targets >= 0`. A batch without a known cell gives zero, with zero gradients.

    Args:
        logits: (batch, attributes), any float type; half precision is computed in float32.
        targets: (batch, attributes) of 1, 0 and -1.
        pos_weight: (attributes,), negatives / positives of each attribute, or None.
        reduction: "mean" over known cells; "sum", for a mean over several batches or devices, whose known cells differ in
            number and must be divided by their total; or "none", zero at unknown cells.

    Raises:
        ValueError: if the shapes differ or the reduction is unknown.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} differ in shape")
    known = targets >= 0
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    # Unknown cells are replaced before the loss: multiplying by a zero mask afterwards would keep a NaN.
    safe_logits = torch.where(known, logits, 0.0)
    safe_targets = torch.where(known, targets, 0).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(safe_logits, safe_targets, pos_weight=pos_weight, reduction="none")
    losses = torch.where(known, losses, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        return losses.sum() / known.sum().clamp(min=1)
    raise ValueError(f'reduction is {reduction!r}; it must be "mean", "sum" or "none"')
