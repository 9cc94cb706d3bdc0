"""A finished run read back: its predictions as arrays, and the tables that say what they are worth.

Needs the run folder alone, and for the gallery of mistakes the images that the run was made from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from mlkit.data.images import load_image
from mlkit.data.reading import Reading
from mlkit.errors import ImageError, RunError
from mlkit.evaluation import intervals, metrics
from mlkit.evaluation.calibration import sigmoid
from mlkit.evaluation.guarantee import Guarantee, decided
from mlkit.evaluation.thresholds import rests_on_few
from mlkit.files import shown
from mlkit.progress import listed
from mlkit.runs import Run

# Figure -> what it takes no model to get.
WITHOUT_A_MODEL = {
    "AP": "chance",
    "ROC_AUC": "chance_ROC_AUC",
    "F1": "always_yes_F1",
    "accuracy": "majority_accuracy",
    "Brier": "prevalence_Brier",
}


@dataclass(frozen=True)
class Predictions:
    """What a run predicted for the images that judge it.

    Attributes:
        run: the run.
        split: "test", or "validation" where the run has no test images. The validation images chose the best epoch, the
            calibration and the thresholds, so figures on them flatter.
        images: as in the label file.
        attributes: their names.
        logits: (images, attributes), as the network gives them.
        probabilities: (images, attributes), calibrated.
        targets: int8 (images, attributes) of 1, 0 and -1 for unknown.
        thresholds: (attributes,), chosen on the validation images.
        prevalence: (attributes,), share of positives among the known training cells; 0.5 where there were none.
        votes: of an ensemble, which of its members had a say on which images, in words.
        guarantee: what is decided, where the run has one.
        chosen_on: what the thresholds rest on, see `thresholds.smallest_class`; nothing for a run of an older mlkit.
    """

    run: Run
    split: str
    images: list[str]
    attributes: list[str]
    logits: np.ndarray
    probabilities: np.ndarray
    targets: np.ndarray
    thresholds: np.ndarray
    prevalence: np.ndarray
    votes: str = ""
    chosen_on: dict[str, int] = field(default_factory=dict)
    guarantee: Guarantee | None = None

    @classmethod
    def read(cls, run: Run, split: str = "") -> "Predictions":
        """Read the predictions of a finished run, for the images that judge it or (`split`) for "validation", say.

        Raises:
            RunError: if it is not finished, or was made before runs had all that is needed here.
        """
        facts, table = run.read_json("metrics.json"), run.read_table("predictions.csv")
        if lacking := [key for key in ("judged_on", "attributes", "training_prevalence") if key not in facts]:
            raise RunError(
                f"{shown(run / 'metrics.json')} lacks {', '.join(lacking)}: the run is of an older mlkit; train it again"
            )
        attributes, split = list(facts["attributes"]), split or str(facts["judged_on"])
        kept = (table.split == split).to_numpy(bool)
        # numbers in place of names: a pivot of the millions of cells of a large run takes several times as long
        images, columns = _numbered(table.image, kept), _numbered(table.attribute, kept)
        places = images[0] * len(attributes) + pd.Index(attributes).get_indexer(columns[1])[columns[0]]
        if set(columns[1]) - set(attributes) or (np.bincount(places, minlength=len(images[1]) * len(attributes)) != 1).any():
            file = shown(run / "predictions.csv")
            raise RunError(f"{file} is damaged (it has not one row for each image and attribute); train the run again")
        logits, probabilities, targets = (
            _placed(table[name].to_numpy(np.float64)[kept], places, len(attributes))
            for name in ("logit", "probability", "target")
        )
        return cls(
            run=run,
            split=split,
            images=images[1],
            attributes=attributes,
            logits=logits,
            probabilities=probabilities,
            # what was never seen in training has no probability, and cannot be judged
            targets=np.where(np.isnan(targets) | np.isnan(probabilities), -1, targets).astype(np.int8),
            thresholds=np.array([row["threshold"] for row in facts["attributes"].values()], np.float64),
            prevalence=np.array([0.5 if p is None else p for p in facts["training_prevalence"].values()], np.float64),
            votes=facts.get("judging", ""),
            chosen_on=facts.get("chosen_on", {}),
            guarantee=Guarantee.of(facts["guarantee"]) if "guarantee" in facts else None,
        )

    def __str__(self) -> str:
        known = int((self.targets >= 0).sum())
        text = f"{self.run}: {len(self.images)} {self.split} images, {known} of {self.targets.size} cells known"
        text += f"\n{self.votes}" if self.votes else ""
        text += f"\n{few}" if (few := rests_on_few(self.chosen_on)) else ""
        if self.split != "test":
            text += (
                "\nThe run has no test images: these chose the best epoch, the calibration and the thresholds, and all "
                "figures below flatter. Train with test_fraction above 0 for figures to report."
            )
        return text

    @property
    def uncalibrated(self) -> np.ndarray:
        """Probabilities (images, attributes) as the network gives them, before calibration."""
        return sigmoid(self.logits)

    def only(self, images: list[str]) -> "Predictions":
        """The same for some of the images, in the order given."""
        rows = pd.Index(self.images).get_indexer(pd.Index(images))
        logits, probabilities, targets = (part[rows] for part in (self.logits, self.probabilities, self.targets))
        return replace(self, images=images, logits=logits, probabilities=probabilities, targets=targets)

    def evaluate(self) -> pd.DataFrame:
        """All figures per attribute, see `metrics.evaluate`."""
        return metrics.evaluate(self.probabilities, self.targets, self.attributes, self.prevalence, self.thresholds)

    def confusion(self) -> pd.DataFrame:
        """Known cells by truth and decision per attribute, see `metrics.confusion`."""
        return metrics.confusion(self.probabilities, self.targets, self.attributes, self.thresholds)

    def decided(self) -> pd.DataFrame:
        """What the guarantee comes to on these images, see `guarantee.decided`; no row where the run has none."""
        if self.guarantee is None:
            return pd.DataFrame()
        return decided(self.probabilities, self.targets, self.attributes, self.guarantee)

    def bounds(self, level: float = 0.95) -> pd.DataFrame:
        """Figures with their intervals, see `intervals.jackknife`."""
        return intervals.jackknife(self.probabilities, self.targets, self.attributes, self.thresholds, level)

    def above_chance(self, permutations: int = 1000) -> pd.Series:
        """How often a random ranking is as good, see `intervals.above_chance`."""
        return intervals.above_chance(self.probabilities, self.targets, self.attributes, permutations)


def summary(predicted: Predictions, bounds: pd.DataFrame, head: pd.DataFrame | None = None) -> pd.DataFrame:
    """All figures per attribute, with intervals and beside them what no model is needed for; the macro mean last.

    Args:
        predicted: the predictions.
        bounds: their `intervals.jackknife`.
        head: `probe.linear_head` of the run, whose AP stands beside the run's.

    Returns:
        One row per attribute, and `intervals.MEAN`: positives, negatives, unknown, threshold, `metrics.FIGURES`; NAME_low
        and NAME_high of each figure in `bounds`; and the baselines named in `WITHOUT_A_MODEL`.
    """
    table = predicted.evaluate()
    table.insert(2, "unknown", (predicted.targets < 0).sum(axis=0))
    both = (table.positives > 0) & (table.negatives > 0)
    table["chance_ROC_AUC"] = np.where(both, 0.5, np.nan)
    table["always_yes_F1"] = (2 * table.prevalence / (1 + table.prevalence)).where(both)
    if head is not None:
        table["linear_head_AP"] = head.AP.reindex(table.index)
    mean = table[both].drop(columns="threshold").mean()
    for count in ("positives", "negatives", "unknown"):
        mean[count] = table[count].sum()
    table.loc[intervals.MEAN] = mean
    for figure in intervals.FIGURES:
        table[f"{figure}_low"], table[f"{figure}_high"] = bounds.loc[figure].low, bounds.loc[figure].high
    pairs = [[name, f"{name}_low", f"{name}_high", WITHOUT_A_MODEL.get(name)] for name in metrics.FIGURES]
    ordered = ["positives", "negatives", "unknown", "threshold", *(name for pair in pairs for name in pair if name in table)]
    ordered += ["linear_head_AP"] if head is not None else []
    whole = dict.fromkeys(("positives", "negatives", "unknown"), "int64")
    return table[list(dict.fromkeys(ordered))].astype(whole)


def mean_ap(table: pd.DataFrame) -> str:
    """The mAP of a `summary` in words: its interval, and over how many of the attributes it is."""
    mean, each = table.loc[intervals.MEAN], table.AP.drop(intervals.MEAN)
    low, high = mean.AP_low, mean.AP_high
    interval = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else f" (fewer than {metrics.ENOUGH} images: no interval)"
    return f"mAP {mean.AP:.3f}{interval} over {each.notna().sum()} of {len(each)} attributes"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A `summary` for the eye: each figure as "value [low, high]", without these where it has none, baselines beside."""
    text = table[["positives", "negatives"]].astype(str)
    for figure in intervals.FIGURES:
        rows = table[[figure, f"{figure}_low", f"{figure}_high"]].to_numpy()
        digits = 3 if figure == "Brier" else 2
        text[figure] = [_interval(value, low, high, digits) for value, low, high in rows]
        text[WITHOUT_A_MODEL[figure]] = [_number(value, digits) for value in table[WITHOUT_A_MODEL[figure]]]
        if figure == "AP" and "linear_head_AP" in table:
            text["linear_head_AP"] = [_number(value, digits) for value in table["linear_head_AP"]]
    for figure in ("accuracy", "majority_accuracy"):
        text[figure] = [_number(value) for value in table[figure]]
    return text.drop(columns="chance_ROC_AUC")  # always 0.5


