"""What all losses share: checked inputs, safe terms of one cell, and the reduction over cells."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mlkit.errors import ParameterError


def prepare(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits in the precision to compute in: half precision becomes float32, float64 stays.

    Raises:
        ParameterError: if the shapes differ.
    """
    if logits.shape != targets.shape:
        raise ParameterError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} differ in shape")
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def keep(logits: Tensor, used: Tensor) -> Tensor:
    """Logits with zero at cells that are not used.

    Replaced before the loss, not masked after it: zero times NaN is NaN, in the value as in the gradient.
    """
    return torch.where(used, logits, 0.0)


def cross_entropy(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of each cell, `-[w y log p + (1 - y) log(1 - p)]` with p = sigmoid(logits) and w = pos_weight.

    A target below 0 counts as 0.
    """
    labels = targets.clamp(min=0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=pos_weight, reduction="none")


def focus(p: Tensor, gamma: float) -> Tensor:
    """Focusing weight `p^gamma`. Kept off zero, where a power below 1 has no finite derivative."""
    return p.clamp(min=torch.finfo(p.dtype).tiny) ** gamma


def weigh(losses: Tensor, pos_weight: Tensor | None) -> Tensor:
    """Losses of positive cells times the weight of their attribute, if there is one."""
    return losses if pos_weight is None else losses * pos_weight


def largest(values: Tensor, among: Tensor, count: int | Tensor) -> Tensor:
    """Mask of the `count` cells with the largest values among those marked; of all those marked, if they are fewer.

    Equal values are taken in order, so that never more than `count` are marked. `count` may be a tensor: nothing here makes
    a GPU wait for its host.
    """
    order = torch.where(among, values.detach(), -torch.inf).flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return (rank < count).view_as(among) & among


def reduce(losses: Tensor, used: Tensor, reduction: str) -> Tensor:
    """Losses of all cells as the caller wants them; see the package for the reductions.

    Args:
        losses: (batch, attributes).
        used: bool (batch, attributes), the cells whose losses count. Without any the mean is a differentiable zero.
        reduction: "sum_and_count", "mean", "sum" or "none".

    Raises:
        ParameterError: if the reduction is unknown.
    """
    losses = torch.where(used, losses, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        return losses.sum() / used.sum().clamp(min=1)
    if reduction == "sum_and_count":
        return torch.stack([losses.sum(), used.sum().to(losses.dtype)])
    raise ParameterError(f'reduction is {reduction!r}; it must be "sum_and_count", "mean", "sum" or "none"')


def check(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Refuse a setting that makes no sense.

    Raises:
        ParameterError: if the value is not within [low, high].
    """
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ParameterError(f"{name} is {value}; it must be {wanted}")
