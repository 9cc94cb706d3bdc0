"""What answers were worth: trainings with and without them, on the same split and the same seeds."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mlkit.curation.review import Review
from mlkit.data.answers import UNDO, here, merge, votes
from mlkit.data.dataset import MultiLabelDataset
from mlkit.errors import ParameterError
from mlkit.evaluation.intervals import AP, MEAN, Jackknife, variance
from mlkit.evaluation.metrics import ENOUGH
from mlkit.evaluation.predictions import Predictions, shared_targets
from mlkit.progress import bar
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.loop import train
from mlkit.training.recipe import Recipe

_BREAK = 120.0  # seconds; an answer that took longer was interrupted, and counts as so long


@dataclass(frozen=True)
class Gain:
    """What answers did to the average precision on the test images.

    Attributes:
        attributes: index attribute, `intervals.MEAN` last; columns answers (cells that they filled or changed), without,
            with (AP, the mean over the seeds), difference, low, high.
        curve: the mAP by how many answers were used, in the order in which they came; columns answers, difference, low,
            high (to no answers), more, more_low, more_high (to the row before).
        answers: that were used.
        hours: that people took for them, breaks left out; NaN where that is not known of all, as of those in a sheet.
        seeds: trainings of each kind.
        judged_on: which images judge.
    """

    attributes: pd.DataFrame
    curve: pd.DataFrame
    answers: int
    hours: float
    seeds: int
    judged_on: str

    def __str__(self) -> str:
        """What it comes to, for people."""
        mean, last = self.attributes.T[MEAN], self.curve.iloc[-1]
        said = f"{self.answers} answers moved the mAP on the {self.judged_on} images by {_shown(mean)}, {self.seeds} seeds"
        if mean.low > 0 or mean.high < 0:
            rates = [f"{mean.difference / self.answers * 100:+.4f} for 100 answers"]
            if self.hours > 0:
                rates.append(f"{mean.difference / self.hours:+.4f} for an hour of answers ({self.hours:.2f} h were taken)")
            lines = [f"{said}: {', '.join(rates)}."]
        else:
            lines = [f"{said}: nothing is shown."]
        each = self.attributes.drop(MEAN)
        for word, clear in (("gained", each.low > 0), ("lost", each.high < 0)):
            lines.append(f"attributes that {word}: {', '.join(each.index[clear]) or 'none is shown'}")
        if len(self.curve) > 2:
            step, more = int(last.answers - self.curve.answers.iloc[-2]), last[["more", "more_low", "more_high"]]
            more = more.set_axis(["difference", "low", "high"])
            verdict = "answers still pay" if more.low > 0 else "that more of them would pay is not shown"
            lines.append(f"The last {step} of them moved it by {_shown(more)}: {verdict}.")
        return "\n".join(lines)


def gain(review: Review, seeds: int = 3, points: int = 3) -> Gain:
    """Train without answers, with parts of them and with all, and compare on the images that judge the run.

    Trainings that are finished are kept, below the folder of the answers, without their models.

    Args:
        review: whose run's recipe is trained, and whose answers.
        seeds: trainings of each kind, from the run's own seed on.
        points: of the curve: so many equal parts of the answers.

    Raises:
        ParameterError: if there are no answers to cells of this data, or the numbers make no sense.
    """
    if seeds < 2 or points < 1:
        raise ParameterError(
            f"seeds is {seeds}, points {points}; take at least 2 seeds, whose spread is looked at, and 1 point"
        )
    answers = review.answers()
    answers = answers[here(answers, review.dataset.labels)]
    cells = votes(answers)
    table = merge(review.dataset.labels, answers, review.dataset.digests)
    moved = (table.fillna(-1) != review.dataset.labels.fillna(-1)).sum()
    if not moved.sum():
        raise ParameterError(f"{review.file.path.name} has no answer yet that fills or changes a cell of {review.run}")
    cuts = sorted({round(len(answers) * part / points) for part in range(points + 1)})
    recipe = Recipe.of(review.run.config()["parameters"])
    configs = [replace(recipe.config, seed=recipe.config.seed + number) for number in range(seeds)]
    predicted: dict[int, list[Predictions]] = {cut: [] for cut in cuts}
    with bar(total=len(cuts) * seeds, desc="with and without answers", unit="training") as progress:
        for cut in predicted:
            dataset = _with(review.dataset, answers.iloc[:cut])
            for config in configs:
                predicted[cut].append(_trained(review, recipe, config, dataset, cut))
                progress.update()
    # all by the labels with all answers, on the attributes that all have learned: a mean over others would be another figure
    targets = shared_targets([*predicted[cuts[-1]], *(one for cut in cuts for one in predicted[cut])])
    none, *more = ([replace(one, targets=targets) for one in predicted[cut]] for cut in cuts)
    steps = [difference(some, none) for some in more]
    further = [difference(some, before) for some, before in zip(more, [none, *more], strict=False)]
    curve = pd.DataFrame(
        [{"answers": 0, "difference": 0.0}]
        + [
            {"answers": _count(votes(answers.iloc[:cut])), **step.loc[MEAN, ["difference", "low", "high"]]}
            | {f"more{end}": value for end, value in zip(("", "_low", "_high"), then.loc[MEAN].iloc[-3:], strict=True)}
            for cut, step, then in zip(cuts[1:], steps, further, strict=True)
        ]
    )
    each = steps[-1]
    each.insert(0, "answers", [*moved.reindex(each.index.drop(MEAN)), moved.sum()])
    hours = answers.seconds[answers.answer != UNDO].clip(upper=_BREAK).sum(skipna=False) / 3600
    return Gain(each, curve, _count(cells), float(hours), seeds, none[0].split)


def difference(first: Sequence[Predictions], second: Sequence[Predictions], level: float = 0.95) -> pd.DataFrame:
    """Mean difference `first - second` in AP over pairs of runs, on the same images with the same labels.

    The interval is for other images and other seeds: the variance that leaving out each image tells (`Jackknife`), and that
    between the pairs over their number, by Student's t with Satterthwaite's degrees of freedom.

    Returns:
        Index attribute, `intervals.MEAN` last; columns without (AP of the second), with (of the first), difference, low,
        high; the last two NaN below `metrics.ENOUGH` known cells of a class.
    """
    ones, twos = ([Jackknife(p.probabilities, p.targets, p.attributes) for p in side] for side in (first, second))
    values = np.stack([[one.value[AP] for one in side] for side in (ones, twos)])  # (2, pairs, attributes + 1)
    without = [np.mean([one.without[:, AP] for one in side], axis=0) for side in (ones, twos)]
    differences = values[0] - values[1]
    mean = differences.mean(axis=0)
    images = variance(without[0] - without[1] - mean)
    pairs = differences.var(axis=0, ddof=1) / len(differences)
    cells = ones[0].cells
    spread = images + pairs
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = spread**2 / (images**2 / np.maximum(cells - 1, 1) + pairs**2 / (len(differences) - 1))
    reach = stats.t.isf((1 - level) / 2, np.nan_to_num(freedom, nan=1.0)) * np.sqrt(spread)
    reach = np.where(cells < ENOUGH, np.nan, reach)
    index = pd.Index([*first[0].attributes, MEAN], name="attribute")
    columns = {"without": values[1].mean(axis=0), "with": values[0].mean(axis=0), "difference": mean}
    return pd.DataFrame(columns | {"low": mean - reach, "high": mean + reach}, index)


def _trained(review: Review, recipe: Recipe, config: TrainConfig, dataset: MultiLabelDataset, cut: int) -> Predictions:
    """A training with the first `cut` lines of the answers, or what is left of a finished one."""
    folder = review.file.path.parent / "gain" / f"{review.run.name}-{cut}-seed{config.seed}"
    source = {"answers": str(review.file.path) if cut else "", "suggestions": ""}
    parameters = asdict(recipe.source) | source | asdict(config)
    run = Run(folder)
    other = bool(run.id and run.differences(parameters, dataset.fingerprint))
    if other or not run.finished:
        with redirect_stdout(io.StringIO()):  # a dozen trainings would say the same
            train(dataset, config, Run.create(folder, parameters, dataset.fingerprint, other))
        (folder / "model.pth").unlink()
    return Predictions.read(run)


def _with(dataset: MultiLabelDataset, answers: pd.DataFrame) -> MultiLabelDataset:
    """The data set with the first of the answers; of none, itself."""
    if answers.empty:
        return dataset
    return dataset.with_labels(merge(dataset.labels, answers, dataset.digests), given=dataset.given)


def _count(cells: pd.DataFrame) -> int:
    """Cells that somebody answered."""
    return int((cells.people > 0).sum())


def _shown(row: Any) -> str:
    interval = f" [{row.low:+.4f}, {row.high:+.4f}]" if np.isfinite(row.low) else " (too few cells for an interval)"
    return f"{row.difference:+.4f}{interval}"
