"""Label files: read with all that is wrong in them, and write.

The reader is strict: a value that nobody gave a meaning, a row that contradicts another, a name outside of the images folder
is a problem, told with its line, its column and the mend. What guesses or converts is `mlkit labels convert`.
"""

import csv
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlkit.data.columns import NUMBERED, Columns, check_attributes
from mlkit.data.labels import from_codes
from mlkit.data.names import image_name
from mlkit.data.tablefile import FORMATS, SEPARATORS, SUFFIXES, TableFile
from mlkit.data.values import code_of_values, normal, question, wanted
from mlkit.errors import LabelError
from mlkit.files import atomic, resolve, shown
from mlkit.progress import listed

_MOST = 5  # of what is wrong alike, so many are named
_UNKNOWN, _BAD = 2, 3  # beside 1 and 0, codes of cells while they are bytes


@dataclass(frozen=True)
class Problem:
    """Something that is wrong in a label file; `where` says file, line and column, `text` what it is and the mend."""

    line: int
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass(frozen=True)
class LabelFile:
    """What was read from a label file.

    Attributes:
        labels: the label table, without the rows that have a problem.
        lines: line of each image's first row, int (images,).
        repeats: rows that repeat an image and agree: line, image, line of its first row.
        problems: all that is wrong, by line.
        notes: how it was read, where a person may not expect it.
    """

    labels: pd.DataFrame
    lines: np.ndarray
    repeats: list[tuple[int, str, int]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self) -> "LabelFile":
        """Itself, if nothing is wrong. Raises LabelError with the first problem, and how many more there are."""
        if self.problems:
            more = len(self.problems) - 1
            others = f" (`mlkit labels check` lists {more} more problem{'s' * (more > 1)})" if more else ""
            raise LabelError(f"{self.problems[0]}{others}")
        return self


def read_labels(path: str | Path, **settings: Any) -> pd.DataFrame:
    """The label table of a label file; arguments and errors as for `read_label_file`, where any problem is an error."""
    return read_label_file(path, **settings).check().labels


def read_label_file(
    path: str | Path, values: Mapping[Any, Any] | None = None, attributes: Sequence[str] = (), image_column: str = ""
) -> LabelFile:
    """Read a label file and find all that is wrong in its rows; `TableFile` says which formats there are.

    The image's name stands in the first column, or in the one that is called like it (image, file, path ...); a first
    column of row numbers, as pandas writes it, is passed over. Attributes of a `.txt` are Attr1, Attr2, ... Rows that
    repeat an image collapse where they agree.

    Args:
        path: the label file.
        values: what the values mean, see `code_of_values`.
        attributes: which columns are attributes, names or patterns; "!Age" leaves one out. Empty: all.
        image_column: the column that names the image; empty: found as said above.

    Raises:
        LabelError: if the file cannot be read as a table, or its header is wrong.
    """
    file = TableFile(path)
    codes = code_of_values(values or {})
    columns = Columns.of(file, codes, attributes, image_column)
    names, lines, cells, problems = _cells(file, columns, codes)
    if not len(lines) and not problems:
        raise LabelError(f"{shown(file.path)} holds no rows; write one line per image, in {FORMATS}")
    problems += _without_meaning(file, columns, values or {}, lines, cells)
    images, good = _images(file, names, lines, problems)
    table, first, repeats = _collapse(file, images, lines[good], cells[good], columns.attributes, problems)
    notes = list(columns.notes)
    if repeats:
        named = ", ".join(str(line) for line, _, _ in repeats[:_MOST]) + (" ..." if len(repeats) > _MOST else "")
        notes.append(f"rows that repeat an image and agree with its first row: {len(repeats)} (line {named}); kept once")
    table.attrs = {"source": str(file.path), "notes": notes}
    return LabelFile(table, first, repeats, sorted(problems, key=lambda problem: problem.line), notes)


