"""The verdict that ends a training: calibration and thresholds by the validation images, worth by the test images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

import mlkit
from mlkit.data.dataset import MultiLabelDataset
from mlkit.evaluation import calibration
from mlkit.evaluation.calibration import Calibration
from mlkit.evaluation.metrics import DEFAULT_THRESHOLD, evaluate, macro, micro
from mlkit.evaluation.thresholds import choose_thresholds
from mlkit.models.networks import load_model, save_model, statistics_of
from mlkit.progress import say
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.step import TrainingStep


def model_meta(
    network: nn.Module, dataset: MultiLabelDataset, config: TrainConfig, prevalence: np.ndarray, epoch: int
) -> dict[str, Any]:
    """What model.pth says of itself while the training goes on: uncalibrated, thresholds at 0.5.

    `prevalence` is that of the training images, NaN for an attribute that they never show.
    """
    mean, std = statistics_of(network)
    return {
        "attributes": dataset.attributes,
        "image_size": config.image_size,
        "mean": list(mean),
        "std": list(std),
        "precision": config.precision,
        "backbone": config.backbone,
        "weights": config.weights,
        "loss": config.loss,
        "never_seen": [name for name, share in zip(dataset.attributes, prevalence, strict=True) if np.isnan(share)],
        "calibration": calibration.from_pos_weight(dataset.attributes).to_dict(),
        "thresholds": dict.fromkeys(dataset.attributes, DEFAULT_THRESHOLD),
        "epoch": epoch,
        "trained": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": {},  # filled in by `judge`, with which the training ends
        "mlkit_version": mlkit.__version__,
    }


@dataclass(frozen=True)
class Predicted:
    """What a model says of some images, and what is known of them.

    Attributes:
        images: (images,) names.
        logits: (images, attributes).
        targets: (images, attributes) of 1, 0 and -1 for unknown.
    """

    images: pd.Index
    logits: np.ndarray
    targets: np.ndarray


def pass_verdict(
    run: Run,
    dataset: MultiLabelDataset,
    config: TrainConfig,
    step: TrainingStep,
    split: pd.Series,
    prevalence: np.ndarray,
    facts: dict[str, Any],
) -> pd.DataFrame:
    """Judge the kept model of a training and finish its run, see `judge`.

    Args:
        facts: of the training, for metrics.json.
    """
    network, meta = load_model(run / "model.pth")
    step.network.load_state_dict(network.state_dict())
    targets, parts = dataset.targets.numpy(), {}
    for side in ("validation", "test"):
        chosen = np.flatnonzero(split == side)
        parts[side] = Predicted(dataset.labels.index[chosen], step.evaluate(chosen).numpy(), targets[chosen])
    weight = step.objective.pos_weight.cpu().numpy().astype(float) if config.calibrate else None
    size = sum(parameter.numel() for parameter in network.parameters())
    facts = {**facts, "parameters": size, "device": str(step.device), "ran_on": step.device.short}
    table = judge(run, network, meta, parts, prevalence, config.threshold, weight, facts)
    (run / "last.pt").unlink(missing_ok=True)
    return table


def judge(
    run: Run,
    model: nn.Module,
    meta: dict[str, Any],
    parts: Mapping[str, Predicted],
    prevalence: np.ndarray,
    policy: str,
    pos_weight: np.ndarray | float | None,
    facts: dict[str, Any],
) -> pd.DataFrame:
    """Choose calibration and thresholds of a model, judge it, and finish its run: predictions.csv, metrics.json, model.pth.

    Calibration and thresholds are chosen on the validation images, which chose the epoch too; so that the figures do not
    flatter, they come from the test images, where there are any.

    Args:
        run: where to write.
        model: the model.
        meta: what model.pth says of it; calibration, thresholds and metrics are filled in.
        parts: "validation" and "test". What is known there of attributes that were never seen in training does not count.
        prevalence: (attributes,), share of positives among the known training cells.
        policy: of the thresholds, see `thresholds.choose_thresholds`.
        pos_weight: of the loss, see `calibration.fit`; None leaves the model uncalibrated.
        facts: more for metrics.json, plain values.

    Returns:
        See `metrics.evaluate`.
    """
    names = list(meta["attributes"])
    unseen = np.isin(names, meta.get("never_seen", []))
    judging = {side: replace(part, targets=np.where(unseen, -1, part.targets)) for side, part in parts.items()}
    validation = judging["validation"]
    calibrator = Calibration.from_dict(meta["calibration"])
    if pos_weight is not None:
        calibrator = calibration.fit(validation.logits, validation.targets, names, pos_weight)
    probabilities = {side: calibrator.probabilities(part.logits) for side, part in parts.items()}
    thresholds = choose_thresholds(probabilities["validation"], validation.targets, names, policy).threshold
    judged_on = "test" if len(parts["test"].images) else "validation"
    p, y = probabilities[judged_on], judging[judged_on].targets
    table = evaluate(p, y, names, prevalence, thresholds.to_numpy())
    mean = macro(table)
    meta = meta | {
        "calibration": calibrator.to_dict(),
        "thresholds": {name: float(value) for name, value in thresholds.items()},
        "metrics": {"judged_on": judged_on, "mAP": float(mean.AP), "AP": {n: float(v) for n, v in table.AP.items()}},
    }
    save_model(run.new("model.pth"), model, meta)
    if unseen.any():
        say(f"never seen in training, NA in predictions: {', '.join(np.array(names)[unseen])}")
        probabilities = {side: np.where(unseen, np.nan, values) for side, values in probabilities.items()}
    run.write_table(
        "predictions.csv", pd.concat([_table(side, part, names, probabilities[side]) for side, part in parts.items()])
    )
    run.write_json(
        "metrics.json",
        {
            "judged_on": judged_on,
            **facts,
            "mean": _plain(mean),
            "micro": _plain(micro(p, y, prevalence, thresholds.to_numpy())),
            "left_out_of_mean": list(mean.attrs["left_out"]),
            "attributes": {name: _plain(row) for name, row in table.iterrows()},
            "training_prevalence": _plain(pd.Series(prevalence, names)),
        },
    )
    return table


def _table(side: str, part: Predicted, attributes: list[str], probabilities: np.ndarray) -> pd.DataFrame:
    """One row per image and attribute; the target is empty where unknown."""
    targets = part.targets.ravel()
    return pd.DataFrame(
        {
            "split": side,
            "image": np.repeat(part.images, len(attributes)),
            "attribute": np.tile(attributes, len(part.images)),
            "target": pd.Series(targets, dtype="Int8").where(targets >= 0),
            "logit": part.logits.ravel(),
            "probability": probabilities.ravel(),
        }
    )


def _plain(values: pd.Series) -> dict[str, Any]:
    """Plain numbers for JSON, which has no NaN."""
    return {str(name): None if pd.isna(value) else float(value) for name, value in values.items()}
