"""The grid of a study of missing labels: methods, ways to hide cells, shares of known cells, seeds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

import mlkit
from mlkit.errors import ParameterError
from mlkit.experiments.grid import check_judge, check_lists
from mlkit.experiments.study.findings import BASELINE, FULL
from mlkit.experiments.study.hiding import MECHANISMS, hide, settings_of
from mlkit.losses import LOSSES
from mlkit.parameters import check_fields
from mlkit.training.config import TrainConfig


@dataclass(frozen=True)
class Cell:
    """One training of a study."""

    method: str  # a name of `LOSSES`
    mechanism: str  # a name of `MECHANISMS`, or `FULL`: nothing hidden
    fraction: float  # share of the cells that is known
    seed: int

    def __str__(self) -> str:
        known = "all known" if self.mechanism == FULL else f"{self.fraction:.0%} known ({self.mechanism})"
        return f"seed {self.seed}, {known}, {self.method}"


# Settings of a training that a study decides by itself, and what to give instead.
NOT_GIVEN = {
    "loss": "give methods",
    "loss_settings": "every method has those of its paper",
    "prior_run": "csl trains one for itself",
    "seed": "give seeds",
    "split_seed": "give seeds",
    "folds": "give seeds",
    "fold": "give seeds",
    "calibrate": "AP does not depend on it",
    "threshold": "AP does not depend on it",
}


def refuse(given: Mapping[str, Any]) -> None:
    """Raise ParameterError if a setting is given that is in `NOT_GIVEN`."""
    for name, value in given.items():
        if name in NOT_GIVEN:
            raise ParameterError(f"{name} is {value!r}, which a study decides by itself: {NOT_GIVEN[name]}")


@dataclass(frozen=True)
class Study:
    """What to compare, and how each model is trained; every method with the same settings but its loss.

    In `config`, the settings in `NOT_GIVEN` have their defaults.

    Raises:
        ParameterError: if there is nothing to compare or a value is outside of what is possible.
    """

    methods: list[str] = field(default_factory=lambda: list(LOSSES))
    fractions: list[float] = field(default_factory=lambda: [0.1, 0.3, 0.7])  # shares of the cells that stay known
    mechanisms: list[str] = field(default_factory=lambda: ["random"])  # how cells are hidden, see `hiding.hide`
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # each another split, another hiding, another training
    ratio: float = 3.0  # of mechanism "positives": how many times the odds of being hidden are those of a negative
    block_images: int = 20  # of mechanism "blocks": images whose attribute is hidden at once
    config: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        check_lists(self, {"methods": LOSSES, "mechanisms": MECHANISMS, "fractions": None, "seeds": None})
        refuse({name: value for name in NOT_GIVEN if (value := getattr(self.config, name)) != getattr(TrainConfig, name)})
        if BASELINE not in self.methods:
            raise ParameterError(f"methods is {self.methods}; add {BASELINE!r}, with which the others are compared")
        if bad := [fraction for fraction in self.fractions if not 0 < fraction < 1]:
            raise ParameterError(f"fractions: {bad[0]} must lie between 0 and 1; all cells known is part of every study")
        check_judge(self.config)
        hide(pd.DataFrame(), 1.0, ratio=self.ratio, block_images=self.block_images)  # checks them

    @property
    def cells(self) -> list[Cell]:
        """The grid, seed after seed, so that a study cut short still compares all methods."""
        hidden = [(m, f) for m in self.mechanisms for f in self.fractions]
        return [
            cell
            for seed in self.seeds
            for cell in (
                Cell(BASELINE, FULL, 1.0, seed),
                *(Cell(method, mechanism, f, seed) for mechanism, f in hidden for method in self.methods),
            )
        ]

    def identity(self, cell: Cell) -> dict[str, Any]:
        """All that decides the figures of a cell, the data aside."""
        return {
            **asdict(cell),
            **settings_of(cell.mechanism, self.ratio, self.block_images),
            "config": asdict(self.training(cell)),
            "mlkit": mlkit.__version__,
        }

    def training(self, cell: Cell) -> TrainConfig:
        """The configuration of a cell's training, which sees no test image."""
        # the split into training and test is made here; AP needs neither calibration nor thresholds
        share = self.config.validation_fraction / (1 - self.config.test_fraction)
        none: dict[str, Any] = {"loss_settings": "", "prior_run": "", "folds": 0, "fold": 0, "test_fraction": 0.0}
        judge: dict[str, Any] = {"validation_fraction": share, "calibrate": False, "threshold": "fixed:0.5"}
        return replace(self.config, loss=cell.method, seed=cell.seed, split_seed=cell.seed, **none, **judge)
