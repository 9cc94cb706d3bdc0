"""A recipe: all that a training is made from, where its data is and its settings, out of a file and of what goes on top."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.source import DataSource
from mlkit.errors import ParameterError, RunError
from mlkit.files import resolve, shown
from mlkit.parameters import Parameter, check_parameters, parameters_of, read_parameters
from mlkit.runs import Run
from mlkit.training.config import TrainConfig

SEED = "notebooks/parameters/seed.yaml"  # of own data, and what other recipes are compared with


@dataclass(frozen=True)
class Recipe:
    """Where the data is, and how to train on it."""

    source: DataSource = field(default_factory=DataSource)
    config: TrainConfig = field(default_factory=TrainConfig)

    @classmethod
    def read(
        cls, recipe: str = "", settings: Mapping[str, Any] | None = None, images: str = "", labels: str = ""
    ) -> "Recipe":
        """A recipe file with settings on top.

        Args:
            recipe: YAML file, one `name: value` a line; empty: the defaults.
            settings: on top of the file, of those that `known_settings` lists.
            images, labels: in place of the file's.

        Raises:
            ParameterError: for an unknown name, with the nearest known one, or a value that cannot be.
        """
        values: dict[str, Any] = {}
        if recipe:
            try:
                values |= check_parameters(read_parameters(resolve(recipe)), known_settings())
            except ParameterError as error:
                raise ParameterError(f"{shown(resolve(recipe))}: {error}") from None
        values |= check_parameters(settings or {}, known_settings())
        values |= {name: value for name, value in (("images", images), ("labels", labels)) if value}
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe with these settings and the defaults of the others; names that are none are left out.

        So the parameters in a run's config.json are a recipe, whichever version of mlkit wrote them.
        """
        if (old := values.get("minus_one", "error")) != "error":  # what mlkit 0.1 called the only value that was not fixed
            values = {**values, "values": {"1": "yes", "0": "no", "-1": {"unknown": "NA"}.get(old, old)}}
        source, config = (
            {name: values[name] for name in parameters_of(part) if name in values} for part in (DataSource, TrainConfig)
        )
        return cls(DataSource(**source), TrainConfig(**config))

    def but(self, **settings: Any) -> "Recipe":
        """The same with other settings of the training."""
        return replace(self, config=replace(self.config, **settings))

    def open(self) -> MultiLabelDataset:
        """The data set, at the image size of the training."""
        return self.source.open(self.config.image_size)

    def parameters(self) -> dict[str, Any]:
        """Every setting as a plain value."""
        return asdict(self.source) | asdict(self.config)

    def differences(self, other: "Recipe") -> pd.DataFrame:
        """The settings of the training that differ from another recipe's.

        Returns:
            Index setting; columns here, there (the values, as text) and meaning.
        """
        mine, theirs = asdict(self.config), asdict(other.config)
        known = parameters_of(TrainConfig)
        names = [name for name in known if mine[name] != theirs[name]]
        rows = [(name, str(mine[name]), str(theirs[name]), known[name].meaning) for name in names]
        return pd.DataFrame(rows, columns=["setting", "here", "there", "meaning"]).set_index("setting")


def data_of(run: Run) -> MultiLabelDataset:
    """The data set that a run was made from.

    Raises:
        RunError: if labels or images are others by now, or the members of an ensemble had different ones.
        MlkitError: if they are gone.
    """
    made = run.config()
    if "," in made["data"]:  # a fingerprint for each
        raise RunError(f"the members of {run} were trained on different labels or images")
    dataset = Recipe.of(made["parameters"]).open()
    if dataset.fingerprint != made["data"]:
        raise RunError(f"labels or images are others than {run} was trained on")
    return dataset


def known_settings() -> dict[str, Parameter]:
    """Every setting that a recipe can have, by name."""
    return parameters_of(DataSource) | parameters_of(TrainConfig)


def notebook_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a recipe as a notebook that trains takes them."""
    data = {name: values[name] for name in ("images", "labels")}
    return {**data, "recipe": "", "settings": {name: value for name, value in values.items() if name not in data}}
