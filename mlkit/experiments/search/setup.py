"""The beginning of a search: parameters, space and data are checked before anything runs."""

from dataclasses import asdict
from pathlib import Path

from mlkit.errors import RunError
from mlkit.experiments.search.space import Space
from mlkit.experiments.search.tuning import Tuning
from mlkit.progress import say
from mlkit.runs import contents
from mlkit.training.recipe import Recipe

SPACE = "notebooks/parameters/space.yaml"


def set_up(name: str, recipe: Recipe, space: str | Path = SPACE, prune: bool = True, grid: bool = False) -> Tuning:
    """Begin a search, or join it where it was begun. Also builds the pixel cache, before several processes want it.

    Args:
        name: of its folder below `outputs`.
        recipe: of the trainings; of what varies, where the search starts.
        space: YAML file of what varies, see `Space`.
        prune: see `Tuning`.
        grid: check that the space has a grid.

    Raises:
        MlkitError: if a parameter, the space or the data are not as they should be, or the folder holds something else.
    """
    values = recipe.parameters()
    checked = Space.read(space, asdict(recipe.config))
    if grid:
        checked.grid()
    dataset = recipe.open()
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
    if (Recipe.of(tuning.parameters).open().fingerprint, contents(tuning.parameters)) != (tuning.data, tuning.contents):
        raise RunError(
            f"labels, images or weights have changed since the search {name} began, and its trials could not be compared "
            "with new ones; begin another, with another --name"
        )
    return tuning
