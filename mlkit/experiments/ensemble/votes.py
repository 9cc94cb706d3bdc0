"""Votes of several runs on images that are new to them: who has a say on which image, and what all say together.

An image that a run was trained on tells nothing of its worth. So a run has a say where the image is one of its validation
images (these choose calibration and thresholds) or one of its test images (these judge), and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mlkit.errors import RunError
from mlkit.evaluation import intervals
from mlkit.evaluation.calibration import Calibration, sigmoid
from mlkit.evaluation.metrics import evaluate, macro
from mlkit.evaluation.predictions import Predictions
from mlkit.runs import Run
from mlkit.training.finish import Outputs

MEAN = "mean of members"  # the last two rows of `Votes.beside`
WHOLE = "ensemble"
ENOUGH = 20  # known cells of a class of an attribute; with fewer, the thresholds are luck
_SIDES = ("validation", "test")


@dataclass(frozen=True)
class Votes:
    """What each run said of the images that it did not train on.

    Attributes:
        runs: their names.
        attributes: their names.
        images: names of all images that some run validated or tested on.
        logits: (runs, images, attributes), calibrated; 0 where nothing was said.
        targets: (images, attributes) of 1, 0 and -1 for unknown.
        validation: boolean (runs, images), which runs have a say where calibration and thresholds are chosen, see `read`.
        test: the same where all is judged; empty where no run has test images.
    """

    runs: list[str]
    attributes: list[str]
    images: pd.Index
    logits: np.ndarray
    targets: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @classmethod
    def read(cls, runs: Mapping[str, Run], calibrations: Sequence[Calibration]) -> "Votes":
        """Read them from finished runs with the same attributes.

        All runs vote on the images that are validation (test) images of all, where these are enough to choose (judge) by:
        `ENOUGH` known cells of each class, or as many as there are at all. Where they are not, as in cross-validation, each
        image has the votes of those runs whose validation (test) image it is.

        Args:
            runs: name -> run.
            calibrations: of each.

        Raises:
            RunError: if two runs were given different labels for an image.
        """
        names, parts = list(runs), {(i, s): Predictions.read(run, s) for i, run in enumerate(runs.values()) for s in _SIDES}
        images = pd.Index(list(dict.fromkeys(image for part in parts.values() for image in part.images)), dtype=object)
        attributes = parts[0, "test"].attributes
        unseen = np.any([np.isnan(part.probabilities).any(axis=0) for part in parts.values()], axis=0)  # in training, by one
        logits = np.zeros((len(runs), len(images), len(attributes)))
        targets = np.full(logits.shape[1:], -1)
        said = {side: np.zeros(logits.shape[:2], bool) for side in _SIDES}
        for (i, side), part in parts.items():
            part = replace(part, targets=np.where(unseen, -1, part.targets))
            where = images.get_indexer(pd.Index(part.images, dtype=object))
            before = np.any([said[s][:, where] for s in _SIDES], axis=0)
            changed = np.argwhere(before.any(axis=0)[:, None] & (targets[where] != part.targets))
            if len(changed):
                image, attribute = map(int, changed[0])
                raise RunError(
                    f"{names[int(before[:, image].argmax())]} and {names[i]} were given different labels for {len(changed)} "
                    f"cells, {attributes[attribute]} of {part.images[image]} for one; train one again on the other's labels"
                )
            logits[i, where] = calibrations[i].apply(part.logits)
            targets[where] = part.targets
            said[side][i, where] = True
        return cls(names, attributes, images, logits, targets, *(_voters(said[side], targets) for side in _SIDES))

    @property
    def evaluating(self) -> np.ndarray:
        """`test`, or `validation` where no run has test images."""
        return self.test if self.test.any() else self.validation

    def mean(self, cast: np.ndarray) -> Outputs:
        """Mean logits of the runs that have a say (`validation`, `test`), on the images on which some run has."""
        rows = np.flatnonzero(cast.any(axis=0))
        votes = cast[:, rows, None]
        logits = (self.logits[:, rows] * votes).sum(axis=0) / votes.sum(axis=0)
        return Outputs(self.images[rows], logits, self.targets[rows])

    def beside(self) -> pd.DataFrame:
        """Each run beside the mean of all that have a say, on the images on which it has one.

        Returns:
            Index run, `MEAN` and `WHOLE` being the last two; columns images, mAP, over: of how many of all attributes, those
            that the images of every run can judge, and difference: the mAP of the mean less that of the run on the same
            images, with its paired 95 % interval low to high; empty where no other has a say.
        """
        columns, rows = ["images", "mAP", "over", "attributes", "difference", "low", "high"], []
        every = np.asarray(self.evaluating.any(axis=0))
        sides = [[(self.targets[own] == value).any(axis=0) for value in (0, 1)] for own in self.evaluating if own.any()]
        judged = np.all(sides, axis=(0, 1))
        targets, over = np.where(judged, self.targets, -1), [int(judged.sum()), len(self.attributes)]
        whole = np.zeros(self.targets.shape)
        whole[every] = self.mean(self.evaluating).logits
        for logits, own in zip(self.logits, self.evaluating, strict=True):
            difference = [np.nan] * 3
            if (self.evaluating[:, own].sum(axis=0) > 1).any():
                pair = sigmoid(whole[own]), sigmoid(logits[own])
                table = intervals.compare(*pair, targets[own], self.attributes)
                difference = np.asarray(table[columns[4:]].xs(("AP", intervals.MEAN))).tolist()
            rows.append([own.sum(), self._mean_ap(logits[own], targets[own]), *over, *difference])
        rows.append([every.sum(), pd.Series([row[1] for row in rows]).mean(), *over, *[np.nan] * 3])
        rows.append([every.sum(), self._mean_ap(whole[every], targets[every]), *over, *[np.nan] * 3])
        # by position, for a run may be called as the last two are
        whole_numbers = dict.fromkeys(("images", "over", "attributes"), "int64")
        return pd.DataFrame(rows, pd.Index([*self.runs, MEAN, WHOLE], name="run"), columns).astype(whole_numbers)

    def __str__(self) -> str:
        """Who has a say, in words, a sentence or two a line."""
        lines = [_panel(self.evaluating, "test" if self.test.any() else "validation", "judge")]
        if not self.evaluating[:, self.evaluating.any(axis=0)].all():
            lines[0] += " This tells what the members are worth, not what the mean of all is."
        if self.test.any():
            lines.append(_panel(self.validation, "validation", "choose calibration and thresholds"))
            if both := int((self.validation.any(axis=0) & self.test.any(axis=0)).sum()):
                lines.append(
                    f"{both} images do both, by different members: F1, accuracy, Brier score and ECE flatter a little, AP "
                    "and ROC AUC of an attribute do not."
                )
        return "\n".join(lines)

    def _mean_ap(self, logits: np.ndarray, targets: np.ndarray) -> float:
        chance = np.full(len(self.attributes), np.nan)  # of no interest here
        return float(macro(evaluate(sigmoid(logits), targets, self.attributes, chance))["AP"])


def _voters(said: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Which of those (runs, images) that said something of a side have a vote, see `Votes.read`."""
    of_all, of_some = said.all(axis=0), said.any(axis=0)
    counts = [((targets[of_all] == value).sum(axis=0), (targets[of_some] == value).sum(axis=0)) for value in (0, 1)]
    enough = all((own >= np.minimum(most, ENOUGH)).all() for own, most in counts)
    return said & of_all if of_all.any() and enough else said


def _panel(cast: np.ndarray, side: str, task: str) -> str:
    votes, members = cast.sum(axis=0)[cast.any(axis=0)], len(cast)
    complete, each = int((votes == members).sum()), f"{votes.min()}"
    if complete == len(votes):
        return f"{complete} {side} images {task}, each by the mean of the {members} members."
    each += "" if votes.min() == votes.max() else f" to {votes.max()}"
    few = f"only {complete} are" if complete else "none is"
    return (
        f"{len(votes)} {side} images {task}, each by the mean of the members whose {side} image it is, {each} of {members}; "
        f"{few} of all."
    )
