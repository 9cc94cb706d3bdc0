"""Class-aware selective loss: an unknown cell is a no, unless the attribute is common or the network says yes."""

import torch
from torch import Tensor

from mlkit.errors import ParameterError
from mlkit.losses.asymmetric import negative_term, positive_term
from mlkit.losses.cells import check, keep, largest, prepare, reduce, weigh


def csl(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    top_fraction: float = 0.05,
    prior: Tensor | None = None,
    prior_threshold: float = 0.05,
    gamma_pos: float = 0.0,
    gamma_neg: float = 1.0,
    gamma_unknown: float = 2.0,
) -> Tensor:
    """Asymmetric loss that leaves out the unknown cells which may well be a yes, and takes the others for a no.

    Ben-Baruch et al., Multi-label Classification with Partial Annotations using Class-aware Selective Loss, CVPR 2022, with
    p = sigmoid(logits) and focusing weights that carry no gradient:

    - a yes: `-w (1 - p)^gamma_pos log p`
    - a no: `-p^gamma_neg log(1 - p)`
    - unknown: `-p^gamma_unknown log(1 - p)`, but left out where the attribute's prior is above prior_threshold, and where p
      is among the K largest of all unknown cells of the batch

    K is top_fraction times the number of unknown cells, rounded; the published code gives it per image, which suits one
    number of attributes only. With 0 and no prior this is the paper's "negative" mode, with 1 its "ignore" mode. The mean
    divides by the number of cells that were not left out; the paper sums.

    Args:
        top_fraction: share of the batch's unknown cells, those with the largest logits, to leave out, in [0, 1].
        prior: (attributes,), share of images that have the attribute, as a model sees it that was trained with the unknown
            cells left out (`prior.estimate_prior`); None for the top cells only.
        prior_threshold: an unknown cell of an attribute that is more frequent is left out.
        gamma_pos, gamma_neg, gamma_unknown: how much easy cells are weighed down; 0 is not at all.
    """
    check("top_fraction", top_fraction, 0, 1)
    for name, gamma in (("gamma_pos", gamma_pos), ("gamma_neg", gamma_neg), ("gamma_unknown", gamma_unknown)):
        check(name, gamma, 0)
    logits, unknown = prepare(logits, targets), targets < 0
    left_out = largest(logits, unknown, (top_fraction * unknown.sum()).round())
    if prior is not None:
        if prior.shape != logits.shape[1:]:
            raise ParameterError(f"prior has the shape {tuple(prior.shape)}; it must be {tuple(logits.shape[1:])}")
        left_out |= unknown & (prior > prior_threshold)
    logits = keep(logits, ~left_out)
    positive = weigh(positive_term(logits, gamma_pos), pos_weight)
    negative = torch.where(unknown, negative_term(logits, gamma_unknown), negative_term(logits, gamma_neg))
    return reduce(torch.where(targets == 1, positive, negative), ~left_out, reduction)
