"""Linear probing, then fine-tuning: the head is solved on the pretrained features before the layers below may move.

A fresh head's first gradients would bend good features (Kumar et al. 2022).
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlkit.data.dataset import MultiLabelDataset, batches
from mlkit.evaluation.metrics import evaluate, macro
from mlkit.losses.bce import masked_bce
from mlkit.models.networks import head_name
from mlkit.progress import say
from mlkit.runs import Run
from mlkit.training.config import Strengths
from mlkit.training.step import TrainingStep

_PENALTIES = 10  # strengths that the validation images choose among


def solve_head(
    step: TrainingStep, dataset: MultiLabelDataset, training: np.ndarray, validation: np.ndarray, run: Run
) -> None:
    """Put the head on a training's network that a frozen backbone's training would end with, by validation mAP.

    The features of all images are computed at full size without augmentation, and kept, see `freezing.features`; where
    several processes train, by the main one.

    Args:
        step: the training, before its first batch.
        dataset: its images.
        training, validation: indices of the images to learn from, and to choose by.
        run: its run.
    """
    step.load_head(step.processes.shared(lambda: _solved(step, dataset, training, validation, run)))


def _solved(
    step: TrainingStep, dataset: MultiLabelDataset, training: np.ndarray, validation: np.ndarray, run: Run
) -> dict[str, Tensor]:
    plain: dict[str, Any] = dict.fromkeys((field.name for field in fields(Strengths)), 0.0)
    plain |= {"first_size": 1.0, "sampler": "uniform", "weight_decay": 0.0, "ema_decay": 0.0, "accumulate": 1}
    config = replace(step.config, freeze="backbone", optimizer="lbfgs", epochs=_PENALTIES, compile=False, **plain)
    alone = TrainingStep(dataset, training, config, step.device, run)
    head = alone.network.get_submodule(head_name(alone.network, config.backbone))
    found: list[tuple[float, float, dict[str, Tensor]]] = []
    targets = torch.from_numpy(dataset.targets[validation])
    for epoch in range(1, _PENALTIES + 1):
        alone.start_epoch(epoch)
        for batch in alone.feed.batches(batches(training, alone.batch_size, config.seed, epoch)):
            alone(*batch, step=epoch, lr=1.0)
        logits = alone.evaluate(validation)
        table = evaluate(
            torch.sigmoid(logits).numpy(), targets.numpy(), dataset.attributes, np.full(targets.shape[1], np.nan)
        )
        solved = {name: value.clone() for name, value in head.state_dict().items()}
        found.append((np.nan_to_num(macro(table).AP), -masked_bce(logits, targets).item(), solved))
    best = max(found, key=lambda one: one[:2])
    say(f"head solved on the features: validation mAP {best[0]:.3f}")
    return best[2]
