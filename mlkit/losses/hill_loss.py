"""Hill loss: an unknown cell is a no in which the loss believes less, the surer the network is of a yes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mlkit.losses.asymmetric import positive_term
from mlkit.losses.cells import check, prepare, reduce, weigh


def hill(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    lambda_: float = 1.5,
    margin: float = 1.0,
    gamma: float = 2.0,
) -> Tensor:
    """Hill loss on unknown cells, focal margin loss on positives, cross-entropy on known negatives.

    Zhang et al., Simple and Robust Loss Design for Multi-Label Learning with Missing Labels, arXiv:2112.07368 (2021), with
    p = sigmoid(logits) and m = sigmoid(logits - margin):

    - a yes: `-w (1 - m)^gamma log m`
    - a no: `-log(1 - p)`
    - unknown: `(lambda - p) p^2`, whose gradient vanishes towards p = 1, where a wrong "no" is likely

    The paper has no known negatives: whatever is not a yes climbs the hill. A known no needs no such caution, so that only
    unknown cells do here. The mean divides by the number of cells, all of which are used; the paper sums.

    Args:
        lambda_: form of the hill. At 1.5 the slope is zero at p = 1; below, sure cells would be pushed up.
        margin: subtracted from the logits of positives; 0.5 to 1.
        gamma: how much easy positives are weighed down; 0 is not at all.
    """
    check("lambda_", lambda_, 1)
    check("gamma", gamma, 0)
    logits = prepare(logits, targets)
    p = torch.sigmoid(logits)
    positive = weigh(positive_term(logits - margin, gamma, focus_gradient=True), pos_weight)
    negative = torch.where(targets < 0, (lambda_ - p) * p**2, -F.logsigmoid(-logits))
    return reduce(torch.where(targets == 1, positive, negative), torch.ones_like(targets, dtype=torch.bool), reduction)
