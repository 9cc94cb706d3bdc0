"""Large loss: unknown cells are a no, but those that the network contradicts most are rejected or corrected."""

import math

import torch
from torch import Tensor

from mlkit.losses.cells import check, cross_entropy, keep, largest, prepare, reduce


def ll_r(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    epoch: int,
    delta: float = 0.002,
    warmup: int = 1,
) -> Tensor:
    """Cross-entropy with an unknown cell taken for a no, the k unknown cells of largest loss left out.

    LL-R of Kim et al., Large Loss Matters in Weakly Supervised Multi-Label Classification, CVPR 2022. A network learns the
    right labels first and memorises the wrong ones later; so k grows by the epoch, `k = ceil(N C delta (epoch - warmup))` of
    a batch of N images and C attributes, and is 0 during the warm-up. It is at most the number of unknown cells: known cells
    stay as they are. As in the paper the mean divides by N C, the rejected cells included.

    Args:
        epoch: the current one, counted from 1.
        delta: share of all cells by which k grows each epoch; 0.001 to 0.005.
        warmup: epochs in which every unknown cell is a no.
    """
    logits = prepare(logits, targets)
    rejected = _contradicted(logits, targets, epoch, delta, warmup)
    losses = cross_entropy(keep(logits, ~rejected), targets, pos_weight)
    return reduce(torch.where(rejected, 0.0, losses), torch.ones_like(rejected), reduction)


def ll_ct(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    epoch: int,
    delta: float = 0.002,
    warmup: int = 1,
) -> Tensor:
    """Cross-entropy with an unknown cell taken for a no, the k unknown cells of largest loss taken for a yes.

    LL-Ct (temporary correction) of Kim et al., CVPR 2022: as `ll_r`, but the k cells are turned over for this one batch,
    with the loss `-log p`. They are guesses, so pos_weight, which may be large, does not apply to them.

    Args:
        epoch, delta, warmup: as of `ll_r`.
    """
    logits = prepare(logits, targets)
    corrected = _contradicted(logits, targets, epoch, delta, warmup)
    losses = cross_entropy(logits, targets, pos_weight)
    yes = cross_entropy(logits, torch.ones_like(targets))
    return reduce(torch.where(corrected, yes, losses), torch.ones_like(corrected), reduction)


def _contradicted(logits: Tensor, targets: Tensor, epoch: int, delta: float, warmup: int) -> Tensor:
    """Mask of the k unknown cells with the largest loss as a no; that loss grows with the logit, which has fewer ties."""
    check("epoch", epoch, 1)
    check("delta", delta, 0, 1)
    check("warmup", warmup, 0)
    cells = logits.numel() * delta * max(epoch - warmup, 0)
    return largest(logits, targets < 0, math.ceil(round(cells, 6)))  # rounded: 100 * 0.07 is a little above 7
