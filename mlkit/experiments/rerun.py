"""A run repeated from its config.json, and compared with what came out first."""

from collections.abc import Mapping

import pandas as pd

from mlkit.errors import RunError
from mlkit.runs import Run
from mlkit.training.loop import train
from mlkit.training.recipe import Recipe

_TIMES = ["img_per_s", "seconds"]  # columns that no two trainings share


def repeat(run: Run, name: str, places: Mapping[str, str] | None = None, overwrite: bool = False) -> Run:
    """Train by the parameters of a finished run into another one.

    Args:
        run: the run.
        name: of the new one.
        places: "images" and "labels", where they are not where they were; the same content is the same data.
        overwrite: replace the run that the new one's folder holds.

    Raises:
        RunError: if it is not finished, or an ensemble.
    """
    run.check_finished()
    if run.members:
        raise RunError(f"{run} is an ensemble; repeat its members: {', '.join(run.members)}")
    recipe = Recipe.of(run.config()["parameters"] | dict(places or {}))
    dataset = recipe.open()
    again = Run.create(name, recipe.parameters(), dataset.fingerprint, overwrite)
    train(dataset, recipe.config, again)
    return again


def compare(first: Run, second: Run) -> tuple[dict[str, bool], pd.DataFrame]:
    """Which files of two runs are the same, times and speeds aside, and which circumstances are not.

    Returns:
        File -> whether its bytes are the same; and a table (index what, columns then, now) of what differs of versions,
        machine and data.
    """
    names = ("history.csv", "epochs.csv", "predictions.csv")
    files = {file: _text(first, file).equals(_text(second, file)) for file in names}
    then, now = (_circumstances(run) for run in (first, second))
    rows = {name: (then.get(name, "?"), now.get(name, "?")) for name in then | now if then.get(name) != now.get(name)}
    return files, pd.DataFrame.from_dict(rows, orient="index", columns=["then", "now"]).rename_axis("what")


def _text(run: Run, file: str) -> pd.DataFrame:
    """A table as text: every digit."""
    table = pd.read_csv(run.existing(file), dtype=str, keep_default_na=False)
    return table.drop(columns=_TIMES, errors="ignore")


def _circumstances(run: Run) -> dict[str, str]:
    config, metrics = run.config(), run.read_json("metrics.json")
    contents = {f"content of {name}": digest for name, digest in config.get("contents", {}).items()}
    machine = {name: str(metrics.get(name, "?")) for name in ("device", "processor")}
    return {**config["versions"], "python": config["python"], **machine, "data": config["data"], **contents}
