"""Several trainings on one data set, each a run of its own."""

import io
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mlkit.data.dataset import MultiLabelDataset
from mlkit.fanout import Piece, open_cluster, run_pieces
from mlkit.progress import bar, say
from mlkit.runs import Run, outputs_root
from mlkit.training.config import TrainConfig
from mlkit.training.loop import Watcher, train
from mlkit.training.recipe import Recipe


def train_all(
    dataset: MultiLabelDataset, recipes: Mapping[str, Recipe], overwrite: bool = False, dask: str = ""
) -> list[Run]:
    """Train by each recipe into the run of its name.

    A run that is finished, with the same parameters and data, is kept, and an unfinished one goes on.

    Args:
        dataset: the data set.
        recipes: name of the run -> its recipe, all of this data set.
        overwrite: replace other runs that these folders hold.
        dask: who trains, see `open_cluster`.

    Raises:
        RunError: if a folder holds another run.
        FailureError: if trainings fail on a cluster.
    """
    names = {
        f"training {number} of {len(recipes)}: {Run(outputs_root() / name)}": name for number, name in enumerate(recipes, 1)
    }
    pieces = [Piece(text, (text, name, recipes[name])) for text, name in names.items()]
    with open_cluster(dask) as client, bar(total=len(pieces), desc="trainings", unit="training") as progress:
        for piece in run_pieces(client, partial(_train, dataset, overwrite), pieces):
            progress.update()
            if client is not None:
                say(f"{piece.name}, finished")
    return [Run(outputs_root() / name) for name in recipes]


def _train(dataset: MultiLabelDataset, overwrite: bool, text: str, name: str, recipe: Recipe) -> None:
    """One of several trainings, unless it is finished."""
    run, parameters = Run(outputs_root() / name), recipe.parameters()
    say(text)
    if not overwrite and run.finished and not run.differences(parameters, dataset.fingerprint):
        say("finished before, kept")
    else:
        train(dataset, recipe.config, Run.create(name, parameters, dataset.fingerprint, overwrite))


def train_examples(recipe: Recipe, backbones: Sequence[str]) -> list[Run]:
    """Trainings of several networks by one recipe, `example-BACKBONE`.

    Raises:
        RunError: if a folder holds another run.
    """
    return train_all(recipe.open(), {f"example-{backbone}": recipe.but(backbone=backbone) for backbone in backbones})


def train_quietly(dataset: MultiLabelDataset, config: TrainConfig, folder: Path, watcher: Watcher | None = None) -> Run:
    """Train into a folder, in place of what a process that was killed left there; a hundred trainings would say the same."""
    shutil.rmtree(folder, ignore_errors=True)
    run = Run.create(folder, asdict(config), dataset.fingerprint)
    with redirect_stdout(io.StringIO()):
        train(dataset, config, run, watcher)
    return run