def mistakes(predicted: Predictions) -> pd.DataFrame:
    """Known cells whose decision is wrong, the most confident first.

    Returns:
        Columns image, attribute, target, probability, threshold, confidence: the probability that the model gave to the
        wrong answer.
    """
    decisions = predicted.probabilities >= predicted.thresholds
    row, column = np.nonzero((predicted.targets >= 0) & (decisions != (predicted.targets == 1)))
    target, probability = predicted.targets[row, column], predicted.probabilities[row, column]
    table = pd.DataFrame(
        {
            "image": np.array(predicted.images, dtype=object)[row],
            "attribute": np.array(predicted.attributes, dtype=object)[column],
            "target": target,
            "probability": probability,
            "threshold": predicted.thresholds[column],
            "confidence": np.abs(probability - target),
        }
    )
    return table.sort_values("confidence", ascending=False, kind="stable", ignore_index=True)


def read_images(run: Run, images: list[str]) -> list[np.ndarray | None]:
    """Pixels of images of a run; None for a file that cannot be read any more."""
    folder, reading = run.images, Reading.of(run.config()["parameters"])
    found: list[np.ndarray | None] = []
    for image in images:
        try:
            found.append(load_image(folder / image, reading=reading))
        except ImageError:
            found.append(None)
    return found


