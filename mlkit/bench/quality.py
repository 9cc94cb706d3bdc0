"""How soon other recipes reach the validation mAP that the seed's recipe does: in turns on one split, seed by seed."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlkit.bench.load import doubts, moment, summarise
from mlkit.bench.machine import processor
from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.labelfile import write_labels
from mlkit.errors import ParameterError
from mlkit.experiments.study.findings import t_interval
from mlkit.experiments.trainings import train_quietly
from mlkit.files import environment, make_folder
from mlkit.models.freezing import KEPT
from mlkit.models.networks import build_model
from mlkit.progress import say
from mlkit.runs import outputs_root
from mlkit.training.loop import split_dataset
from mlkit.training.recipe import SEED, Recipe

YARDSTICK = "seed"


def time_to_quality(
    recipes: Sequence[str], settings: Mapping[str, Any], seeds: int = 3, count: int = 0, minutes: float = 0.0
) -> dict[str, Any]:
    """Train by the seed's recipe and by others for each seed, in turns, and note how good they were when.

    Args:
        recipes: files of the others, their names without suffix all different.
        settings: on top of all; images and labels among them.
        seeds: how often. The split is the same every time.
        count: images, spread evenly over the label file; 0: all.
        minutes: from the third seed on, none is begun that would end later; 0: no limit.

    Returns:
        `trainings`: for each its recipe, seed, seconds and validation mAP after each epoch, and mAP on the test images.
        Seconds begin with the training, data decoded, what comes before its first epoch included. Beside them `recipes`
        (all settings), `processor`, `load` (see `bench.load`) and `count` (of images).
    """
    if seeds < 1:
        raise ParameterError(f"seeds is {seeds}; it must be at least 1")
    given = {YARDSTICK: SEED, **{Path(file).stem: file for file in recipes}}
    known = {name: Recipe.read(file, settings) for name, file in given.items()}
    for name, recipe in known.items():
        if recipe.config.test_fraction == 0:
            raise ParameterError("test_fraction is 0; the test images judge here: leave some")
        if (size := recipe.config.image_size) != known[YARDSTICK].config.image_size:
            raise ParameterError(f"image_size is {size} in {name} alone; give all one: --image-size {size}")
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=make_folder(outputs_root()), ignore_cleanup_errors=True) as work,
        environment(MLKIT_OUTPUTS=work),
    ):
        dataset = _open(known[YARDSTICK], count, Path(work))
        config = known[YARDSTICK].config  # what is imported, and hashed for the split, no training pays for
        build_model(config.backbone, len(dataset.attributes), config.weights, config.image_size)
        split_dataset(dataset, config)
        trainings: list[dict[str, Any]] = []
        moments, started, longest = [moment()], time.monotonic(), 0.0
        for seed in range(seeds):
            began = time.monotonic()
            if minutes and seed > 1 and began + longest > started + 60 * minutes:
                break
            for name in list(known)[:: 1 if seed % 2 else -1]:  # who goes first, the machine may favour
                trainings.append({"recipe": name, "seed": seed} | _train(dataset, known[name].but(seed=seed), Path(work)))
                say(f"seed {seed}, {name}: best validation mAP {max(trainings[-1]['mAP']):.3f}")
            moments.append(moment())
            longest = max(longest, time.monotonic() - began)
    facts = {"processor": processor(), "load": summarise(moments), "count": len(dataset)}
    return {"trainings": trainings, "recipes": {name: recipe.parameters() for name, recipe in known.items()}, **facts}


def table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each training: when it was first as good as the best epoch of the seed's recipe with the same seed.

    Returns:
        Index (seed, recipe); columns seconds and cpu_seconds (to that; NaN: never reached), total (seconds of all epochs),
        target (validation mAP of that epoch), best (of its own), test_mAP (of its best epoch).
    """
    rows = pd.DataFrame(figures["trainings"]).set_index(["seed", "recipe"])
    rows["best"] = rows.mAP.map(np.nanmax)
    rows["target"] = rows.best.xs(YARDSTICK, level="recipe").reindex(rows.index, level="seed")
    rows["total"] = rows.seconds.str[-1]
    reached = [np.flatnonzero(np.array(row.mAP) >= row.target) for row in rows.itertuples()]
    for clock in ("seconds", "cpu_seconds"):
        rows[clock] = [taken[where[0]] if len(where) else np.nan for taken, where in zip(rows[clock], reached, strict=True)]
    return rows[["seconds", "cpu_seconds", "total", "target", "best", "test_mAP"]]


