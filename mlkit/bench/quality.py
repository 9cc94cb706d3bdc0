"""How soon other recipes reach the validation mAP that the seed's recipe does: in turns on one split, seed by seed."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mlkit.bench.load import doubts, moment, summarise
from mlkit.bench.machine import processor
from mlkit.bench.plainloop import PlainImages, plain_loader, plain_predict, plain_train
from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.labelfile import write_labels
from mlkit.data.labels import pos_weight
from mlkit.errors import ParameterError
from mlkit.evaluation.metrics import evaluate, macro
from mlkit.experiments.study.findings import t_interval
from mlkit.experiments.trainings import train_quietly
from mlkit.files import environment, is_address, locate, make_folder
from mlkit.models.freezing import KEPT
from mlkit.models.networks import build_model
from mlkit.progress import say
from mlkit.runs import outputs_root
from mlkit.training.loop import split_dataset
from mlkit.training.recipe import SEED, Recipe

YARDSTICK = "seed"
_CLOCKS = {
    "seconds": "seconds to the target",
    "cpu_seconds": "CPU seconds to the target",
    "total": "CPU seconds of all epochs",
}
PLAIN = "plain"  # in place of a recipe's file: the plain loop by the seed's recipe, to see that speed costs no quality


def time_to_quality(
    recipes: Sequence[str], settings: Mapping[str, Any], seeds: int = 3, count: int = 0, minutes: float = 0.0
) -> dict[str, Any]:
    """Train by the seed's recipe and by others for each seed, in turns, and note how good they were when.

    Args:
        recipes: files of the others, their names without suffix all different; `PLAIN`: the plain loop.
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
    given = {YARDSTICK: SEED, **{Path(file).stem: SEED if file == PLAIN else file for file in recipes}}
    known = {name: Recipe.read(file, settings) for name, file in given.items()}
    if PLAIN in known and is_address(known[PLAIN].source.images):
        raise ParameterError(f"images is {known[PLAIN].source.images}; the plain loop reads files of this machine alone")
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
                recipe = known[name].but(seed=seed)
                found = _train_plainly(dataset, recipe) if name == PLAIN else _train(dataset, recipe, Path(work))
                trainings.append({"recipe": name, "seed": seed} | found)
                say(f"seed {seed}, {name}: best validation mAP {max(trainings[-1]['mAP']):.3f}")
            moments.append(moment())
            longest = max(longest, time.monotonic() - began)
    facts = {"processor": processor(), "load": summarise(moments), "count": len(dataset)}
    return {"trainings": trainings, "recipes": {name: recipe.parameters() for name, recipe in known.items()}, **facts}


def table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each training: when it was first as good as the best epoch of the seed's recipe with the same seed.

    Returns:
        Index (seed, recipe); columns seconds and cpu_seconds (to that; NaN: never reached), total (CPU seconds of all
        epochs), target (validation mAP of that epoch), best (of its own), test_mAP (of its best epoch).
    """
    rows = pd.DataFrame(figures["trainings"]).set_index(["seed", "recipe"])
    rows["best"] = rows.mAP.map(np.nanmax)
    rows["target"] = rows.best.xs(YARDSTICK, level="recipe").reindex(rows.index, level="seed")
    rows["total"] = rows.cpu_seconds.str[-1]
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
        for clock, what in _CLOCKS.items():
            # of the logarithms: twice as fast and half as fast are equally far from equal
            ratio, low, high = np.exp(t_interval(np.log((own[clock] / base[clock]).dropna()), level))
            said.append(f"{ratio:.2f} [{low:.2f}, {high:.2f}] of the {what}")
        if len(missed):
            seeds = ", ".join(f"{seed} ({missed.best[seed]:.3f} of {missed.target[seed]:.3f})" for seed in missed.index)
            said = [*said[2 * (len(missed) == len(own)) :], f"the target was not reached with seed {seeds}"]
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
    test = run.read_json("metrics.json")["mean"]["AP"]
    return {**_spent(taken), "mAP": run.read_table("epochs.csv").mAP.to_list(), "test_mAP": test}


def _train_plainly(dataset: MultiLabelDataset, recipe: Recipe) -> dict[str, Any]:
    """The same of the plain loop, which reads the files in every epoch: network, split, weights of positives, and what is
    kept are those of the recipe; its loader has no workers, whose seconds would not be counted.
    """
    config, device = recipe.config, torch.device("cpu")
    split, folder = split_dataset(dataset, config), locate(recipe.source.images)
    indices = {part: np.flatnonzero(split == part) for part in ("train", "validation", "test")}
    loaders = {
        part: plain_loader(
            PlainImages(
                [folder / name for name in dataset.labels.index[of]],
                torch.from_numpy(dataset.targets[of]),
                config.image_size,
            ),
            int(config.batch_size),
            0,
            device,
            shuffle=part == "train",
        )
        for part, of in indices.items()
    }
    weights = torch.from_numpy(pos_weight(dataset.labels.iloc[indices["train"]], config.pos_weight_cap).to_numpy(np.float32))
    taken = [(time.monotonic(), time.process_time())]
    torch.manual_seed(config.seed)
    model = build_model(config.backbone, len(dataset.attributes), config.weights, config.image_size)
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)

    def ap(part: str) -> float:
        probabilities, known = plain_predict(model, loaders[part], device).numpy(), dataset.targets[indices[part]]
        even = np.full(len(dataset.attributes), np.nan)  # AP asks for no prevalence
        return float(macro(evaluate(probabilities, known, dataset.attributes, even)).AP)

    curve, test = [], np.nan
    for _ in range(config.epochs):
        plain_train(model, loaders["train"], optimizer, weights, device)
        curve.append(ap("validation"))
        taken.append((time.monotonic(), time.process_time()))
        if curve[-1] == np.nanmax(curve):
            before = taken[-1]
            test = ap("test")
            aside = np.subtract((time.monotonic(), time.process_time()), before)
            taken = [tuple(np.add(moment, aside)) for moment in taken]
    return {**_spent(taken), "mAP": curve, "test_mAP": test}


def _spent(taken: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Seconds of the wall and of the CPU from the first moment to each other one."""
    return dict(zip(("seconds", "cpu_seconds"), np.subtract(taken[1:], taken[0]).round(2).T.tolist(), strict=True))
