"""What a simulation compares: orders to ask in, on labels of which cells were hidden in several ways."""

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import pandas as pd

import mlkit
from mlkit.curation.orders import BY, ORDERS
from mlkit.errors import ParameterError
from mlkit.experiments.grid import check_judge, check_lists
from mlkit.experiments.study.hiding import MECHANISMS, hide, settings_of
from mlkit.parameters import Between, OneOf, check_fields
from mlkit.training.config import TrainConfig

YARDSTICK = "random"  # the order that the others are compared with
LEARNERS = ("heads", "network")


@dataclass(frozen=True)
class Campaign:
    """One person's answers, from the first to the last round, and what a model learned from them after each."""

    order: str  # a name of `ORDERS`
    by: str
    hidden: float  # share of the cells that is hidden at the start
    mechanism: str  # a name of `MECHANISMS`
    error: float  # share of the person's answers, and of the labels known at the start, that are wrong
    seed: int

    def __str__(self) -> str:
        wrong = f", {self.error:.0%} wrong" if self.error else ""
        return f"seed {self.seed}, {self.hidden:.0%} hidden ({self.mechanism}){wrong}, {self.order} by {self.by}"


@dataclass(frozen=True)
class Simulation:
    """What to compare, and how each model is trained.

    Of `config`, the learner "heads" takes the network, its weights and the size of its images alone; both take the share of
    test images.

    Raises:
        ParameterError: if a value is outside of what is possible.
    """

    orders: list[str] = field(default_factory=lambda: list(ORDERS))
    by: list[str] = field(default_factory=lambda: list(BY))
    hidden: list[float] = field(default_factory=lambda: [0.7])
    mechanisms: list[str] = field(default_factory=lambda: ["random"])  # see `hiding.hide`
    errors: list[float] = field(default_factory=lambda: [0.0])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])  # each another split, hiding, person
    ratio: float = 3.0  # of mechanism "positives"
    block_images: int = 20  # of mechanism "blocks"
    rounds: Annotated[int, Between(1, 1000), "after each of which the model learns again"] = 10
    answers_per_round: Annotated[int, Between(1, 1_000_000)] = 100
    seconds_cell: Annotated[float, Between(0, open=True), "that an answer takes by cell: one question for many images"] = 1.0
    seconds_image: Annotated[float, Between(0, open=True), "that an answer takes by image: many questions on one"] = 1.0
    learner: Annotated[
        str, OneOf(LEARNERS), "heads: logistic ones on the features of the frozen network; network: it is trained"
    ] = "heads"
    components: Annotated[int, Between(1, 100_000), "of the features that the heads see, by principal components"] = 100
    strength: Annotated[float, Between(0, open=True), "of the heads: inverse of the L2 penalty"] = 0.003
    config: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        named = {"orders": ORDERS, "by": BY, "mechanisms": MECHANISMS}
        check_lists(self, named | {"hidden": None, "errors": None, "seeds": None})
        if YARDSTICK not in self.orders:
            raise ParameterError(f"orders is {self.orders}; add {YARDSTICK!r}, with which the others are compared")
        if bad := [share for share in self.hidden if not 0 < share < 1]:
            raise ParameterError(f"hidden: {bad[0]} must lie between 0 and 1")
        if bad := [share for share in self.errors if not 0 <= share < 0.5]:
            raise ParameterError(f"errors: {bad[0]} must be at least 0 and below 0.5: a person is right more often than not")
        check_judge(self.config)
        hide(pd.DataFrame(), 1.0, ratio=self.ratio, block_images=self.block_images)  # checks them

    @property
    def campaigns(self) -> list[Campaign]:
        """The grid, seed after seed, so that a simulation cut short still compares all orders."""
        return [
            Campaign(order, by, hidden, mechanism, error, seed)
            for seed in self.seeds
            for mechanism in self.mechanisms
            for hidden in self.hidden
            for error in self.errors
            for by in self.by
            for order in self.orders
        ]

    def identity(self, campaign: Campaign) -> dict[str, Any]:
        """All that decides the curve of a campaign, the data aside."""
        names = ["rounds", "answers_per_round", "learner", "components", "strength"]
        return {
            **asdict(campaign),
            **settings_of(campaign.mechanism, self.ratio, self.block_images),
            **{name: getattr(self, name) for name in names},
            "config": asdict(self.config),
            "mlkit": mlkit.__version__,
        }

    def training(self, campaign: Campaign) -> TrainConfig:
        """The configuration of a network's training, which sees no test image."""
        share = self.config.validation_fraction / (1 - self.config.test_fraction)
        none: dict[str, Any] = {"test_fraction": 0.0, "folds": 0, "fold": 0, "threshold": "fixed:0.5"}
        return replace(self.config, seed=campaign.seed, split_seed=campaign.seed, validation_fraction=share, **none)
