"""A table file as rows of text: suffix, encoding, separator, and what is wrong with it as a file."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlkit.data.remote import fetch
from mlkit.errors import LabelError
from mlkit.files import address, locate, shown

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".txt", *SEPARATORS, ".parquet")
FORMATS = ".txt (spaces, no header), .csv, .tsv or .parquet (a header, one column of image names)"
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars (|)"}
_OTHERS = {  # how a file begins that only has the suffix of a table -> what it is, and the mend
    b"PK\x03\x04": ("an Excel workbook or another archive", "save its sheet as CSV"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save its sheet as CSV"),
    b"\x1f\x8b": ("a gzip archive", "unpack it"),
    b"\xff\xfe": ("not UTF-8 text but UTF-16", "save the file as UTF-8"),
    b"\xfe\xff": ("not UTF-8 text but UTF-16", "save the file as UTF-8"),
    b"PAR1": ("a Parquet file", "name it .parquet"),
}

Row = tuple[int, Sequence[str]]  # line number, cells


class TableFile:
    """Rows of a label file as text, read from the disk each time that they are asked for.

    `.txt` has cells between white space and no header; `.csv` and `.tsv` have one. Where the header holds no separator of
    the file's suffix but another, that one is taken; so is what Excel says in a first line `sep=;`.

    Attributes:
        path: of the file.
        header: cells of the first line, without white space around; of a `.txt`, which has none, empty.
        line: number of the header's line.
        separator: between cells; empty: white space, or none (Parquet).

    Raises:
        LabelError: if the file is missing, empty or no table at all. So does reading on, where the text is broken.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = locate(path)
        suffix = self.path.suffix.lower()
        if suffix not in SUFFIXES:
            raise LabelError(f"{shown(self.path)}: unknown label format {suffix!r}; use {FORMATS}, or see `mlkit labels`")
        if not fetch(self.path):
            raise LabelError(f"{address(self.path) or self.path}: no such label file; check the path")
        self.header: list[str] = []
        self.line = 0
        self.separator = ""
        self._parquet: list[list[str]] | None = None  # its columns
        if suffix == ".parquet":
            self.header, self._parquet = _parquet(self.path)
            return
        self._refuse_others()
        if suffix != ".txt":
            self.separator = self._separator(SEPARATORS[suffix])
            self.line, cells = next(self._rows(), (1, ()))
            self.header = [" ".join(cell.split()) for cell in cells]

    def __iter__(self) -> Iterator[Row]:
        """The rows after the header, those without any text left out."""
        if self._parquet is not None:
            return enumerate(zip(*self._parquet, strict=True), 1)
        rows = self._rows()
        if self.header:
            next(rows)
        return rows

    def where(self, line: int) -> str:
        """The place of a line, for people."""
        kind = "line" if self._parquet is None else "row"
        return f"{shown(self.path)}, {kind} {line}" if line else shown(self.path)

    def seems(self, cells: Sequence[str]) -> str:
        """What is between the cells of a row that were not told apart, for people; empty where nothing is."""
        text = " ".join(cells)
        others = [mark for mark in _NAMES if mark != self.separator and mark in text]
        if not others or self._parquet is not None:
            return ""
        return f"it seems to be separated by {_NAMES[max(others, key=text.count)]}"

    def _rows(self) -> Iterator[Row]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="" if self.separator else None) as file:
                if not self.separator:
                    yield from ((n, cells) for n, line in enumerate(file, 1) if (cells := line.split()))
                    return
                reader = csv.reader(file, delimiter=self.separator, strict=True)
                for cells in reader:
                    if reader.line_num == 1 and self._said(self.separator.join(cells)):
                        continue
                    if any(cells) and any(map(str.strip, cells)):
                        yield reader.line_num, cells
        except csv.Error as error:
            raise LabelError(f"{self.where(reader.line_num)}: {error}; check its quotes and separators") from None
        except UnicodeDecodeError:
            raise self._not_text() from None
        except OSError as error:
            raise LabelError(f"{shown(self.path)}: {error.strerror}; check the file") from None

    def _separator(self, usual: str) -> str:
        """What is between the cells of the header."""
        try:
            with self.path.open(encoding="utf-8-sig") as file:
                head = next((line for line in file if line.strip()), "")
        except UnicodeDecodeError:
            raise self._not_text() from None
        if said := self._said(head):
            return said
        others = [mark for mark in _NAMES if mark in head]
        return usual if usual in head or not others else max(others, key=head.count)

    @staticmethod
    def _said(line: str) -> str:
        """The separator in Excel's first line `sep=;`."""
        said = re.fullmatch(r'"?sep=([,;|\t])"?\s*', line)
        return said[1] if said else ""

    def _refuse_others(self) -> None:
        try:
            with self.path.open("rb") as file:
                start = file.read(64)
        except OSError as error:
            raise LabelError(f"{shown(self.path)}: {error.strerror}; check the file") from None
        for mark, (kind, mend) in _OTHERS.items():
            if start.startswith(mark):
                raise LabelError(f"{shown(self.path)}, line 1: {kind}; {mend}")
        if start.lstrip()[:2] in (b"[{", b"[\n", b"[\r", b'{"', b"{\n", b"{\r"):
            raise LabelError(f"{shown(self.path)} looks like JSON; `mlkit labels convert` makes a label file of it")

    def _not_text(self) -> LabelError:
        """The error for bytes that are not UTF-8, with their line; read again, since a stream does not say where it was."""
        try:
            self.path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            return LabelError(f"{self.where(line)}: not UTF-8 text ({error.reason}); save the file as UTF-8")
        return LabelError(f"{shown(self.path)}: it changed while it was read; try again")


def _parquet(path: Path) -> tuple[list[str], list[list[str]]]:
    """Names of its columns, and their cells as text; an index that holds more than row numbers is the first column."""
    try:
        frame = pd.read_parquet(path)
        if not isinstance(frame.index, pd.RangeIndex):
            frame = frame.reset_index()
        return [" ".join(str(name).split()) for name in frame], [_texts(frame.iloc[:, i]) for i in range(frame.shape[1])]
    except Exception as error:  # pyarrow raises many kinds for a file that is broken or not Parquet
        reason = " ".join(str(error).split())
        raise LabelError(f"{shown(path)} cannot be read as Parquet ({reason}); write it again, or use .csv") from None


def _texts(column: pd.Series) -> list[str]:
    """Cells as text, those without a value empty; as many texts are made as there are different cells."""
    known = column.astype(object).where(column.notna(), "")
    try:
        numbers, values = pd.factorize(known)
    except TypeError:  # lists
        return [str(value) for value in known]
    texts: list[str] = np.array([str(value) for value in values], dtype=object)[numbers].tolist()
    return texts
