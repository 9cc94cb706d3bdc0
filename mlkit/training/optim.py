"""The optimizer, its learning rate over time, and the moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from mlkit.training.config import TrainConfig

_SOLVED = 200  # iterations of L-BFGS, which are never all needed
_STRENGTHS = (1.5, -3.0)  # powers of ten


def build_optimizer(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019), in one fused kernel where the device has it; or L-BFGS.

    Weight decay leaves out what has one dimension: biases and the scales of normalisation layers.
    """
    if config.optimizer == "lbfgs":
        return torch.optim.LBFGS(parameters, max_iter=_SOLVED, history_size=20, line_search_fn="strong_wolfe")
    fused = parameters[0].device.type in ("cpu", "cuda")
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer = kind([g for g in groups if g["params"]], lr=config.learning_rate, fused=fused)
    return optimizer


def penalty(config: TrainConfig, epoch: int, inputs: torch.Tensor) -> float:
    """Strength of the L2 penalty in an epoch of L-BFGS, from strong to weak, so that validation chooses among as many.

    Relative to the mean variance of the inputs (images, features), on whose scale it would depend otherwise.
    """
    strengths = np.logspace(*_STRENGTHS, config.epochs) if config.epochs > 1 else [10 ** np.mean(_STRENGTHS)]
    return float(strengths[epoch - 1] * inputs.var(dim=0).mean().item())


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Learning rate of an iteration, counted from 0 over the whole training, with `steps` iterations an epoch.

    It rises in a line over the warm-up, then stays, or falls to zero on a cosine (Loshchilov & Hutter 2017).
    """
    if config.optimizer == "lbfgs":
        return 1.0  # its line search finds the step
    warmup, total = round(config.warmup_epochs * steps), config.epochs * steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    return float(config.learning_rate * 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(1, total - warmup))))


class WeightAverage:
    """Exponential moving average of a network's floating-point state (Polyak & Juditsky 1992).

    In its first steps the average follows faster, with the decay (1 + n) / (10 + n), so that it soon forgets the start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._live = [value for value in network.state_dict().values() if value.is_floating_point()]
        self.values = [value.clone() for value in self._live]

    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.values, self._live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within: the network has the averaged weights."""
        before = [value.clone() for value in self._live]
        torch._foreach_copy_(self._live, self.values)
        try:
            yield
        finally:
            torch._foreach_copy_(self._live, before)
