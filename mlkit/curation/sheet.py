"""A queue as a table for a spreadsheet, or as tasks of Label Studio, and the answers out of it again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mlkit.curation.review import Review
from mlkit.data.answers import WORDS, Answer, me
from mlkit.data.formats import read_other, write_other
from mlkit.data.formats.statements import Options
from mlkit.data.labels import to_codes
from mlkit.data.tablefile import TableFile
from mlkit.data.values import UNKNOWN, code_of_values, normal
from mlkit.errors import LabelError
from mlkit.files import as_written, resolve, shown, write_csv
from mlkit.progress import listed

OPEN = ""
_COLUMNS = {"image", "attribute", "answer"}
_ANSWERS = {  # what a cell of a sheet may hold
    **{text: OPEN if code == UNKNOWN else WORDS[code] for text, code in code_of_values({}).items()},
    **dict.fromkeys(("yes", "y"), "yes"),
    **dict.fromkeys(("no", "n"), "no"),
    **dict.fromkeys(("unclear", "u"), "unclear"),
}


def write_sheet(review: Review, queue: pd.DataFrame, order: str, path: str | Path, prefix: str = "") -> None:
    """Write a queue with a cell to fill in for each question: .csv, or .json for Label Studio.

    Label Studio asks by image, so there each image of the queue comes with all attributes, the known ones answered.

    Args:
        review, queue: of the review.
        order: of the queue.
        path: where to.
        prefix: before image names in Label Studio.

    Raises:
        LabelError: for another suffix.
    """
    path = resolve(path)
    if path.suffix.lower() == ".json":
        write_other(review.labels.loc[list(dict.fromkeys(queue.image))], path, prefix)
        return
    if path.suffix.lower() != ".csv":
        raise LabelError(f"{shown(path)}: a sheet is a .csv, or a .json for Label Studio")
    folder = review.run.images
    table = queue.assign(answer="", order=order, run=review.run.title, path=[str(folder / name) for name in queue.image])
    write_csv(path, table[["image", "attribute", "answer", "before", "path", "order", "run", "digest"]], index=False)


def read_sheet(review: Review, path: str | Path) -> tuple[int, int, int]:
    """Take the answers of a sheet, or of what another tool made of it, over into the file of answers.

    An answer that is there already, by the same person, is not written again, so that a sheet can be read twice.

    Args:
        review: the review.
        path: a sheet (.csv as a spreadsheet saves it), or a file of `data.formats`.

    Returns:
        How many answers were taken, how many were there already, and how many images of another tool's file are none of
        these data: its project may hold more.

    Raises:
        LabelError: naming the line of a sheet, for what is no answer, or no cell of these data.
    """
    path = resolve(path)
    header = set(TableFile(path).header) if path.suffix.lower() in (".csv", ".tsv") else set()
    answers, others = (_of_table(review, path), 0) if header >= _COLUMNS else _of_labels(review, path)
    said = review.file.read()
    mine = said[said.who == me()].drop_duplicates(["image", "attribute"], keep="last")
    there = dict(zip(zip(mine.image, mine.attribute, strict=True), mine.answer, strict=True))
    new = [answer for answer in answers if there.get((answer.image, answer.attribute)) != answer.answer]
    if new:
        review.file.append(new)
    return len(new), len(answers) - len(new), others


def _of_table(review: Review, path: Path) -> list[Answer]:
    file = TableFile(path)
    lines, rows = zip(*file, strict=True) if any(True for _ in file) else ((), ())
    if uneven := [line for line, row in zip(lines, rows, strict=True) if len(row) != len(file.header)]:
        raise LabelError(f"{file.where(uneven[0])}: other columns than in the first line; save the sheet as CSV again")
    table = as_written(pd.DataFrame(list(rows), columns=file.header, dtype=object))
    cells, answers = _Cells(review), []
    for line, (_, row) in zip(lines, table.iterrows(), strict=True):
        text = normal(row.answer)
        if _ANSWERS.get(text) == OPEN:
            continue
        if text not in _ANSWERS:
            raise LabelError(f"{file.where(line)}, column answer: {text!r} is no answer; write yes, no or unclear")
        answer = cells.answer(row.image, row.attribute, _ANSWERS[text], file.where(line))
        answers.append(replace(answer, **{name: row[name] for name in ("order", "run", "digest") if name in row}))
    return answers


def _of_labels(review: Review, path: Path) -> tuple[list[Answer], int]:
    """What a label file of any format says of cells that labels and answers so far do not say; and images left out."""
    labels, current = read_other(path, Options()), review.labels
    here = labels.index.isin(current.index)
    labels, others = labels[here], int((~here).sum())
    both = [name for name in labels.columns if name in current.columns]
    if not both:
        raise LabelError(f"{shown(path)}: none of its attributes is one of {review.run} ({listed(current.columns)})")
    codes, there = to_codes(labels[both]), to_codes(current[both].reindex(labels.index))
    cells, rows = _Cells(review), np.argwhere((codes >= 0) & (codes != there))
    return [cells.answer(labels.index[i], both[j], WORDS[int(codes[i, j])], shown(path)) for i, j in rows], others


class _Cells:
    """Cells of the data, by their names."""

    def __init__(self, review: Review) -> None:
        self._digests, self._labels, self._run = review.dataset.digests, review.labels, review.run

    def answer(self, image: str, attribute: str, word: str, where: str) -> Answer:
        """An answer to a cell. Raises LabelError, naming the place `where`, if there is no such cell."""
        if image not in self._digests.index or attribute not in self._labels:
            raise LabelError(f"{where}: {self._run} has no cell {image!r}, {attribute!r}; take the line out")
        before = WORDS[int(to_codes(self._labels.loc[[image], [attribute]])[0, 0])]
        return Answer(image, attribute, word, before=before, run=self._run.title, digest=self._digests[image])