def conclude(rows: pd.DataFrame, level: float = 0.95) -> list[str]:
    """What `table` says of each other recipe, a line each, with intervals over the seeds by Student's t."""
    lines = []
    base = rows.xs(YARDSTICK, level="recipe")
    for name in rows.index.unique("recipe").drop(YARDSTICK):
        own = rows.xs(name, level="recipe")
        missed, said = own[own.seconds.isna()], []
        for clock in ("seconds", "cpu_seconds"):
            # of the logarithms: twice as fast and half as fast are equally far from equal
            ratio, low, high = np.exp(t_interval(np.log((own[clock] / base[clock]).dropna()), level))
            said.append(f"{ratio:.2f} [{low:.2f}, {high:.2f}] of the {clock.replace('_', ' ')} to the target")
        if len(missed):
            seeds = ", ".join(f"{seed} ({missed.best[seed]:.3f} of {missed.target[seed]:.3f})" for seed in missed.index)
            said = [*said[: 2 * (len(missed) < len(own))], f"the target was not reached with seed {seeds}"]
        gain, low, high = t_interval(own.test_mAP - base.test_mAP, level)
        lines.append(f"{name}: {'; '.join(said)}; test mAP {gain:+.3f} [{low:+.3f}, {high:+.3f}]")
    return lines


def describe(figures: Mapping[str, Any]) -> str:
    """Table, conclusions and what they rest on."""
    rows = table(figures)
    seeds = rows.index.unique("seed").size
    lines = [rows.to_string(float_format="{:.4g}".format, na_rep="never"), *conclude(rows)]
    lines.append(f"95 % intervals over {seeds} seeds, one split of {figures['count']} images; {figures['processor']}")
    if reasons := doubts(figures["load"], [1.0]):
        lines.append(f"The seconds are rough, take those of the CPU: {'; '.join(reasons)}.")
    return "\n".join(lines)


def _open(recipe: Recipe, count: int, work: Path) -> MultiLabelDataset:
    """The data set, or so many of its images, spread evenly over the label file."""
    source = recipe.source
    source.prepare()
    labels = source.read().check().labels
    if count and count < len(labels):
        write_labels(labels.iloc[np.linspace(0, len(labels) - 1, count).astype(int)], work / "labels.csv")
        source = replace(source, labels=str(work / "labels.csv"), values={}, attributes=[], image_column="")
    return source.open(recipe.config.image_size)


def _train(dataset: MultiLabelDataset, recipe: Recipe, work: Path) -> dict[str, Any]:
    """One training's seconds and validation mAP by epoch, and what it is worth on the test images."""
    for kept in work.glob(f"cache/*/{KEPT}*"):  # each pays for its features itself
        kept.unlink()
    taken = [(time.monotonic(), time.process_time())]

    def watch(_: Any) -> bool:
        taken.append((time.monotonic(), time.process_time()))
        return False

    run = train_quietly(dataset, recipe.config, work / "run", watch)
    spent = dict(zip(("seconds", "cpu_seconds"), np.subtract(taken[1:], taken[0]).round(2).T.tolist(), strict=True))
    test = run.read_json("metrics.json")["mean"]["AP"]
    return {**spent, "mAP": run.read_table("epochs.csv").mAP.to_list(), "test_mAP": test}
