"""A recipe: all that a training is made from, where its data is and its settings, out of files and of what goes on top."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.source import DataSource
from mlkit.errors import ParameterError
from mlkit.files import resolve, shown
from mlkit.parameters import check_parameters, parameters_of, read_parameters
from mlkit.training.config import TrainConfig

FOLDER = "notebooks/parameters"
SEED = f"{FOLDER}/seed.yaml"  # the recipe that others are compared with, and that of own data
SAMPLE = f"{FOLDER}/sample.yaml"


@dataclass(frozen=True)
class Recipe:
    """Where the data is, and how to train on it."""

    source: DataSource = field(default_factory=DataSource)
    config: TrainConfig = field(default_factory=TrainConfig)

    @classmethod
    def read(cls, file: str = "", settings: Mapping[str, Any] | None = None, images: str = "", labels: str = "") -> "Recipe":
        """A recipe file with settings on top.

        Args:
            file: YAML, one `name: value` a line; empty: the defaults.
            settings: of those that `known_settings` lists.
            images, labels: in place of the file's.

        Raises:
            ParameterError: for an unknown name, with the nearest known one, or a value that cannot be.
        """
        values: dict[str, Any] = {}
        if file:
            try:
                values |= check_parameters(read_parameters(resolve(file)), known_settings())
            except ParameterError as error:
                raise ParameterError(f"{shown(file)}: {error}") from None
        values |= check_parameters(settings or {}, known_settings())
        values |= {name: value for name, value in (("images", images), ("labels", labels)) if value}
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe with these settings, and the defaults of the others; names that are none are left out.

        So the parameters in a run's config.json are a recipe, whichever version of mlkit wrote them.
        """
        source, config = ({name: values[name] for name in parameters_of(kind) if name in values} for kind in _PARTS)
        return cls(DataSource(**source), TrainConfig(**config))

    def open(self) -> MultiLabelDataset:
        """The data set, at the image size of the training."""
        return self.source.open(self.config.image_size)

    def parameters(self) -> dict[str, Any]:
        """Every setting as a plain value."""
        return asdict(self.source) | asdict(self.config)

    def differences(self, other: "Recipe") -> pd.DataFrame:
        """The settings of the training that differ, a row each: this recipe, the other, and what the setting means."""
        mine, theirs = asdict(self.config), asdict(other.config)
        rows = {
            name: (mine[name], theirs[name], parameter.meaning)
            for name, parameter in parameters_of(TrainConfig).items()
            if mine[name] != theirs[name]
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=["here", "there", "meaning"]).rename_axis("setting")


_PARTS: Sequence[Any] = (DataSource, TrainConfig)


def known_settings() -> dict[str, Any]:
    """Every setting that a recipe can have: name -> `Parameter`."""
    return {name: parameter for part in _PARTS for name, parameter in parameters_of(part).items()}
