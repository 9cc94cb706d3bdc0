"""k-fold cross-validation: every image is tested once, by a model that did not see it.

Each fold is a run of its own, `NAME-fold0`, `NAME-fold1` ...; what they say together goes into the folder `NAME-folds`.
"""

import numpy as np
import pandas as pd

from mlkit.data.dataset import MultiLabelDataset
from mlkit.evaluation import intervals, metrics
from mlkit.evaluation.predictions import Predictions
from mlkit.experiments.trainings import train_all
from mlkit.runs import Folder, named_folder
from mlkit.training.recipe import Recipe


def cross_validate(
    dataset: MultiLabelDataset, recipe: Recipe, name: str, overwrite: bool = False, dask: str = ""
) -> pd.DataFrame:
    """Train `recipe.config.folds` runs and put together what they say on their test images.

    A fold that is finished, with the same parameters and data, is kept, and an unfinished one goes on.

    Args:
        dataset: the data set.
        recipe: of every fold; its own `fold` is not used.
        name: what the names of the folders begin with.
        overwrite: replace other runs that these folders hold.
        dask: who trains, see `open_cluster`.

    Returns:
        See `over_folds`; also written to `NAME-folds/folds.csv`, beside the out-of-fold predictions.

    Raises:
        RunError: if a folder holds another run.
    """
    recipes = {f"{name}-fold{fold}": recipe.but(fold=fold) for fold in range(recipe.config.folds)}
    predicted = [Predictions.read(run) for run in train_all(dataset, recipes, overwrite, dask)]
    folder = Folder(named_folder(f"{name}-folds"))
    table = over_folds(predicted)
    parts = [one.run.read_table("predictions.csv").query("split == 'test'") for one in predicted]
    predictions = pd.concat(part.assign(split=f"fold{fold}") for fold, part in enumerate(parts))
    folder.write_table("predictions.csv", predictions.rename(columns={"split": "fold"}))
    folder.write_table("folds.csv", table.reset_index())
    return table


def over_folds(predicted: list[Predictions], level: float = 0.95) -> pd.DataFrame:
    """Each figure over the folds, and on all out-of-fold predictions in one pool.

    The deviation over folds is how far one training and its test images move a figure. It is not the standard error of the
    mean, since the folds share most of their training images (Bengio & Grandvalet 2004). The pooled figures rank images of
    different models together; their interval is for other images, not for other trainings.

    Args:
        predicted: one per fold, of the same attributes.
        level: of the interval, see `intervals.jackknife`.

    Returns:
        Index (figure, attribute), the mean over attributes being `intervals.MEAN`: over those that every fold could judge
        (`attrs["over"]` says how many of how many), of the pool over those that the pool could; columns mean, deviation,
        folds (in how many the figure is defined), pooled, low, high; the last three for `intervals.FIGURES`.
    """
    tables = [one.evaluate() for one in predicted]
    every = np.logical_and.reduce([(table.positives > 0) & (table.negatives > 0) for table in tables])
    for table in tables:
        table.loc[intervals.MEAN] = metrics.macro(table[every])
    stacked = pd.concat([table[list(metrics.FIGURES)] for table in tables], keys=range(len(tables)))
    groups = stacked.groupby(level=1, sort=False)
    parts = {"mean": groups.mean(), "deviation": groups.std(ddof=1), "folds": groups.count()}
    over = pd.DataFrame({name: part.T.stack() for name, part in parts.items()})
    over.index.names = ["figure", "attribute"]
    pooled = intervals.jackknife(
        np.concatenate([one.probabilities for one in predicted]),
        np.concatenate([one.targets for one in predicted]),
        predicted[0].attributes,
        np.concatenate([np.tile(one.thresholds, (len(one.images), 1)) for one in predicted]),  # each fold decides by its own
        level,
    )
    over = over.join(pooled.rename(columns={"value": "pooled"}))
    over.attrs["over"] = f"{every.sum()} of {len(every)} attributes"
    return over
