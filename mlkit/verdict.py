"""The verdict that ends a training: calibration and thresholds by the validation images, worth by the test images."""

from typing import Any

import numpy as np
import pandas as pd

import mlkit
from mlkit import calibration
from mlkit.calibration import Calibration
from mlkit.config import TrainConfig
from mlkit.dataset import MultiLabelDataset
from mlkit.metrics import DEFAULT_THRESHOLD, evaluate, macro, micro
from mlkit.model import IMAGENET_MEAN, IMAGENET_STD, load_model, save_model
from mlkit.runs import Run
from mlkit.step import TrainingStep
from mlkit.thresholds import choose_thresholds


def model_meta(dataset: MultiLabelDataset, config: TrainConfig, epoch: int) -> dict[str, Any]:
    """What model.pth says of itself while the training goes on: uncalibrated, thresholds at 0.5."""
    identity = Calibration(tuple(dataset.attributes), np.ones(len(dataset.attributes)), np.zeros(len(dataset.attributes)))
    return {
        "attributes": dataset.attributes,
        "image_size": config.image_size,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "backbone": config.backbone,
        "weights": config.weights,
        "loss": config.loss,
        "calibration": identity.to_dict(),
        "thresholds": dict.fromkeys(dataset.attributes, DEFAULT_THRESHOLD),
        "epoch": epoch,
        "metrics": {},
        "mlkit_version": mlkit.__version__,
    }


def pass_verdict(
    run: Run,
    dataset: MultiLabelDataset,
    config: TrainConfig,
    step: TrainingStep,
    split: pd.Series,
    prevalence: np.ndarray,
    best_epoch: int,
    epochs: int,
) -> pd.DataFrame:
    """Judge the kept model and finish the run: predictions.csv, metrics.json, model.pth complete.

    Calibration and thresholds are chosen on the validation images, which chose the epoch too; so that the figures do not
    flatter, they come from the test images, where there are any.

    Returns:
        See `metrics.evaluate`.
    """
    network, meta = load_model(run / "model.pth")
    step.network.load_state_dict(network.state_dict())
    names, targets = dataset.attributes, dataset.targets.numpy()
    parts = {side: np.flatnonzero(split == side) for side in ("validation", "test")}
    logits = {side: step.evaluate(indices).numpy() for side, indices in parts.items()}
    chosen = parts["validation"]
    calibrator = Calibration.from_dict(meta["calibration"])
    if config.calibrate:
        weight = step.objective.pos_weight.cpu().numpy().astype(float)
        calibrator = calibration.fit(logits["validation"], targets[chosen], names, weight)
    probabilities = {side: calibrator.probabilities(values) for side, values in logits.items()}
    thresholds = choose_thresholds(probabilities["validation"], targets[chosen], names, config.threshold).threshold
    judged_on = "test" if len(parts["test"]) else "validation"
    p, y = probabilities[judged_on], targets[parts[judged_on]]
    table = evaluate(p, y, names, prevalence, thresholds.to_numpy())
    mean = macro(table)
    meta |= {
        "calibration": calibrator.to_dict(),
        "thresholds": {name: float(value) for name, value in thresholds.items()},
        "metrics": {"judged_on": judged_on, "mAP": float(mean.AP), "AP": {n: float(v) for n, v in table.AP.items()}},
    }
    save_model(run / "model.pth", network, meta)
    run.write_table(
        "predictions.csv",
        pd.concat([_predictions(dataset, side, parts[side], logits[side], probabilities[side]) for side in parts]),
    )
    run.write_json(
        "metrics.json",
        {
            "judged_on": judged_on,
            "best_epoch": best_epoch,
            "epochs": epochs,
            "device": str(step.device),
            "mean": _plain(mean),
            "micro": _plain(micro(p, y, prevalence, thresholds.to_numpy())),
            "left_out_of_mean": list(mean.attrs["left_out"]),
            "attributes": {name: _plain(row) for name, row in table.iterrows()},
            "training_prevalence": _plain(pd.Series(prevalence, names)),
        },
    )
    (run / "last.pt").unlink(missing_ok=True)
    return table


def _predictions(
    dataset: MultiLabelDataset, side: str, indices: np.ndarray, logits: np.ndarray, probabilities: np.ndarray
) -> pd.DataFrame:
    """One row per image and attribute; the target is empty where unknown."""
    images, attributes = dataset.labels.index[indices], dataset.attributes
    targets = dataset.targets.numpy()[indices].ravel()
    return pd.DataFrame(
        {
            "split": side,
            "image": np.repeat(images, len(attributes)),
            "attribute": np.tile(attributes, len(images)),
            "target": pd.Series(targets, dtype="Int8").where(targets >= 0),
            "logit": logits.ravel(),
            "probability": probabilities.ravel(),
        }
    )


def _plain(values: pd.Series) -> dict[str, Any]:
    """Plain numbers for JSON, which has no NaN."""
    return {str(name): None if pd.isna(value) else float(value) for name, value in values.items()}
