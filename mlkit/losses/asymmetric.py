"""Asymmetric loss, over the known cells."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mlkit.losses.cells import check, focus, keep, prepare, reduce, weigh


def asl(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    focus_gradient: bool = False,
) -> Tensor:
    """Asymmetric loss over the known cells; unknown cells are left out.

    Ridnik et al., Asymmetric Loss for Multi-Label Classification, ICCV 2021, with p = sigmoid(logits):

    - a yes: `-w (1 - p)^gamma_pos log p`
    - a no: `-q^gamma_neg log(1 - q)` with `q = max(p - clip, 0)`

    Easy negatives, of which there are many, weigh next to nothing; with a clip, negatives that the network is sure to be
    positives (wrong labels, mostly) pull little, too. The mean divides by the number of known cells; the paper sums.

    The focal loss of Lin et al. (ICCV 2017) is this one with gamma_pos = gamma_neg = 2, clip = 0, focus_gradient = True; its
    alpha is a pos_weight of alpha / (1 - alpha), times 1 - alpha for all.

    Args:
        gamma_pos, gamma_neg: how much easy cells are weighed down; 0 is not at all.
        clip: probability below which a negative cell is given up as learnt, in [0, 1).
        focus_gradient: let gradients flow through the focusing weights as well. The paper's formula has them, its published
            trainings hold the weights constant.
    """
    check("gamma_pos", gamma_pos, 0)
    check("gamma_neg", gamma_neg, 0)
    check("clip", clip, 0, 0.999)
    logits, known = prepare(logits, targets), targets >= 0
    logits = keep(logits, known)
    positive = weigh(positive_term(logits, gamma_pos, focus_gradient), pos_weight)
    negative = negative_term(logits, gamma_neg, clip, focus_gradient)
    return reduce(torch.where(targets == 1, positive, negative), known, reduction)


# The published code computes log(max(p, 1e-8)). Below that its gradient is zero: a cell that the network got wrong with
# certainty would never be learnt. And float32 rounds 1 - p to zero from a logit of 17 on. logsigmoid has neither fault.
# (With a clip, the gradient of a negative at p = 1 vanishes by the paper's design, not by rounding.)


def positive_term(logits: Tensor, gamma: float, focus_gradient: bool = False) -> Tensor:
    """`-(1 - p)^gamma log p` of each cell."""
    weight = focus(torch.sigmoid(-logits), gamma)
    return -(weight if focus_gradient else weight.detach()) * F.logsigmoid(logits)


def negative_term(logits: Tensor, gamma: float, clip: float = 0.0, focus_gradient: bool = False) -> Tensor:
    """`-q^gamma log(1 - q)` of each cell, with q = max(p - clip, 0)."""
    weight = focus((torch.sigmoid(logits) - clip).clamp(min=0), gamma)
    log = torch.log((torch.sigmoid(-logits) + clip).clamp(max=1)) if clip > 0 else F.logsigmoid(-logits)
    return -(weight if focus_gradient else weight.detach()) * log
