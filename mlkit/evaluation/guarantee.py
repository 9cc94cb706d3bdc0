"""Decisions with a guarantee: yes above one probability, no below another, and unsure in between.

Learn then Test (Angelopoulos et al. 2021, arXiv:2110.01052) for precision: cells are taken from the surest on, some more at
each step, and each time the exact binomial test says whether of such cells at least the wanted share is right. At the first
step that cannot be shown it ends (fixed-sequence testing), so that no step costs the others confidence. It holds for images
like the validation images. These chose the epoch and the calibration too, which no test can take into account.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mlkit.evaluation.metrics import checked
from mlkit.progress import listed

CONFIDENCE = 0.9
_GROWTH = 1.1  # cells from one step to the next


@dataclass(frozen=True)
class Guarantee:
    """What is decided, and how sure that is: of what is called a yes (a no), so many are one, for each attribute.

    Attributes:
        precision: the share that is right, at least.
        confidence: the chance, at least, that this is so, of each side of each attribute.
        yes_from: attribute -> the probability from which it is a yes; those without have none.
        no_to: attribute -> the probability up to which it is a no.
        odd: attributes whose cells are not missing at random, for which nothing is claimed.
    """

    precision: float
    confidence: float = CONFIDENCE
    yes_from: Mapping[str, float] = field(default_factory=dict)
    no_to: Mapping[str, float] = field(default_factory=dict)
    odd: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Guarantee":
        """Inverse of `facts`."""
        return cls(**{**facts, "odd": tuple(facts["odd"])})

    def facts(self) -> dict[str, Any]:
        """Plain values, for files."""
        return asdict(self) | {"odd": list(self.odd)}

    def decide(self, probabilities: np.ndarray, attributes: list[str]) -> np.ndarray:
        """ "yes", "no" and "unsure", (images, attributes), of calibrated probabilities; None where there is none (NaN)."""
        yes, no = (np.array([side.get(name, np.nan) for name in attributes]) for side in (self.yes_from, self.no_to))
        decisions = np.full(probabilities.shape, "unsure", dtype=object)
        decisions[probabilities <= no] = "no"
        decisions[probabilities >= yes] = "yes"
        decisions[np.isnan(probabilities)] = None
        return decisions

    def notes(self, attributes: list[str]) -> list[str]:
        """What is promised, and of which attributes it is not, a line each."""
        lines = [f"of what is decided, at least {self.precision:.0%} is right, with {self.confidence:.0%} confidence"]
        enough = f"{fewest_cells(self.precision, self.confidence)} cells or more, nearly all of them right"
        for what, side in (("yes", self.yes_from), ("no", self.no_to)):
            if lacking := [name for name in attributes if name not in side and name not in self.odd]:
                lines.append(f"no {what} can be promised (it takes {enough}) of: {listed(lacking)}")
        if self.odd:
            lines.append(f"not missing at random, so nothing is promised of: {listed(self.odd)}")
        return lines


def certify(
    probabilities: np.ndarray,
    targets: np.ndarray,
    attributes: list[str],
    precision: float,
    odd: Collection[str] = (),
    confidence: float = CONFIDENCE,
) -> Guarantee:
    """Find, for each attribute, from which probability on a yes is right often enough, and up to which a no is.

    Args:
        probabilities: (images, attributes), 0..1.
        targets: (images, attributes) of 1, 0 and -1 for unknown, which has no say.
        attributes: their names.
        precision: the share of the decided cells that must be right, between 0 and 1.
        odd: attributes for which nothing can be claimed, since whether a cell is known goes with something.
        confidence: see `Guarantee`.

    Raises:
        ValueError: if shapes or values are not as described.
    """
    probabilities, targets = checked(probabilities, targets, attributes)
    yes, no = {}, {}
    for column, name in enumerate(attributes):
        known = targets[:, column] >= 0
        p, y = probabilities[known, column], targets[known, column]
        if name not in odd:
            likely = p >= 0.5  # a yes is nowhere else, so that nothing is both
            yes[name] = _surest(p[likely], y[likely] == 1, precision, confidence)
            no[name] = -_surest(-p[~likely], y[~likely] == 0, precision, confidence)
    yes, no = ({name: float(value) for name, value in side.items() if np.isfinite(value)} for side in (yes, no))
    return Guarantee(precision, confidence, yes, no, tuple(name for name in attributes if name in odd))


def decided(probabilities: np.ndarray, targets: np.ndarray, attributes: list[str], guarantee: Guarantee) -> pd.DataFrame:
    """What a guarantee comes to on images that did not choose it.

    Returns:
        One row per attribute: yes_from, no_to; decided, the share of all images; and of those with a known cell said_yes and
        said_no, how many, yes_right and no_right, the share that is right (NaN for none).
    """
    probabilities, targets = checked(probabilities, targets, attributes)
    decisions = guarantee.decide(probabilities, attributes)
    sides = [guarantee.yes_from, guarantee.no_to]
    rows: dict[str, Any] = {
        name: [side.get(attribute, np.nan) for attribute in attributes]
        for name, side in zip(("yes_from", "no_to"), sides, strict=True)
    }
    rows["decided"] = np.isin(decisions, ["yes", "no"]).mean(axis=0)
    for code, said in ((1, "yes"), (0, "no")):
        known = (decisions == said) & (targets >= 0)
        rows[f"said_{said}"] = known.sum(axis=0)
        right = (known & (targets == code)).sum(axis=0)
        rows[f"{said}_right"] = np.divide(
            right, known.sum(axis=0), np.full(len(attributes), np.nan), where=known.any(axis=0)
        )
    return pd.DataFrame(rows, pd.Index(attributes, name="attribute"))


def fewest_cells(precision: float, confidence: float = CONFIDENCE) -> int:
    """Decided cells, all right, with which a precision can be shown: the lowest n of precision^n <= 1 - confidence."""
    return int(np.ceil(np.log(1 - confidence) / np.log(precision)))


def _surest(scores: np.ndarray, right: np.ndarray, precision: float, confidence: float) -> float:
    """The lowest score from which on the share that is right is high enough; infinity if that cannot be shown of any."""
    from scipy.stats import binom

    fewest = fewest_cells(precision, confidence)
    if len(scores) < fewest:
        return np.inf
    order = np.argsort(-scores, kind="stable")
    scores, wrong = scores[order], np.cumsum(~right[order])
    steps = fewest * _GROWTH ** np.arange(np.log(len(scores) / fewest) / np.log(_GROWTH))
    steps = np.append(steps.astype(int), len(scores))
    cells = np.searchsorted(-scores, -scores[steps - 1], side="right")  # equal scores are decided alike
    shown = binom.cdf(wrong[cells - 1], cells, 1 - precision) <= 1 - confidence
    passed = np.argmin(shown) if not shown.all() else len(shown)
    return float(scores[cells[passed - 1] - 1]) if passed else np.inf