def unknown_cells(predicted: Predictions) -> pd.DataFrame:
    """Does the model see the unknown cells as it sees the known ones? A check of whether labels are missing at random.

    Returns:
        One row per attribute: known and unknown cells, mean predicted probability of each, their difference (unknown -
        known) and its standard error. A difference of more than two standard errors speaks against missing at random.
    """
    rows = []
    for y, p in zip(predicted.targets.T, predicted.probabilities.T, strict=True):
        known, unknown = p[y >= 0], p[y < 0]
        means = [part.mean() if len(part) else np.nan for part in (known, unknown)]
        variances = [part.var(ddof=1) / len(part) if len(part) > 1 else np.nan for part in (known, unknown)]
        rows.append([len(known), len(unknown), *means, means[1] - means[0], np.sqrt(sum(variances))])
    columns = ["known", "unknown", "predicted_known", "predicted_unknown", "difference", "standard_error"]
    return pd.DataFrame(rows, pd.Index(predicted.attributes, name="attribute"), columns)


def align(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Two runs on the images that judge both, matched by name, with the attributes in the order of the first.

    An image that judges both was trained on by neither.

    Raises:
        RunError: if the runs have other attributes, or no image in common.
    """
    if differing := sorted(set(first.attributes) ^ set(second.attributes)):
        raise RunError(
            f"{first.run} and {second.run} differ in their attributes ({listed(differing)}); "
            "compare runs on the same attributes"
        )
    there = set(second.images)
    images = [image for image in first.images if image in there]
    if not images:
        raise RunError(
            f"{first.run} ({first.split}) and {second.run} ({second.split}) share none of the images that judge them; train "
            "one again with the other's data, split_seed, validation_fraction, test_fraction, folds and fold"
        )
    two = second.only(images)
    order = [second.attributes.index(name) for name in first.attributes]
    two = replace(
        two,
        attributes=first.attributes,
        logits=two.logits[:, order],
        probabilities=two.probabilities[:, order],
        targets=two.targets[:, order],
        thresholds=two.thresholds[order],
        prevalence=two.prevalence[order],
    )
    return first.only(images), two


def remarks(one: Predictions, two: Predictions) -> list[str]:
    """Sentences on what makes a comparison of two runs, as `align` gives them, less than plain."""
    sentences = []
    if relabelled := int((one.targets != two.targets).sum()):
        sentences.append(f"The labels differ in {relabelled} cells; those of {one.run} judge both.")
    folders = [predicted.run.images for predicted in (one, two)]
    if folders[0] != folders[1]:
        sentences.append(f"The images come from {shown(folders[0])} and {shown(folders[1])}, matched by name.")
    for predicted in (one, two):
        if predicted.split != "test":
            sentences.append(f"{predicted.run} has no test images: these chose its epoch and thresholds, which flatters it.")
    return sentences


def in_common(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions, str]:
    """Two runs on the images that judge both, and a sentence on what was matched.

    The labels of the first judge both, on the attributes that both can be judged on.

    Raises:
        RunError: if the runs have other attributes, or no image in common.
    """
    one, two = align(first, second)
    targets = shared_targets([one, two])
    note = (
        f"{len(one.images)} images judge both ({len(first.images)} judge {first.run}, {len(second.images)} {second.run}), "
        f"over {both_classes(targets)} of {len(one.attributes)} attributes."
    )
    return replace(one, targets=targets), replace(two, targets=targets), " ".join([note, *remarks(one, two)])


def shared_targets(runs: Sequence[Predictions]) -> np.ndarray:
    """Labels of the first run, unknown where one of the runs has no answer: an attribute that it never saw in training."""
    lacking = np.any([np.isnan(one.probabilities) for one in runs], axis=0)
    return np.where(lacking, np.int8(-1), runs[0].targets)


def both_classes(targets: np.ndarray) -> int:
    """How many attributes can be judged by these labels: those with a known yes and a known no."""
    return int(((targets == 1).any(axis=0) & (targets == 0).any(axis=0)).sum())


def compare(first: Predictions, second: Predictions, level: float = 0.95) -> pd.DataFrame:
    """Paired differences `first - second` with intervals, of what `in_common` gave; see `intervals.compare`."""
    return intervals.compare(
        first.probabilities,
        second.probabilities,
        first.targets,
        first.attributes,
        first.thresholds,
        second.thresholds,
        level,
    )


def _numbered(names: pd.Series, kept: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Of the names that are kept, their numbers, and those that there are, in their order."""
    numbers, distinct = pd.factorize(names, use_na_sentinel=False)
    numbers, first = pd.factorize(numbers[kept])
    return numbers, list(distinct[first])


def _placed(values: np.ndarray, places: np.ndarray, width: int) -> np.ndarray:
    """(len(values) / width, width) with each value at its place, counted along the rows."""
    result = np.empty(len(values))
    result[places] = values
    return result.reshape(-1, width)


def _number(value: float, digits: int = 2) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _interval(value: float, low: float, high: float, digits: int) -> str:
    if np.isnan(value) or np.isnan(low):
        return _number(value, digits)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
