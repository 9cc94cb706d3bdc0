"""What ends a training: calibration and thresholds by the validation images, figures by the test images."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

import mlkit
from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.missingness import not_at_random
from mlkit.evaluation import calibration
from mlkit.evaluation.calibration import Calibration
from mlkit.evaluation.guarantee import certify
from mlkit.evaluation.metrics import DEFAULT_THRESHOLD, evaluate, macro, micro
from mlkit.evaluation.thresholds import choose_thresholds, parse_policy, rests_on_few, smallest_class
from mlkit.models.modelfile import save_model
from mlkit.models.networks import statistics_of
from mlkit.progress import listed, say
from mlkit.runs import Run
from mlkit.training.config import TrainConfig


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
        "reading": asdict(dataset.reading),
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
        "metrics": {},  # filled in by `finish_run`
        "mlkit_version": mlkit.__version__,
    }


@dataclass(frozen=True)
class Outputs:
    """What a network gives for some images, and their labels.

    Attributes:
        images: (images,) names.
        logits: (images, attributes).
        targets: (images, attributes) of 1, 0 and -1 for unknown.
    """

    images: pd.Index
    logits: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class TrainedModel:
    """A model whose training is over, before calibration.

    Attributes:
        network: the network.
        meta: what model.pth says of it, see `model_meta`.
        prevalence: (attributes,), share of positives among the known training cells.
        pos_weight: of the loss, see `calibration.fit`; None leaves the model uncalibrated.
    """

    network: nn.Module
    meta: dict[str, Any]
    prevalence: np.ndarray
    pos_weight: np.ndarray | float | None


def finish_run(
    run: Run,
    model: TrainedModel,
    outputs: Mapping[str, Outputs],
    policy: str,
    facts: dict[str, Any],
    dataset: Callable[[], MultiLabelDataset],
) -> pd.DataFrame:
    """Calibrate a model, choose its thresholds, evaluate it, and finish its run: predictions.csv, metrics.json, model.pth.

    Calibration and thresholds are chosen on the validation images, which chose the epoch too; so that the figures do not
    flatter, they come from the test images, where there are any.

    Args:
        run: where to write.
        model: the model; calibration, thresholds and metrics are filled in.
        outputs: "validation" and "test". What is known there of attributes that were never seen in training does not count.
        policy: of the thresholds, see `thresholds.choose_thresholds`.
        facts: more for metrics.json, plain values.
        dataset: opens the data, which a guarantee asks whether it is missing at random.

    Returns:
        See `metrics.evaluate`.
    """
    names, meta = list(model.meta["attributes"]), model.meta
    unseen = np.isin(names, meta.get("never_seen", []))
    targets = {side: np.where(unseen, -1, part.targets) for side, part in outputs.items()}
    calibrator = Calibration.from_dict(meta["calibration"])
    if model.pos_weight is not None:
        calibrator = calibration.fit(outputs["validation"].logits, targets["validation"], names, model.pos_weight)
    probabilities = {side: calibrator.probabilities(part.logits) for side, part in outputs.items()}
    known = [name for name, never in zip(names, unseen, strict=True) if not never]
    thresholds, chosen = _choose(probabilities["validation"], targets["validation"], names, known, policy, dataset)
    side = "test" if len(outputs["test"].images) else "validation"
    p, y = probabilities[side], targets[side]
    table = evaluate(p, y, names, model.prevalence, thresholds.to_numpy())
    mean = macro(table)
    meta = meta | {
        "calibration": calibrator.to_dict(),
        "thresholds": {name: float(value) for name, value in thresholds.items()},
        **chosen,
        "metrics": {"judged_on": side, "mAP": float(mean.AP), "AP": {n: float(v) for n, v in table.AP.items()}},
    }
    save_model(run.new("model.pth"), model.network, meta)
    if unseen.any():
        say(f"never seen in training, NA in predictions: {listed(np.array(names)[unseen])}")
        probabilities = {side: np.where(unseen, np.nan, values) for side, values in probabilities.items()}
    tables = [_table(split, part, names, probabilities[split]) for split, part in outputs.items()]
    run.write_table("predictions.csv", pd.concat(tables))
    run.write_json(
        "metrics.json",
        {
            "judged_on": side,
            **facts,
            "policy": policy,
            **chosen,
            "mean": _plain(mean),
            "micro": _plain(micro(p, y, model.prevalence, thresholds.to_numpy())),
            "left_out_of_mean": list(mean.attrs["left_out"]),
            "attributes": {name: _plain(row) for name, row in table.iterrows()},
            "training_prevalence": _plain(pd.Series(model.prevalence, names)),
        },
    )
    return table


def _choose(
    probabilities: np.ndarray,
    targets: np.ndarray,
    names: list[str],
    seen: list[str],
    policy: str,
    dataset: Callable[[], MultiLabelDataset],
) -> tuple[pd.Series, dict[str, Any]]:
    """Thresholds by the validation images; and as facts of the run what they rest on, and a guarantee that was asked for."""
    cells = smallest_class(targets, names)
    facts: dict[str, Any] = {"chosen_on": {name: cells[name] for name in seen}}
    said = [rests_on_few(facts["chosen_on"])]
    if parse_policy(policy)[0] == "guarantee":
        promise = certify(probabilities, targets, names, parse_policy(policy)[1], not_at_random(dataset()))
        facts["guarantee"] = promise.facts()
        said += promise.notes(names)
    for line in filter(None, said):
        say(line)
    return choose_thresholds(probabilities, targets, names, policy).threshold, facts


def _table(side: str, part: Outputs, attributes: list[str], probabilities: np.ndarray) -> pd.DataFrame:
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
