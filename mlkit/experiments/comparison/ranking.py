"""Many runs, judged on the same images: who is best, by how much, and what that rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mlkit.errors import RunError
from mlkit.evaluation.intervals import AP, Jackknife, contrast_bounds, variance
from mlkit.evaluation.predictions import Predictions, align, both_classes, remarks, shared_targets
from mlkit.experiments.comparison.overview import overview, varying
from mlkit.runs import Folder, Run, find_runs, named_folder

_SHARED = 0.5  # of the images that judge the best run; a run that shares fewer would cost the others too many


def choose_runs(patterns: Sequence[str] = ()) -> list[Run]:
    """The finished runs to compare: those named or matched; without a name, all that are judged on the newest's images.

    Raises:
        RunError: if the names find fewer than two.
    """
    found = find_runs(patterns)
    if patterns:
        if len(found) < 2:
            raise RunError(f"{', '.join(patterns)} finds {found[0]} alone; name two runs or more, or none for all")
        return found
    predicted = list(_read(found)[0].values())
    return [one.run for one in predicted if _share(predicted[-1], one) >= _SHARED]


def results_folder(name: str) -> Folder:
    """The folder below outputs for the tables and figures of a comparison. Raises RunError if it is none, or holds a run."""
    folder = Folder(named_folder(name))
    if (folder / "config.json").exists():
        raise RunError(f"{folder} holds a run; give the comparison a folder of another name")
    return folder


@dataclass(frozen=True)
class Comparison:
    """Runs on the images that judge them all, with the labels of the best, the highest validation mAP first.

    Validation images choose, so that the test images of the chosen run still judge it fairly.

    Attributes:
        predicted: title of the run -> its predictions for these images.
        overview: of these runs, see `overview.overview`; but validation_mAP is over the attributes that the validation
            images of all can judge (validation_over: how many), and over says how many the mAP of this comparison is over.
        varying: what they were made from as far as they differ, see `overview.varying`.
        left_out: title -> why the run is not compared.
        remarks: sentences on what makes the comparison less than plain.
        level: of the intervals.
        mean_ap: (runs,) mAP, over the attributes that have both classes among these labels.
        bounds: (2, runs), its interval.
        moved: (images, runs), what leaving out each image moves it by.
        unseen: (runs,), variance of an mAP that is perfect, see `Jackknife.unseen`.
        cells: images on which the intervals rest, see `intervals.rarer`.
    """

    predicted: dict[str, Predictions]
    overview: pd.DataFrame
    varying: pd.DataFrame
    left_out: dict[str, str]
    remarks: list[str]
    level: float
    mean_ap: np.ndarray
    bounds: np.ndarray
    moved: np.ndarray
    unseen: np.ndarray
    cells: int

    @classmethod
    def of(cls, runs: Sequence[Run], level: float = 0.95) -> "Comparison":
        """Compare runs; those that cannot be compared with the best are left out and named.

        Raises:
            RunError: if none can be judged at all.
        """
        table = overview(runs)
        predicted, left_out = _read(runs)
        for title in [title for title in predicted if table.stopped[title] == "pruned"]:
            predicted.pop(title)
            left_out[title] = f"a search gave it up ({table.state[title]}), and its figures are of half a training"
        if not predicted:
            raise RunError(f"no run can be judged: {'; '.join(left_out.values()) or 'none was given'}")
        validated = {title: Predictions.read(one.run, "validation") for title, one in predicted.items()}
        over = _validate_alike(validated, table)
        order = list(table.validation_mAP[list(predicted)].sort_values(ascending=False, kind="stable").index)
        best = predicted[order[0]]
        aligned, notes = {order[0]: best}, {}
        for title in order[1:]:
            try:
                one, two = align(best, predicted[title])
            except RunError as error:
                left_out[title] = str(error)
                continue
            aligned[title] = two
            notes[title] = remarks(one, two)
            if set(validated[title].images) != set(validated[order[0]].images):
                notes[title].append(f"{two.run} and {best.run} differ in their validation images: their mAP on these, too.")
        images = _common(aligned, best, left_out)
        aligned = {title: one.only(images) for title, one in aligned.items() if title not in left_out}
        targets = shared_targets(list(aligned.values()))
        aligned = {title: replace(one, targets=targets) for title, one in aligned.items()}
        every = [Jackknife(one.probabilities, targets, best.attributes) for one in aligned.values()]
        mean_ap = np.array([one.value[AP, -1] for one in every])
        return cls(
            predicted=aligned,
            overview=table.loc[list(aligned)].assign(over=both_classes(targets), validation_over=over),
            varying=varying({title: one.run.config() for title, one in aligned.items()}),
            left_out=left_out,
            remarks=list(dict.fromkeys(note for title in list(aligned)[1:] for note in notes[title])),
            level=level,
            mean_ap=mean_ap,
            bounds=np.array([[end[AP, -1] for end in one.bounds(level)] for one in every]).T,
            moved=np.stack([one.without[:, AP, -1] for one in every], axis=1) - mean_ap,
            unseen=np.array([one.unseen()[AP, -1] for one in every]),
            cells=int(every[0].cells[-1]),
        )

    def __str__(self) -> str:
        best = next(iter(self.predicted.values()))
        known, defined = int((best.targets >= 0).sum()), both_classes(best.targets)
        lines = [
            f"{len(self.predicted)} runs on the {len(best.images)} {best.split} images that judge them all, "
            f"{known} of {best.targets.size} cells known; mAP over {defined} of {len(best.attributes)} attributes",
            *self.remarks,
            *(f"left out: {title}: {reason}" for title, reason in self.left_out.items()),
        ]
        return "\n".join(lines)

    def contrast(self, weights: np.ndarray, comparisons: int = 1) -> tuple[float, float, float]:
        """A weighted sum of the runs' mAP, `first - second` say, with its paired interval.

        Args:
            weights: (runs,).
            comparisons: how many of them are looked at together: the interval is made so wide that all hold at `level`
                (Bonferroni).
        """
        value, level = self.mean_ap @ weights, 1 - (1 - self.level) / comparisons
        spread = variance(self.moved @ weights) + self.unseen @ weights**2
        low, high = contrast_bounds(value, spread, np.array(self.cells), level)
        return float(value), float(low), float(high)

    def ranking(self) -> pd.DataFrame:
        """One row per run, the highest validation mAP first: test mAP, and the paired difference to the first run.

        Returns:
            Index run; columns validation_mAP; mAP, low, high on the common images; difference (run - first) with
            difference_low and difference_high, which hold for all differences together. NaN for the first run.
        """
        one_each = np.eye(len(self.predicted))
        own = np.column_stack([self.mean_ap, *self.bounds])
        others = [self.contrast(weights - one_each[0], len(one_each) - 1) for weights in one_each[1:]]
        names = ["mAP", "low", "high", "difference", "difference_low", "difference_high"]
        rows = [[*first, *second] for first, second in zip(own, [(np.nan,) * 3, *others], strict=True)]
        table = pd.DataFrame(rows, index=self.overview.index, columns=names)
        table.insert(0, "validation_mAP", self.overview.validation_mAP)
        return table

    def curves(self) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
        """history.csv and epochs.csv by title, best first, of the runs that have them (ensembles do not)."""
        runs = {title: one.run for title, one in self.predicted.items() if (one.run / "history.csv").exists()}
        histories = {title: run.read_table("history.csv") for title, run in runs.items()}
        return histories, {title: run.read_table("epochs.csv") for title, run in runs.items()}

    def table(self) -> pd.DataFrame:
        """The overview with the ranking's figures on the common images in place of each run's own."""
        own = self.overview.drop(columns=["mAP", "validation_mAP", "judged_on"])
        return self.ranking().join(own)


def _read(runs: Sequence[Run]) -> tuple[dict[str, Predictions], dict[str, str]]:
    """Predictions by title, and why those of other runs cannot be read."""
    predicted, left_out = {}, {}
    for run in runs:
        try:
            predicted[run.title] = Predictions.read(run)
        except RunError as error:
            left_out[run.title] = str(error)
    return predicted, left_out


def _validate_alike(validated: Mapping[str, Predictions], table: pd.DataFrame) -> int:
    """Over how many attributes the validation mAP of all is; where runs differ in these, a common one replaces their own.

    Runs with other attributes than the best keep their own.

    Args:
        validated: predictions for each run's validation images.
        table: of `overview`, whose validation_mAP is replaced.
    """
    first = max(validated, key=lambda title: np.nan_to_num(table.validation_mAP[title], nan=-1.0))
    same = [title for title, one in validated.items() if set(one.attributes) == set(validated[first].attributes)]
    ap = pd.DataFrame({title: validated[title].evaluate().AP for title in same})
    judged = ap.notna()
    if (common := judged.all(axis=1)).any() and judged.ne(judged[first], axis=0).to_numpy().any():
        table.loc[same, "validation_mAP"] = ap[common].mean()
    return int(common.sum())


def _common(aligned: Mapping[str, Predictions], best: Predictions, left_out: dict[str, str]) -> list[str]:
    """Images that judge all runs; one that shares too few with the others goes to `left_out`."""
    images = list(best.images)
    for title in sorted(aligned, key=lambda title: -len(aligned[title].images)):
        there = set(aligned[title].images)
        common = [image for image in images if image in there]
        if len(common) < _SHARED * len(best.images):
            shared = f"shares {len(common)} of the {len(best.images)} images that judge the others"
            left_out[title] = f"{aligned[title].run} {shared}"
        else:
            images = common
    return images


def _share(first: Predictions, second: Predictions) -> float:
    """Share of the first's images that judge the second, too; 0 if the attributes are others."""
    same = set(first.attributes) == set(second.attributes)
    return len(set(first.images) & set(second.images)) / len(first.images) if same else 0.0
