"""Binary cross-entropy, in three readings of an unknown cell."""

import torch
from torch import Tensor

from mlkit.losses.cells import check, cross_entropy, keep, prepare, reduce


def masked_bce(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, *, reduction: str = "mean") -> Tensor:
    """Binary cross-entropy over the known cells; unknown cells are left out.

    `-[w y log p + (1 - y) log(1 - p)]` with p = sigmoid(logits) and w the attribute's pos_weight. The mean divides by the
    number of known cells. Value and gradient equal those of the plain loss after the unknown cells were removed.
    """
    logits, known = prepare(logits, targets), targets >= 0
    return reduce(cross_entropy(keep(logits, known), targets, pos_weight), known, reduction)


def assume_negative(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, *, reduction: str = "mean") -> Tensor:
    """Binary cross-entropy over all cells, an unknown cell taken for a no: the baseline that everyone starts with.

    The loss AN of Cole et al., Multi-Label Learning from Single Positive Labels, CVPR 2021. The mean divides by the number
    of cells. Wherever an unknown cell is a yes, it teaches the wrong thing.
    """
    logits = prepare(logits, targets)
    return reduce(cross_entropy(logits, targets, pos_weight), torch.ones_like(logits, dtype=torch.bool), reduction)


def partial_bce(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    alpha: float = -4.45,
    beta: float = 5.45,
    gamma: float = 1.0,
) -> Tensor:
    """Cross-entropy over the known cells of each image, weighted by how few they are.

    Partial-BCE of Durand et al., Learning a Deep ConvNet for Multi-label Classification with Partial Labels, CVPR 2019:
    `1/N sum_i g(k_i)/C sum_j bce_ij` over the known cells j of image i, with k_i their share among its C attributes and
    `g(k) = alpha k^gamma + beta`. With the default numbers g(1) = 1 and g(0.1) = 5, so that an image with few known cells
    counts almost as much as one with all. As in the paper the mean divides by N C, all cells, known or not.

    Args:
        alpha, beta, gamma: the weight of an image, alpha k^gamma + beta.
    """
    check("gamma", gamma, 0)
    check("beta", beta, 0)  # the weight where next to nothing is known
    check("alpha + beta", alpha + beta, 0)  # and where everything is; between them it is monotone
    logits, known = prepare(logits, targets), targets >= 0
    share = known.to(logits.dtype).mean(dim=1, keepdim=True)
    losses = (alpha * share**gamma + beta) * cross_entropy(keep(logits, known), targets, pos_weight)
    return reduce(torch.where(known, losses, 0.0), torch.ones_like(known), reduction)