def write_labels(labels: pd.DataFrame, path: str | Path) -> None:
    """Write a label table in the format that the suffix of `path` names; `read_labels` gives the same table back.

    Raises:
        LabelError: if the table has no cells, or the format cannot hold it (`.txt` has no header and no spaces in names).
    """
    path = resolve(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise LabelError(f"{shown(path)}: unknown label format {suffix!r}; use {FORMATS}")
    if suffix == ".txt":
        if list(labels.columns) != [NUMBERED.format(i) for i in range(1, labels.shape[1] + 1)]:
            raise LabelError(f"{shown(path)}: a .txt label file has no header and would lose the names; write a .csv")
        if spaced := [image for image in labels.index if re.search(r"\s", image)]:
            raise LabelError(f"{shown(path)}: {spaced[0]!r} holds white space; write a .csv or .tsv")
    if labels.empty:
        raise LabelError(f"{shown(path)}: the table has no images or no attributes; there is nothing to write")
    check_attributes(list(labels.columns), shown(path), code_of_values({}))
    for image in labels.index:
        try:
            name = image_name(image)
        except LabelError as error:
            raise LabelError(f"{shown(path)}: {error}") from None
        if image != name:
            raise LabelError(f"{shown(path)}: image name {image!r} would be read back as {name!r}; rename it")
    table = labels.rename_axis("image")
    try:
        with atomic(path) as temporary:
            if suffix == ".parquet":
                table.reset_index().to_parquet(temporary, index=False)
            elif suffix == ".txt":
                table.to_csv(temporary, sep=" ", na_rep="NA", header=False, quoting=csv.QUOTE_NONE, lineterminator="\n")
            else:
                table.to_csv(temporary, sep=SEPARATORS[suffix], na_rep="NA", lineterminator="\n")
    except UnicodeEncodeError as error:
        raise LabelError(f"{shown(path)}: {error.object!r} cannot be written as UTF-8; rename it") from None


class _Bytes(dict[str, int]):
    """Cell as it is written -> its code as a byte; what was looked at once is remembered."""

    def __init__(self, codes: Mapping[str, int]) -> None:
        super().__init__()
        self._codes = {text: _UNKNOWN if code < 0 else code for text, code in codes.items()}

    def __missing__(self, text: str) -> int:
        code = self[text] = self._codes.get(normal(text), _BAD)
        return code


def _cells(
    file: TableFile, columns: Columns, codes: Mapping[str, int]
) -> tuple[list[str], np.ndarray, np.ndarray, list[Problem]]:
    """Image names, lines int (rows,) and codes uint8 (rows, attributes) of the rows that have the right length."""
    names: list[str] = []
    lines, cells, problems = array("q"), bytearray(), []
    code = _Bytes(codes).__getitem__
    width, image = columns.width, columns.image
    pick = itemgetter(*columns.places, columns.places[0])  # the first twice: of one column it would not be a tuple
    for line, row in file:
        if len(row) == width:
            names.append(row[image])
            lines.append(line)
            cells += bytes(map(code, pick(row)[:-1]))
        else:
            problems.append(Problem(line, file.where(line), _length(file, columns, row)))
    return names, np.array(lines), np.frombuffer(bytes(cells), np.uint8).reshape(len(names), len(columns.places)), problems


def _length(file: TableFile, columns: Columns, row: Sequence[str]) -> str:
    """What is wrong with a row of another length."""
    text = f"{len(row) - 1} values where {columns.width - 1} are expected"
    if len(row) == columns.width + 1 and not row[-1].strip():
        return f"{text}: it ends with a separator too many; take that away"
    if seems := file.seems(row):
        return f"{text}; {seems}, other lines are not; write all lines alike"
    spaces = " (a file name with spaces needs a .csv or .tsv file)" if file.path.suffix.lower() == ".txt" else ""
    return f"{text}; give one per attribute, NA where unknown{spaces}"


def _without_meaning(
    file: TableFile, columns: Columns, values: Mapping[Any, Any], lines: np.ndarray, cells: np.ndarray
) -> list[Problem]:
    """The values that are neither yes nor no nor unknown, by column; the file is read again for their text."""
    bad = cells == _BAD
    if not bad.any():
        return []
    faulty = [(n, columns.places[n]) for n in map(int, np.flatnonzero(bad.any(0)))]
    rows = {int(line): row for row, line in enumerate(lines) if bad[row].any()}
    texts: dict[int, dict[str, list[int]]] = {n: {} for n, _ in faulty}
    for line, cells_of_line in file:
        if (row := rows.get(line)) is not None:
            for n, place in faulty:
                if bad[row, n]:
                    texts[n].setdefault(cells_of_line[place].strip(), []).append(line)
    everywhere = {normal(text) for found in texts.values() for text in found}
    if everywhere == {"-1"} and not values:
        line, column = min((min(found["-1" if "-1" in found else next(iter(found))]), n) for n, found in texts.items())
        zero = {"0"} if (cells == 0).any() else set()
        return [Problem(line, f"{file.where(line)}, column {columns.attributes[column]}", question({"-1"} | zero))]
    return [
        Problem(lines_of[0], f"{file.where(lines_of[0])}, column {columns.attributes[n]}", text)
        for n, found in texts.items()
        for lines_of, text in _of_column(columns, n, found, values, known=int((cells[:, n] < _UNKNOWN).sum()))
    ]


def _of_column(
    columns: Columns, n: int, found: Mapping[str, list[int]], values: Mapping[Any, Any], known: int
) -> list[tuple[list[int], str]]:
    """Lines and text of what is wrong in a column; one for all where it seems to hold something else."""
    count = sum(map(len, found.values()))
    name = columns.attributes[n]
    if count > known:  # an age, a tag, a split
        named = listed(map(repr, found), _MOST)
        mend = f'leave the column out, attributes: ["!{name}"], or say what its values mean with values'
        if any(re.search(r"[\s|;,]", text) for text in found):
            mend += "; of tags in one column `mlkit labels convert --from tags` makes a label file"
        verb = "is" if len(found) == 1 else "are"
        return [(min(found.values()), f"{named} {verb} not {wanted(values)}; write one of these, or {mend}")]
    cells = "" if count == 1 else f" ({count} cells of this column are not)"
    return [
        (lines, f"{text!r} is not {wanted(values)}{cells}; write one of these, or say what it means with values")
        for text, lines in list(found.items())[:_MOST]
    ]


def _images(
    file: TableFile, names: Sequence[str], lines: np.ndarray, problems: list[Problem]
) -> tuple[list[str], np.ndarray]:
    """Names of images in one form, and which rows have one; what is wrong with the others joins `problems`."""
    images, good = [], np.ones(len(names), bool)
    for row, name in enumerate(names):
        try:
            images.append(image_name(name))
        except LabelError as error:
            good[row] = False
            problems.append(Problem(int(lines[row]), file.where(int(lines[row])), str(error)))
    return images, good


def _collapse(
    file: TableFile, images: list[str], lines: np.ndarray, cells: np.ndarray, attributes: list[str], problems: list[Problem]
) -> tuple[pd.DataFrame, np.ndarray, list[tuple[int, str, int]]]:
    """One row for each image; contradictions join `problems`."""
    numbers, unique = pd.factorize(np.array(images, dtype=object))
    codes = np.where(cells >= _UNKNOWN, -1, cells).astype(np.int8)
    if len(unique) == len(images):
        return from_codes(codes, images, attributes), lines, []
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(len(unique)))
    yes, no = (np.maximum.reduceat(codes[order] == code, starts) for code in (1, 0))
    for group, n in np.argwhere(yes & no):
        rows = np.flatnonzero(numbers == group)
        here, there = sorted(((int(lines[rows[codes[rows, n] == code][0]]), code) for code in (1, 0)), reverse=True)
        text = f"{unique[group]} is {here[1]} here and {there[1]} on line {there[0]}; keep one"
        problems.append(Problem(here[0], f"{file.where(here[0])}, column {attributes[n]}", text))
    first = lines[order][starts]
    again = np.setdiff1d(np.arange(len(images)), order[starts])
    repeats = [(int(lines[row]), images[row], int(first[numbers[row]])) for row in again]
    merged = np.where(yes, 1, np.where(no, 0, -1))
    return from_codes(merged, list(unique), attributes), first, repeats
