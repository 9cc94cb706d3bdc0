"""What a configuration would do, seen before the training: augmented images, the loss at each learning rate."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mlkit.data.dataset import MultiLabelDataset
from mlkit.errors import ParameterError
from mlkit.models.device import choose_device
from mlkit.runs import Run
from mlkit.training.augment import Augmentation
from mlkit.training.config import TrainConfig
from mlkit.training.loop import split_dataset
from mlkit.training.step import TrainingStep

_LOWEST, _HIGHEST = 1e-6, 1.0  # learning rates


def augmented(dataset: MultiLabelDataset, config: TrainConfig, images: np.ndarray) -> np.ndarray:
    """Some images, by their indices, as the first epoch sees them at full size: uint8 (images, H, W, 3)."""
    augmentation = Augmentation.of(config)
    draws = augmentation.draw(len(dataset), config.seed, epoch=1)[images]
    seen: np.ndarray = augmentation(torch.from_numpy(dataset.batch(images)[0]), draws).clamp(0, 255).byte().numpy()
    return seen


def learning_rate_range(dataset: MultiLabelDataset, config: TrainConfig, steps: int = 60) -> pd.DataFrame:
    """Loss while the learning rate rises (range test, Smith 2017); columns lr and loss.

    A good rate lies where the loss falls fastest, about a third of where it is lowest. Stops once the loss is four times its
    lowest. Nothing is kept of this training.

    Raises:
        ParameterError: if the optimizer looks for its steps itself.
    """
    if config.optimizer == "lbfgs":
        raise ParameterError("optimizer is 'lbfgs', which needs no learning_rate; ask for the range of 'adam'")
    device = choose_device(config.device, config.precision, config.image_size)
    training = np.flatnonzero(split_dataset(dataset, config) == "train")
    rng, rates = np.random.default_rng(config.seed), np.geomspace(_LOWEST, _HIGHEST, steps)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps what is mapped
        step = TrainingStep(dataset, training, config, device, Run(Path(folder)))
        step.start_epoch(0)
        order = [rng.choice(training, min(step.batch_size, len(training)), replace=False) for _ in range(steps)]
        for number, (batch, lr) in enumerate(zip(step.feed.batches(order), rates, strict=True)):
            rows.append({"lr": float(lr), "loss": step(*batch, number, float(lr)).item()})
            if not rows[-1]["loss"] < 4 * min(row["loss"] for row in rows):
                break
    return pd.DataFrame(rows)
