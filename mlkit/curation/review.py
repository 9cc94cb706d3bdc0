"""The review of a run's labels: which cells are asked, by its model, and where the answers go."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mlkit.curation import probe
from mlkit.curation.label_errors import suspicion
from mlkit.curation.orders import DEFAULT_ORDER, NEEDS, Pool, ask
from mlkit.curation.panel import Pictures
from mlkit.curation.session import Session
from mlkit.data.answers import CODES, WORDS, AnswerFile, merge, same_picture, votes
from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.duplicates import disputed, duplicate_groups
from mlkit.data.images import load_image
from mlkit.data.labels import label_counts, to_codes
from mlkit.errors import ParameterError
from mlkit.evaluation.calibration import sigmoid
from mlkit.files import locate
from mlkit.inference.neighbours import Features, Neighbours
from mlkit.inference.predictor import Predictor
from mlkit.progress import listed
from mlkit.runs import Run, outputs_root
from mlkit.training.recipe import Recipe

_BLOCK = 25  # questions among which those of one attribute come together: one question for many pictures is answered faster


@dataclass(frozen=True)
class Review:
    """A run's model, its data as the label file has it, and the answers so far.

    Attributes:
        run: whose model chooses.
        predictor: the model.
        dataset: images and labels, without answers.
        file: of the answers.
    """

    run: Run
    predictor: Predictor
    dataset: MultiLabelDataset
    file: AnswerFile

    @classmethod
    def of(cls, run: Run, answers: str | Path = "", device: str = "auto") -> "Review":
        """The review of a finished run.

        Args:
            run: the run.
            answers: file of the answers; empty: the one that the run was trained with, or else `answers_of` its labels.
            device: as for `choose_device`.

        Raises:
            RunError, LabelError: if the run is not finished, or its data cannot be read any more.
        """
        run.check_finished()
        recipe = Recipe.of(run.config()["parameters"])
        file = AnswerFile(answers or recipe.source.answers or answers_of(recipe.source.labels))
        dataset = replace(recipe, source=replace(recipe.source, answers="", suggestions="")).open()
        return cls(run, Predictor.load(run.path, device), dataset, file)

    @cached_property
    def features(self) -> Features:
        """What the model sees of the images."""
        return Features(self.predictor)

    def answers(self) -> pd.DataFrame:
        """The answers so far, see `AnswerFile.read`, but for those to other pictures that had the names of these."""
        table = self.file.read()
        return table[same_picture(table, self.dataset.digests)]

    @property
    def labels(self) -> pd.DataFrame:
        """The label table with the answers so far."""
        return merge(self.dataset.labels, self.file.read(), self.dataset.digests)

    def open_cells(self, fill_test: bool = False) -> np.ndarray:
        """Boolean (images, attributes): cells that nobody has answered for good, or about which people disagree.

        Args:
            fill_test: those of test images too. What people answer there changes the judge: figures of before and after are
                of other labels, so that the gain of answers cannot be told from them.

        Raises:
            ParameterError: if all images are test images, as those of folds together.
        """
        cells = votes(self.answers())
        closed = self._at(cells.index[cells.closed.astype(bool)])
        split = self.run.read_table("predictions.csv" if self.run.members else "split.csv")
        judging = self.dataset.labels.index.isin(split.image[split.split == "test"])
        if judging.all() and not fill_test:
            raise ParameterError(
                f"all images of {self.run} judge it, in one of its folds: give one of its members "
                f"({listed(self.run.members)}), or ask about test images too (fill_test)"
            )
        allowed = np.logical_or(fill_test, ~judging)
        result: np.ndarray = ~closed & allowed[:, None]
        return result

    def unknown(self, fill_test: bool = False) -> np.ndarray:
        """Those of the open cells that are unknown; boolean (images, attributes)."""
        result: np.ndarray = self.open_cells(fill_test) & self.labels.isna().to_numpy()
        return result

    def queue(
        self, order: str = DEFAULT_ORDER, count: int = 200, by: str = "cell", fill_test: bool = False, seed: int = 0
    ) -> pd.DataFrame:
        """The questions to ask next: first what people disagree about, then by the order, last what was skipped.

        Args:
            order, count, by, seed: as for `orders.ask`.
            fill_test: as for `open_cells`.

        Returns:
            One row a question: image, attribute, score (of the order), probability (of yes), before (what the labels say:
            yes, no, NA), digest (of the image file).

        Raises:
            ParameterError: as for `orders.ask` and `open_cells`, and if the count is below 1.
        """
        if count < 1:
            raise ParameterError(f"count is {count}; ask at least 1 question")
        cells = votes(self.answers())
        disagreed = self._at(cells.index[(cells.people > 0) & ~cells.closed.astype(bool)])
        skipped = self._at(cells.index[cells.skips > 0])
        labels, open_cells = self.labels, self.open_cells(fill_test)
        members, probabilities = self._probabilities()
        pool = Pool(
            probabilities=probabilities,
            codes=to_codes(labels),
            open=open_cells,
            features=self.features.of(self.dataset) if order == "representative" else np.empty((len(labels), 0)),
            members=members if len(members) > 1 else None,
            suspicion=self._suspicion(labels) if NEEDS.get(order) == "suspicion" else None,
            seed=seed,
        )
        parts = [(*np.nonzero(disagreed & open_cells), np.full((disagreed & open_cells).sum(), np.inf))]
        for some, most in ((~disagreed & ~skipped, count), (skipped & ~disagreed, count)):
            parts.append(ask(replace(pool, open=open_cells & some), order, most, by))
        rows, columns, scores = (np.concatenate([part[i] for part in parts])[:count] for i in range(3))
        if by == "cell":
            together = np.lexsort((columns, np.arange(len(rows)) // _BLOCK))
            rows, columns, scores = rows[together], columns[together], scores[together]
        images = self.dataset.labels.index.to_numpy()[rows]
        return pd.DataFrame(
            {
                "image": images,
                "attribute": np.array(self.dataset.attributes, dtype=object)[columns],
                "score": scores,
                "probability": probabilities[rows, columns],
                "before": [WORDS[code] for code in pool.codes[rows, columns]],
                "digest": self.dataset.digests.reindex(images).to_numpy(),
            }
        )

    def summary(self, fill_test: bool = False) -> pd.DataFrame:
        """Cells by attribute: yes, no, unknown (answers included), open (unknown ones that may be asked), answered."""
        labels, cells = self.labels, votes(self.answers())
        answered = self._at(cells.index[cells.people > 0]).sum(axis=0)
        table = label_counts(labels).rename(columns={"positives": "yes", "negatives": "no"})[["yes", "no", "unknown"]]
        return table.assign(open=self.unknown(fill_test).sum(axis=0), answered=answered)

    def answered(self) -> pd.DataFrame:
        """What people said, by person: cells by answer, those on which others disagree, the median seconds of an answer."""
        table = self.answers()
        cells = votes(table)
        disputed = cells.index[(cells.people > 0) & ~cells.closed.astype(bool)]
        last = table[table.answer.isin(CODES)].drop_duplicates(["who", "image", "attribute"], keep="last")
        counts = pd.crosstab(last.who, last.answer).reindex(columns=list(CODES), fill_value=0).rename_axis(columns=None)
        at = pd.MultiIndex.from_frame(last[["image", "attribute"]])
        counts["disagreed"] = pd.Series(at.isin(disputed), last.who).groupby(level=0).sum()
        return counts.assign(seconds=last.groupby("who").seconds.median())

    def pictures(self, similar: int = 4) -> Pictures:
        """What the panel shows of a question: the picture itself, and training images like it in which the cell is known."""
        labels = self.labels
        taught = labels.index.isin(self.run.training_images())
        neighbours = Neighbours(self.dataset.with_labels(labels[taught]), self.predictor)

        def like(image: str, attribute: str) -> list[tuple[np.ndarray, str]]:
            if neighbours.labels[attribute].isna().all():
                return []
            found = neighbours.nearest(self.run.images / image, similar, attribute).index
            words = [WORDS[int(code)] for code in neighbours.labels.loc[found, attribute]]
            return list(zip(neighbours.pixels(found), words, strict=True))

        return Pictures(lambda image: load_image(self.run.images / image, reading=self.predictor.reading), like)

    def session(self, queue: pd.DataFrame, order: str) -> Session:
        """A session that asks the questions of a queue."""
        return Session(queue, self.file, {"order": order, "run": self.run.title})

    def _at(self, cells: pd.Index) -> np.ndarray:
        """Boolean (images, attributes), of cells named by image and attribute; those of other data are passed over."""
        rows = self.dataset.labels.index.get_indexer(cells.get_level_values(0))
        columns = self.dataset.labels.columns.get_indexer(cells.get_level_values(1))
        here = (rows >= 0) & (columns >= 0)
        result = np.zeros(self.dataset.labels.shape, bool)
        result[rows[here], columns[here]] = True
        return result

    def _probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each member (members, images, attributes), and of the model (images, attributes), calibrated."""
        logits = self.features.logits(self.dataset)
        return sigmoid(logits), self.predictor.calibrated(logits.mean(axis=0))

    def _suspicion(self, labels: pd.DataFrame) -> np.ndarray:
        """How suspicious each known cell is, NaN where there is no suspicion; what contradicts a near duplicate most of all.

        By models that have not seen the image: regressions on the features of the run's starting weights, out of fold.
        """
        parameters = self.run.config()["parameters"]
        names = ("backbone", "weights", "device", "seed")
        groups = duplicate_groups(self.dataset)
        features = probe.features(self.dataset, **{name: parameters[name] for name in names})
        suspicious = suspicion(labels, probe.out_of_fold(features, labels, groups))
        return np.where(disputed(labels, groups), 1.0, suspicious)


def answers_of(labels: str | Path) -> Path:
    """The file of the answers to the cells of a label file, unless another is named."""
    return outputs_root() / "review" / locate(labels).stem / "answers.csv"
