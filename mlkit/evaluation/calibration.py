"""Calibration: logits turned into ones whose sigmoid is the frequency of the attribute."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RIDGE = 1.0
_STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """`calibrated = slope * logits + bias` per attribute, with slopes above zero: rankings, AP and ROC AUC stay as they are.

    `1 / slope` is the temperature of temperature scaling (Guo et al. 2017).
    """

    attributes: tuple[str, ...]
    slope: np.ndarray
    bias: np.ndarray

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated logits of (..., attributes) logits."""
        calibrated: np.ndarray = np.asarray(logits, np.float64) * self.slope + self.bias
        return calibrated

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of (..., attributes) logits."""
        return sigmoid(self.apply(logits))

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Plain values by attribute, for JSON and model metadata."""
        rows = zip(self.attributes, self.slope, self.bias, strict=True)
        return {name: {"slope": float(slope), "bias": float(bias)} for name, slope, bias in rows}

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, float]]) -> "Calibration":
        """The calibration that `to_dict` was called on."""
        slope, bias = (np.array([row[name] for row in values.values()], np.float64) for name in ("slope", "bias"))
        return cls(tuple(values), slope, bias)


def from_pos_weight(attributes: list[str], pos_weight: np.ndarray | float = 1.0) -> Calibration:
    """The exact correction for a loss with pos_weight: subtract its logarithm.

    A pos_weight of w makes a positive cell count w times, so the minimiser of the loss has w times the true odds (Elkan
    2001). Without pos_weight this is the identity.
    """
    weight = np.broadcast_to(np.asarray(pos_weight, np.float64), len(attributes))
    if not (weight > 0).all():
        raise ValueError(f"pos_weight must be above 0; it is {weight.min()}")
    return Calibration(tuple(attributes), np.ones(len(attributes)), -np.log(weight))


def fit(
    logits: np.ndarray,
    targets: np.ndarray,
    attributes: list[str],
    pos_weight: np.ndarray | float = 1.0,
    ridge: float = RIDGE,
) -> Calibration:
    """Fit slope and bias of each attribute on the known cells of validation data (Platt 1999).

    What is minimised is the sum of the log losses plus `ridge / 2 * (log(slope)^2 + bias^2)`, after the correction for
    pos_weight. The penalty pulls towards that correction alone; it outweighs a handful of positives, and means nothing to
    hundreds. The slope's logarithm, as the slope must stay above zero. An attribute that lacks a class gets the correction.

    Args:
        logits: (images, attributes), as the network gives them.
        targets: (images, attributes) of 1, 0 and -1 for unknown.
        attributes: their names.
        pos_weight: of the loss in training, one for all or one each; 1 for none.
        ridge: weight of the penalty, above 0.

    Raises:
        ValueError: if the shapes differ, or a logit of a known cell is not finite.
    """
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets)
    if logits.shape != targets.shape or targets.shape[1:] != (len(attributes),):
        raise ValueError(f"logits {logits.shape} and targets {targets.shape} must both be (images, {len(attributes)})")
    if not np.isfinite(logits[targets >= 0]).all():
        raise ValueError("logits of known cells must be finite")
    prior = from_pos_weight(attributes, pos_weight)
    slope, bias = prior.slope.copy(), prior.bias.copy()
    for i in range(len(attributes)):
        known = targets[:, i] >= 0
        y = targets[known, i]
        if 0 < y.sum() < len(y):
            slope[i], shift = _fit(logits[known, i] + prior.bias[i], y, ridge)
            bias[i] = slope[i] * prior.bias[i] + shift
    return Calibration(tuple(attributes), slope, bias)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-logits))`, exact in both tails."""
    return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))


def _fit(x: np.ndarray, y: np.ndarray, ridge: float) -> tuple[float, float]:
    """Slope and bias of one attribute by Newton's method with Fisher's information and halved steps."""

    def loss(theta: np.ndarray) -> float:
        z = np.exp(theta[0]) * x + theta[1]
        return float((np.logaddexp(0, z) - y * z).sum() + ridge / 2 * theta @ theta)

    theta = np.zeros(2)  # log(slope), bias
    current = loss(theta)
    for _ in range(_STEPS):
        scaled = np.exp(theta[0]) * x
        p = sigmoid(scaled + theta[1])
        jacobian = np.stack([scaled, np.ones_like(x)])
        gradient = jacobian @ (p - y) + ridge * theta
        step = np.linalg.solve((jacobian * (p * (1 - p))) @ jacobian.T + ridge * np.eye(2), gradient)
        size = 1.0
        while (reached := loss(theta - size * step)) > current and size > 1e-10:
            size /= 2
        if not reached < current:
            break
        theta, current = theta - size * step, reached
    return float(np.exp(theta[0])), float(theta[1])
