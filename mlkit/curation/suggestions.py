"""Cells that can be filled without asking: where a run's model is sure, and where the image's other labels make it so.

Only unknown cells of training images are suggested, in a file of their own (`data.suggestions`): images that judge are not
filled by what they judge.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mlkit.curation.review import Review
from mlkit.data.duplicates import duplicate_groups
from mlkit.data.labels import to_codes
from mlkit.data.missingness import not_at_random
from mlkit.data.split import fold_images
from mlkit.data.suggestions import write_suggestions
from mlkit.errors import ParameterError, nearest
from mlkit.evaluation.calibration import sigmoid
from mlkit.evaluation.guarantee import Guarantee, certify
from mlkit.files import shown

MAKERS = ("network", "stack")  # the first unless another is asked for: see notebooks/README.md
FOLDS = 5
STRENGTH = 0.1  # inverse of the L2 penalty: the folds' stacks must agree, or their surest cells are not the same ones
_FARTHEST = 10.0  # log odds; beyond, a probability is 0 or 1 for all that validation images can tell


@dataclass(frozen=True)
class Suggestions:
    """What is suggested, and what is promised of it.

    Attributes:
        cells: one row a cell, see `data.suggestions.COLUMNS`.
        attributes: index attribute; columns open (unknown cells of training images), yes, no (suggested of them), known
            (validation cells that the guarantee was tried on), yes_from, no_to (its thresholds), refused (what is not
            suggested, and why).
        promise: the guarantee.
        path: of the file.
    """

    cells: pd.DataFrame
    attributes: pd.DataFrame
    promise: Guarantee
    path: Path

    def __str__(self) -> str:
        """What it comes to, for people."""
        said = (
            f"{len(self.cells)} of {self.attributes.open.sum()} open cells of training images can be filled without asking"
        )
        return "\n".join([f"{said}: {shown(self.path)}", *self.promise.notes(list(self.attributes.index))])

    def write(self) -> Path:
        """Write the cells, in place of those suggested before; returns where."""
        write_suggestions(self.path, self.cells)
        return self.path


def suggest(review: Review, level: float = 0.95, by: str = MAKERS[0]) -> Suggestions:
    """Find the cells of which a guarantee says that they can be filled.

    It is certified on the known cells of the validation images. The stack learns from these too, since of training images
    the network knows the answers; so each validation image is judged by a stack of the other folds, and that of all of them
    fills the open cells. The guarantee is for cells that are unknown at random: whether a yes is left open more often than a
    no, only complete labels tell; what goes with anything else is found by `not_at_random`, and nothing is suggested there.

    Args:
        review: of a finished run.
        level: the share of what is suggested that must be right, for a yes and a no of each attribute.
        by: "network", its calibrated probability; "stack", see `stack`.

    Raises:
        ParameterError: if the level is not between 0 and 1, or there is no such maker.
    """
    if by not in MAKERS:
        raise ParameterError(f"by is {by!r}{nearest(by, MAKERS)}; suggestions are made by: {', '.join(MAKERS)}")
    if not 0 < level < 1:
        raise ParameterError(f"level is {level}; it must be above 0 and below 1")
    run, dataset, labels = review.run, review.dataset, review.labels
    names, codes, images = dataset.attributes, to_codes(labels), dataset.labels.index
    predictions = run.read_table("predictions.csv")
    validation = images.isin(predictions.image[predictions.split == "validation"])
    training = images.isin(run.training_images()) & ~validation
    probabilities = review.predictor.calibrated(review.features.logits(dataset).mean(axis=0))
    if by == "stack":
        fold = np.full(len(images), -1)
        groups = duplicate_groups(dataset)[validation]
        folds = max(2, min(FOLDS, groups.nunique()))
        fold[validation] = fold_images(labels[validation], folds, groups=groups).to_numpy()
        probabilities = stack(probabilities, codes, fold)
    known = np.where(np.isnan(probabilities), -1, codes)[validation]
    promise = certify(probabilities[validation], known, names, level, not_at_random(dataset))
    decisions = promise.decide(probabilities, names)
    asked = review.unknown() & training[:, None]
    rows, columns = np.nonzero(asked & np.isin(decisions, ["yes", "no"]))
    cells = pd.DataFrame(
        {
            "image": images[rows],
            "attribute": np.array(names, dtype=object)[columns],
            "suggested": decisions[rows, columns],
            "probability": probabilities[rows, columns].round(6),
            "by": by,
            "run": run.title,
            "run_id": run.id,
            "level": level,
            "digest": dataset.digests.to_numpy()[rows],
        }
    )
    table = pd.DataFrame({"open": asked.sum(axis=0)}, pd.Index(names, name="attribute"))
    for word in ("yes", "no"):
        table[word] = (asked & (decisions == word)).sum(axis=0)
    table["known"] = (known >= 0).sum(axis=0)
    table["yes_from"], table["no_to"] = (pd.Series(side, dtype=float) for side in (promise.yes_from, promise.no_to))
    table["refused"] = [_refused(name, promise, review.predictor.never_seen) for name in names]
    return Suggestions(cells, table, promise, review.file.path.with_name("suggestions.csv"))


def stack(probabilities: np.ndarray, codes: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Probabilities (images, attributes) of a logistic regression per attribute on what the network says and what is known.

    Of the cell it sees the network's log odds; of the image's other cells the label (1 yes, -1 no) and whether it is known,
    and in place of an unknown one what the network expects of it, in between. Of a known cell the network is not asked: it
    would only repeat what it was trained on, but for the validation images.

    Args:
        probabilities: (images, attributes), the network's, calibrated; NaN for what it never learned, which stays so.
        codes: (images, attributes) of 1, 0 and -1 for unknown; a cell's own has no say in its probability.
        fold: (images,), of those to learn from, each of which is judged by what the other folds taught; -1: another image,
            judged by what all of them taught.

    Returns:
        Where the cells to learn from lack a class, the network's.
    """
    from sklearn.linear_model import LogisticRegression

    with np.errstate(divide="ignore"):
        odds = np.nan_to_num(np.log(probabilities) - np.log1p(-probabilities)).clip(-_FARTHEST, _FARTHEST)
    known = codes >= 0
    each = np.stack([np.where(known, codes, sigmoid(odds)) * 2 - 1, known], axis=2)
    result = probabilities.copy()
    for i in range(codes.shape[1]):
        inputs = np.column_stack([odds[:, i], np.delete(each, i, axis=1).reshape(len(codes), -1)])
        for number in np.unique(fold):
            asked = fold == number
            learned = (fold >= 0) & (fold != number) & known[:, i]
            if len(np.unique(codes[learned, i])) == 2:
                model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(inputs[learned], codes[learned, i])
                result[asked, i] = sigmoid(model.decision_function(inputs[asked]))
    return np.where(np.isnan(probabilities), np.nan, result)


def _refused(name: str, promise: Guarantee, never_seen: list[str]) -> str:
    if name in never_seen:
        return "all: never learned"
    if name in promise.odd:
        return "all: not missing at random"
    lacking = [word for word, side in (("yes", promise.yes_from), ("no", promise.no_to)) if name not in side]
    return f"{' and '.join(lacking)}: too few are surely right" if lacking else ""
