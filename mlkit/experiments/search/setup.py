"""The beginning of a search: parameters, space and data are checked before anything runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.sample import ensure_sample
from mlkit.errors import RunError
from mlkit.experiments.search import Tuning
from mlkit.experiments.search.space import Space
from mlkit.notebooks import TRAINING
from mlkit.parameters import DATA, check_parameters, known_parameters, parameters_of
from mlkit.progress import say
from mlkit.runs import contents
from mlkit.training.config import TrainConfig

SPACE = "notebooks/parameters/space.yaml"


def set_up(name: str, given: Mapping[str, Any], space: str | Path = SPACE, prune: bool = True, grid: bool = False) -> Tuning:
    """Begin a search, or join it where it was begun. Also builds the pixel cache, before several processes want it.

    Args:
        name: of its folder below `outputs`.
        given: parameters of notebook 02; the others have its defaults.
        space: YAML file of what varies, see `Space`.
        prune: see `Tuning`.
        grid: check that the space has a grid.

    Raises:
        MlkitError: if a parameter, the space or the data are not as they should be, or the folder holds something else.
    """
    own = list(parameters_of(TrainConfig))
    standard = {key: value for key, value in known_parameters(TRAINING).items() if key in {*own, *DATA}}
    values = standard | check_parameters(given, standard)
    config = {key: values[key] for key in own}
    checked = Space.read(space, config)
    TrainConfig(**config)  # checks it
    if grid:
        checked.grid()
    ensure_sample(values["labels"])
    dataset = _dataset(values)
    say(str(dataset))
    tuning = Tuning(name, values, checked, dataset.fingerprint, prune=prune, contents=contents(values))
    tuning.begin()
    return tuning


def go_on(name: str) -> Tuning:
    """A search that was begun, if its trials would still see what the earlier ones saw.

    Raises:
        RunError: if there is none, or labels, images or weights have changed since.
    """
    tuning = Tuning.open(name)
    if (_dataset(tuning.parameters).fingerprint, contents(tuning.parameters)) != (tuning.data, tuning.contents):
        raise RunError(
            f"labels, images or weights have changed since the search {name} began, and its trials could not be compared "
            "with new ones; begin another, with another --name"
        )
    return tuning


def _dataset(parameters: Mapping[str, Any]) -> MultiLabelDataset:
    return MultiLabelDataset.from_files(image_size=parameters["image_size"], **{key: parameters[key] for key in DATA})
