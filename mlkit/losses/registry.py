"""All losses: one row each, from which everything else about a loss is read."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlkit.errors import ParameterError, nearest

if TYPE_CHECKING:
    from torch import Tensor

_GIVEN = ("reduction", "epoch", "prior")  # by whoever computes the loss; the other keywords are settings


@dataclass(frozen=True)
class Loss:
    """A row of the registry; called, it is the loss function.

    Attributes:
        name: of its function.
        unknown: what it makes of an unknown cell.
        use_when: for whom it was made.
        paper: authors and year.
        leaves_out: an unknown cell has no say.
        takes_for_no: an unknown cell counts as a no, also in the balance of positives and negatives.
        balances: focusing weighs rare positives up already, so that a pos_weight would do so twice.
        cellwise: the loss of a known cell is its own matter, so that a cell may be a yes in part, as suggested ones are.
        picks: treats some unknown cells otherwise, chosen by what the network says of a whole batch.
    """

    name: str
    unknown: str
    use_when: str
    paper: str = ""
    leaves_out: bool = False
    takes_for_no: bool = False
    balances: bool = False
    picks: bool = False
    cellwise: bool = False

    def __call__(self, *arguments: Any, **keywords: Any) -> "Tensor":
        return self.function(*arguments, **keywords)

    @property
    def function(self) -> "Callable[..., Tensor]":
        """With the signature that `mlkit.losses` describes."""
        from mlkit.losses import functions  # here: they take torch, and to choose among losses takes their rows alone

        found: Callable[..., Tensor] = getattr(functions, self.name)
        return found

    @property
    def defaults(self) -> dict[str, Any]:
        """Its settings, by name."""
        return {name: default for name, default in self._keywords.items() if name not in _GIVEN}

    @property
    def takes_epoch(self) -> bool:
        """Its meaning changes over the epochs, counted from 1."""
        return "epoch" in self._keywords

    @property
    def takes_prior(self) -> bool:
        """It wants to know the share of images that have each attribute, (attributes,)."""
        return "prior" in self._keywords

    @property
    def _keywords(self) -> dict[str, Any]:
        parameters = inspect.signature(self.function).parameters.values()
        return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


_ROWS = (
    Loss(
        "masked_bce",
        "left out",
        "cells are unknown at random, and enough are known (the default)",
        leaves_out=True,
        cellwise=True,
    ),
    Loss(
        "partial_bce",
        "left out; images with few known cells weigh more",
        "the known share differs much between images",
        "Durand et al. 2019",
        leaves_out=True,
    ),
    Loss(
        "asl",
        "left out; easy negatives weigh next to nothing",
        "rare attributes, many easy negatives; also the focal loss",
        "Ridnik et al. 2021",
        leaves_out=True,
        balances=True,
        cellwise=True,
    ),
    Loss(
        "assume_negative",
        "a no",
        "people annotated all that they saw; else the baseline to beat",
        "Cole et al. 2021",
        takes_for_no=True,
    ),
    Loss(
        "csl",
        "a no, unless its attribute is common or the network says yes",
        "many rare attributes, most cells unknown, few known negatives",
        "Ben-Baruch et al. 2022",
        balances=True,
        picks=True,
    ),
    Loss(
        "hill",
        "a no, believed less the surer the network is of a yes",
        "only (or mostly) positives were annotated",
        "Zhang et al. 2021",
        balances=True,
    ),
    Loss(
        "ll_r",
        "a no; those most contradicted are left out, more each epoch",
        "only positives were annotated, some were missed",
        "Kim et al. 2022",
        takes_for_no=True,
        picks=True,
    ),
    Loss(
        "ll_ct",
        "a no; those most contradicted become a yes, more each epoch",
        "only positives were annotated, and many were missed",
        "Kim et al. 2022",
        takes_for_no=True,
        picks=True,
    ),
)
LOSSES: dict[str, Loss] = {loss.name: loss for loss in _ROWS}


def get_loss(name: str) -> Loss:
    """Loss of that name.

    Raises:
        ParameterError: if there is none; the text names the nearest.
    """
    if name not in LOSSES:
        raise ParameterError(f"there is no loss {name!r}{nearest(name, LOSSES)}")
    return LOSSES[name]


def loss_table() -> pd.DataFrame:
    """What each loss makes of an unknown cell, when to use it, and its paper; index loss."""
    rows = [(loss.unknown, loss.use_when, loss.paper) for loss in _ROWS]
    return pd.DataFrame(rows, pd.Index(LOSSES, name="loss"), ["an unknown cell is", "use it when", "paper"])
