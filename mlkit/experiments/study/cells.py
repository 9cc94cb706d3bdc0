"""The cells of a study, computed: one training each, judged on the full truth."""

import shutil
import time
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.duplicates import duplicate_groups
from mlkit.data.split import split_images
from mlkit.evaluation.metrics import evaluate, macro
from mlkit.experiments.grid import compute_grid, digest, open_grid
from mlkit.experiments.study.findings import BASELINE, FULL
from mlkit.experiments.study.grid import Cell, Study
from mlkit.experiments.study.hiding import hide
from mlkit.experiments.trainings import train_quietly
from mlkit.losses import get_loss
from mlkit.models.device import choose_device
from mlkit.progress import say
from mlkit.runs import contents
from mlkit.training.objective import contradictions
from mlkit.training.prior import model_logits


def run_study(study: Study, truth: MultiLabelDataset, name: str, dask: str = "") -> pd.DataFrame:
    """Compute the cells of a study that are not finished yet, and return the results of all.

    Several processes may work on one study: each takes a cell that nobody works on, and returns when all are finished.

    Args:
        study: what to compare.
        truth: images with their full labels.
        name: of the study's folder below `outputs`.
        dask: who trains, see `open_cluster`.

    Returns:
        One row per cell: method, mechanism, fraction, seed, known (share of the training and validation cells that was
        known), mAP and "AP <attribute>" on the full truth of the test images, validation_mAP, best_epoch, seconds.

    Raises:
        RunError: if the folder holds something else.
    """
    folder = open_grid(name, "study", {"study": asdict(study), "data": truth.fingerprint})
    groups = _groups(truth, study.config.near_duplicates)
    for method in study.methods:
        config = study.training(Cell(method, FULL, 1.0, study.seeds[0]))
        own: dict[str, Any] = {"prior_run": "prior"} if get_loss(method).takes_prior else {}  # each training has one
        for text in contradictions(replace(config, **own)):
            say(f"warning: {text}")

    names = {cell: _digest(study.identity(cell), truth, groups) for cell in study.cells}
    compute = partial(_content, study, truth)
    return compute_grid(
        folder, names, compute, _table, lambda content: f"mAP {content['result']['mAP']:.3f}", "training", dask
    )


@lru_cache(maxsize=1)
def _groups(truth: MultiLabelDataset, near: bool) -> pd.Series:
    """Image -> group of those that are to stay in one part of a split."""
    return duplicate_groups(truth) if near else truth.digests


def _content(study: Study, truth: MultiLabelDataset, cell: Cell, folder: Path) -> dict[str, Any]:
    """What a cell's file holds."""
    result = _compute(study, cell, truth, _groups(truth, study.config.near_duplicates), folder)
    return {"settings": study.identity(cell), "data": truth.fingerprint, "result": result}


def split_and_hide(study: Study, cell: Cell, truth: MultiLabelDataset, groups: pd.Series) -> tuple[pd.DataFrame, np.ndarray]:
    """Labels to learn from, with hidden cells and without the test images, and the positions of the test images.

    The test images depend on the full labels and the seed alone, so that all methods of a seed are judged on the same; no
    image has a near duplicate (`groups`, of `duplicate_groups`) among them. The validation images lose cells like the
    training images do: who has partial labels has to choose an epoch by them.
    """
    share = study.config.validation_fraction
    split = split_images(truth.labels, share, cell.seed, groups, test=study.config.test_fraction)
    rest = truth.labels[split != "test"]
    if cell.mechanism != FULL:
        rest = hide(rest, cell.fraction, cell.mechanism, cell.seed, study.ratio, study.block_images)
    return rest, np.flatnonzero(split == "test")


def _compute(study: Study, cell: Cell, truth: MultiLabelDataset, groups: pd.Series, folder: Path) -> dict[str, Any]:
    """Train one cell in a folder that does not outlive it, and judge it on the full truth."""
    started = time.monotonic()
    labels, test = split_and_hide(study, cell, truth, groups)
    dataset, config = truth.with_labels(labels), study.training(cell)
    try:
        if get_loss(config.loss).takes_prior:
            # csl's paper estimates how frequent each attribute is by a model that leaves unknown cells out
            config = replace(config, prior_run=str(folder / "prior"))
            prior = replace(config, loss=BASELINE, prior_run="", pos_weight="none", calibrate=True)
            train_quietly(dataset, prior, folder / "prior")
        run = train_quietly(dataset, config, folder / "run")
        device = choose_device(config.device, config.precision, config.image_size)
        logits = model_logits(run / "model.pth", truth, test, device)
        epochs, best = run.read_table("epochs.csv"), run.read_json("metrics.json")["best_epoch"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    chance = np.full(len(truth.attributes), np.nan)  # of no interest here
    table = evaluate(torch.sigmoid(logits).numpy(), truth.targets[test], truth.attributes, chance)
    known = labels.notna().to_numpy().sum() / truth.labels.loc[labels.index].notna().to_numpy().sum()
    result = {
        **asdict(cell),
        "known": known,
        "mAP": macro(table).AP,
        **{f"AP {attribute}": value for attribute, value in table.AP.items()},
        "chance": macro(table).chance,
        "validation_mAP": epochs.mAP[best - 1],
        "best_epoch": best,
        "seconds": round(time.monotonic() - started, 1),
    }
    return {
        key: None if pd.isna(value) else value if isinstance(value, str) else float(value) for key, value in result.items()
    }


def _table(contents: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([content["result"] for content in contents]).astype({"seed": int, "best_epoch": int})


def _digest(identity: dict[str, Any], truth: MultiLabelDataset, groups: pd.Series) -> str:
    return digest(identity, contents(identity["config"]), truth.fingerprint, list(groups))
