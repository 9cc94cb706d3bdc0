"""The objective: what a training minimises, put together from loss, weights and softened or mixed targets."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.labels import pos_weight, to_codes
from mlkit.errors import LabelError, ParameterError
from mlkit.losses import LOSSES, Loss, get_loss
from mlkit.progress import listed
from mlkit.training.config import TrainConfig

Targets = Sequence[tuple[float, Tensor]]  # weights that add up to 1, and targets (batch, attributes) of 1, 0 and -1


class Objective:
    """The loss of a configuration on one device.

    Args:
        config: names the loss, its settings, the policy of pos_weight.
        labels: the training images' label table.
        image_weights: how often each is drawn, relative to once an epoch; pos_weight balances what is drawn.
        prior: (attributes,), share of images with each attribute, for a loss that takes it.
        device: of the logits.
    """

    def __init__(
        self,
        config: TrainConfig,
        labels: pd.DataFrame,
        image_weights: np.ndarray | None,
        prior: Tensor | None,
        device: torch.device,
    ) -> None:
        self._loss = get_loss(config.loss)
        counted = labels.fillna(0) if self._loss.takes_for_no else labels
        weight = pos_weight(counted, config.pos_weight_cap, config.pos_weight_policy, image_weights=image_weights)
        self.pos_weight = torch.tensor(weight.to_numpy(), dtype=torch.float32, device=device)
        self._loss_arguments = config.loss_arguments
        self._smoothing = config.label_smoothing
        self._suggestion_weight = config.suggestion_weight
        if prior is not None:
            self._loss_arguments["prior"] = prior.to(device)

    def __call__(self, logits: Tensor, targets: Targets, epoch: int, suggested: Targets = ()) -> Tensor:
        """Sum of the loss and what to divide it by, a tensor of two: parts of a batch add up before the division.

        Args:
            logits: (batch, attributes).
            targets: one or, where images are mixed, several, each with its weight.
            epoch: counted from 1.
            suggested: likewise, probabilities (batch, attributes) of suggested cells, NaN elsewhere.
        """
        arguments = self._loss_arguments | ({"epoch": epoch} if self._loss.takes_epoch else {})
        if self._smoothing:
            targets = [softened for term in targets for softened in self._soften(*term)]
        parts = [
            weight * self._loss(logits, known, self.pos_weight, reduction="sum_and_count", **arguments)
            for weight, known in targets
        ]
        parts += [weight * self._of_suggested(logits, probabilities, arguments) for weight, probabilities in suggested]
        return torch.stack(parts).sum(dim=0)

    def _of_suggested(self, logits: Tensor, probabilities: Tensor, arguments: dict[str, Any]) -> Tensor:
        """Sum and count of suggested cells, each a yes by its probability p, a no by 1 - p, and less than a known cell."""
        there = ~probabilities.isnan()
        yes, no = (
            self._loss(logits, torch.where(there, code, -1), self.pos_weight, reduction="none", **arguments)
            for code in (1, 0)
        )
        p = probabilities.nan_to_num()
        return self._suggestion_weight * torch.stack([(p * yes + (1 - p) * no).sum(), there.sum().to(yes.dtype)])

    def _soften(self, weight: float, targets: Tensor) -> Targets:
        """Label smoothing (Szegedy et al. 2016) on known cells: the opposite answer gets half of the smoothing."""
        opposite = torch.where(targets >= 0, 1 - targets, targets)
        return [(weight * (1 - self._smoothing / 2), targets), (weight * self._smoothing / 2, opposite)]


def check_suggestions(config: TrainConfig, dataset: MultiLabelDataset, training: np.ndarray) -> None:
    """Refuse suggestions that make no sense: for the loss, or of images that judge.

    Raises:
        ParameterError: saying which.
    """
    if dataset.suggested is None:
        return
    if not get_loss(config.loss).cellwise:
        able = ", ".join(loss.name for loss in LOSSES.values() if loss.cellwise)
        raise ParameterError(
            f"suggestions: {config.loss} has a reading of its own of unknown cells, and none of suggested ones; those that "
            f"learn from suggestions: {able}"
        )
    judging = np.setdiff1d(np.flatnonzero(~np.isnan(dataset.suggested).all(axis=1)), training)
    if len(judging):
        raise ParameterError(
            f"suggestions: {len(judging)} are of images that judge here, {dataset.labels.index[judging[0]]} say: they were "
            "made by a run with another split, which has seen images that judge here; suggest by a run with this one"
        )


def image_weights(labels: pd.DataFrame, cap: float) -> np.ndarray:
    """How often to draw each image so that rare attributes are seen more often, shape (images,), mean 1.

    Repeat factors (Gupta et al., LVIS, CVPR 2019): an attribute with the share f of positives among its known cells asks for
    `sqrt(0.5 / f)` draws, at least 1 and at most `cap`; an image gets the largest that its known positives ask for. Whether
    a cell is unknown has no say.
    """
    codes = to_codes(labels)
    known = (codes >= 0).sum(axis=0)
    share = np.divide((codes == 1).sum(axis=0), known, out=np.ones(codes.shape[1]), where=known > 0)
    factor = np.sqrt(0.5 / np.maximum(share, 1e-12)).clip(1, cap)
    weights = np.where(codes == 1, factor, 1.0).max(axis=1, initial=1.0)
    relative: np.ndarray = weights / weights.mean()
    return relative


def contradictions(config: TrainConfig) -> Iterator[str]:
    """What of a configuration goes against the paper of its loss, one sentence each; see the losses' docstrings.

    None of it is refused: it may be what a comparison is about.
    """
    loss = get_loss(config.loss)
    name, arguments = loss.name, loss.defaults | config.loss_arguments
    if loss.balances:
        for field, value, plain in (
            ("pos_weight", config.pos_weight_policy, "none"),
            ("sampler", config.sampler, "uniform"),
        ):
            if value != plain:
                yield f"{field} {value!r}: {name} balances by its gammas already, rare positives count twice; take {plain!r}"
        if config.label_smoothing:
            yield f"label_smoothing {config.label_smoothing:g}: {name} focuses on hard cells, softened ones stay so; take 0"
    if loss.picks:
        if config.mixup:
            yield f"mixup {config.mixup:g}: {name} picks unknown cells by what the network says of one image; take 0"
        if config.accumulate > 1:
            yield f"accumulate {config.accumulate}: {name} picks unknown cells among a whole batch, here of a part; take 1"
    if config.epochs <= (warmup := arguments.get("warmup", 0)):
        yield f"epochs {config.epochs}: {name} is assume_negative during its warm-up of {warmup}; train longer"
    if loss.takes_prior and not config.prior_run:
        yield f"prior_run is empty: {name} takes unknown cells of common attributes for a no, too; name a run of masked_bce"
    if config.prior_run and not loss.takes_prior:
        yield f"prior_run {config.prior_run!r}: {name} has no prior, it is not used"
    if arguments.get("gamma_pos", 0) > arguments.get("gamma_neg", math.inf):
        yield f"loss_settings: {name} weighs easy negatives down more than easy positives; let gamma_neg be the larger"
    if arguments.get("lambda_", 1.5) < 1.5:
        yield f"loss_settings: below a lambda_ of 1.5, {name} pushes unknown cells up that the network is sure of; take 1.5"


def label_gaps(labels: pd.DataFrame, loss: Loss) -> Iterator[str]:
    """What the known cells of the training images cannot teach with a loss, one sentence each.

    Raises:
        LabelError: if no cell is known.
    """
    codes = to_codes(labels)
    yes, no = (codes == 1).any(axis=0), (codes == 0).any(axis=0)
    if not (yes | no).any():
        raise LabelError(
            f"{labels.attrs.get('source', 'labels')}: no cell of the {len(labels)} training images is known, nothing can be "
            "learnt; fill in 1 and 0, or say which values mean yes and no"
        )
    if loss.leaves_out and not no.any():
        made = ", ".join(other.name for other in LOSSES.values() if not other.leaves_out)
        yield (
            f"the known training cells are all yes, and {loss.name} leaves the unknown ones out: it learns to say yes to "
            f"everything; losses that take an unknown cell for a no, more or less: {made}"
        )
    elif loss.leaves_out and (single := yes & ~no).any():
        yield f"the known training cells are all yes, so that nothing but yes is learnt: {listed(labels.columns[single])}"
    if (single := no & ~yes).any():
        yield f"the known training cells are all no, so that nothing but no is learnt: {listed(labels.columns[single])}"
    if (unseen := ~(yes | no)).any():
        yield f"no training cell is known, nothing is learnt and the prediction is NA: {listed(labels.columns[unseen])}"


def choice_gap(labels: pd.DataFrame) -> Iterator[str]:
    """What keeps the validation images from choosing the best epoch by mAP, a sentence if anything does."""
    codes = to_codes(labels)
    if not ((codes == 1).any(axis=0) & (codes == 0).any(axis=0)).any():
        yield (
            "no attribute has both a known yes and a known no among the validation images: mAP is undefined, and the loss "
            "on the known cells chooses the epoch; label some of each"
        )
