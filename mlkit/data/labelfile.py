"""Label files: read, check, write, and report the rows whose image cannot be used."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from mlkit.data.labels import from_codes
from mlkit.errors import LabelError
from mlkit.files import atomic, resolve, shown

_VALUES = {
    "1": 1, "1.0": 1, "true": 1,
    "0": 0, "0.0": 0, "false": 0,
    "": None, "na": None, "nan": None, "<na>": None, "none": None,
}  # fmt: skip
_MINUS_ONE = {"unknown": None, "no": 0}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_FORMATS = ".txt (spaces, no header), .csv, .tsv or .parquet (first column: image)"

Row = tuple[int, list[str]]  # line number, cells


def read_labels(path: str | Path, minus_one: str = "error") -> pd.DataFrame:
    """Read a label file into a label table.

    Formats, by the file's suffix: `.txt` is `image value value ...` between white space, without a header (attributes are
    then Attr1, Attr2, ...); `.csv`, `.tsv` and `.parquet` have a header whose first column is the image. Values are 1, 0
    or NA, also true, false, nan and empty. Rows that repeat an image collapse where they agree.

    Args:
        path: the label file.
        minus_one: what -1 means: "unknown", "no" (as in CelebA), or "error" to refuse it.

    Raises:
        LabelError: with file, line, column and the mend.
    """
    path = resolve(path)
    if minus_one not in ("error", *_MINUS_ONE):
        raise LabelError(f'minus_one is {minus_one!r}; it must be "error", "unknown" or "no"')
    attributes, rows = _parse(path)
    values = _VALUES | ({"-1": _MINUS_ONE[minus_one], "-1.0": _MINUS_ONE[minus_one]} if minus_one != "error" else {})
    seen: dict[str, tuple[int, list[int | None]]] = {}
    filled: dict[tuple[str, str], int] = {}  # cells that a repeated row knew first, and its line
    notes: list[str] = []
    for line, cells in rows:
        where = f"{shown(path)}, line {line}"
        image = _image_name(cells[0], where)
        if len(cells) != len(attributes) + 1:
            raise LabelError(
                f"{where}: {len(cells) - 1} values where {len(attributes)} are expected; give one per attribute, NA where "
                "unknown (a file name with spaces needs a .csv or .tsv file)"
            )
        row = [_value(cell, values, where, name) for cell, name in zip(cells[1:], attributes, strict=True)]
        if image in seen:
            first, known = seen[image]
            for name, old, new in zip(attributes, known, row, strict=True):
                if old is not None and new is not None and old != new:
                    said = filled.get((image, name), first)
                    raise LabelError(f"{where}, column {name}: {image} is {new} here and {old} on line {said}; keep one")
                if old is None and new is not None:
                    filled[image, name] = line
            row = [new if old is None else old for old, new in zip(known, row, strict=True)]
            notes.append(f"line {line} repeats {image} of line {first}; kept once")
            line = first
        seen[image] = (line, row)
    if not seen:
        raise LabelError(f"{shown(path)} holds no rows; write one line per image, in {_FORMATS}")
    codes = np.array([[-1 if value is None else value for value in row] for _, row in seen.values()], np.int8)
    labels = from_codes(codes, list(seen), attributes)
    labels.attrs = {"source": str(path), "notes": notes}
    return labels


def write_labels(labels: pd.DataFrame, path: str | Path) -> None:
    """Write a label table in the format that the suffix of `path` names; `read_labels` gives the same table back.

    Raises:
        LabelError: if the table has no cells, or the format cannot hold it (`.txt` has no header and no spaces in names).
    """
    path = resolve(path)
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".parquet", *_SEPARATORS):
        raise LabelError(f"{shown(path)}: unknown label format {suffix!r}; use {_FORMATS}")
    if suffix == ".txt":
        if list(labels.columns) != _numbered(labels.shape[1]):
            raise LabelError(f"{shown(path)}: a .txt label file has no header and would lose the names; write a .csv")
        if spaced := [image for image in labels.index if re.search(r"\s", image)]:
            raise LabelError(f"{shown(path)}: {spaced[0]!r} holds white space; write a .csv or .tsv")
    if labels.empty:
        raise LabelError(f"{shown(path)}: the table has no images or no attributes; there is nothing to write")
    _check_attributes(list(labels.columns), shown(path))
    for image in labels.index:
        if image != (name := _image_name(image, shown(path))):
            raise LabelError(f"{shown(path)}: image name {image!r} would be read back as {name!r}; rename it")
    table = labels.rename_axis("image")
    try:
        with atomic(path) as temporary:
            if suffix == ".parquet":
                table.reset_index().to_parquet(temporary, index=False)
            elif suffix == ".txt":
                table.to_csv(temporary, sep=" ", na_rep="NA", header=False, quoting=csv.QUOTE_NONE, lineterminator="\n")
            else:
                table.to_csv(temporary, sep=_SEPARATORS[suffix], na_rep="NA", lineterminator="\n")
    except UnicodeEncodeError as error:
        raise LabelError(f"{shown(path)}: {error.object!r} cannot be written as UTF-8; rename it") from None


def exclude_images(
    labels: pd.DataFrame, problems: Mapping[str, str], strict: bool = False, folder: str = ""
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take out the rows whose image is missing or broken, and report them.

    Args:
        labels: the label table.
        problems: image -> reason, for those that cannot be used.
        strict: make any problem an error.
        folder: of the images, for the error.

    Returns:
        The usable rows, and a report with the columns image, line and problem.

    Raises:
        LabelError: if `strict` and something is wrong, or if no row is left.
    """
    source = labels.attrs.get("source")
    bad = [image for image in labels.index if image in problems]
    lines = _lines(Path(source)) if bad and source else {}
    report = pd.DataFrame(
        {"image": bad, "line": [lines.get(image, 0) for image in bad], "problem": [problems[image] for image in bad]}
    )
    named = "; ".join(f"line {row.line}: {row.image}: {row.problem}" for row in report.head(5).itertuples())
    named += f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    file = shown(source) if source else "the label table"
    if bad and strict:
        raise LabelError(
            f"{file}: {len(bad)} of {len(labels)} images cannot be used ({named}); mend them, or set strict off"
        )
    if len(bad) == len(labels):
        where = f", {folder}" if folder else ""
        raise LabelError(
            f"{file}: none of its {len(labels)} images can be used ({named}); is the images folder right{where}?"
        )
    kept = labels[~labels.index.isin(bad)]
    kept.attrs = labels.attrs
    return kept, report


def _parse(path: Path) -> tuple[list[str], Iterator[Row]]:
    """Attributes of a label file, and its rows as text."""
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".parquet", *_SEPARATORS):
        raise LabelError(f"{shown(path)}: unknown label format {suffix!r}; use {_FORMATS}")
    if not path.is_file():
        raise LabelError(f"{path}: no such label file; check the path")
    rows = _parquet_rows(path) if suffix == ".parquet" else _text_rows(path, _SEPARATORS.get(suffix))
    first = next(rows, None)
    if first is None:
        raise LabelError(f"{shown(path)} holds no rows; write one line per image, in {_FORMATS}")
    if suffix == ".txt":
        attributes = _numbered(len(first[1]) - 1)
        rows = _chain(first, rows)
    else:
        attributes = [" ".join(cell.split()) for cell in first[1][1:]]
    where = shown(path) if suffix == ".parquet" else f"{shown(path)}, line {first[0]}"
    if not attributes:
        raise LabelError(f"{where}: no attribute found in {first[1]}; write the image, then one value per attribute")
    _check_attributes(attributes, where)
    return attributes, rows


def _check_attributes(names: list[str], where: str) -> None:
    if all(name.lower() in (*_VALUES, "-1", "-1.0") for name in names):
        raise LabelError(f"{where}: this looks like labels, not like a header; add a first line image,attribute,...")
    taken: set[str] = set()
    for name in names:
        if name == "image":  # the first column, whatever it is called in the file
            raise LabelError(
                f"{where}: attribute name 'image' is that of the first column in every table; rename the attribute"
            )
        if not name or name != " ".join(name.split()) or name in taken:
            raise LabelError(f"{where}: attribute name {name!r} is empty, padded or taken; give each column its own name")
        taken.add(name)


def _text_rows(path: Path, separator: str | None) -> Iterator[Row]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise LabelError(f"{shown(path)}, line {line}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise LabelError(f"{shown(path)}: {error.strerror}; check the file") from None
    if separator is None:
        yield from ((n, cells) for n, line in enumerate(io.StringIO(text, newline=None), 1) if (cells := line.split()))
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        yield from ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise LabelError(f"{shown(path)}, line {reader.line_num}: {error}; check its quotes and separators") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        table = pd.read_parquet(path)
        if table.index.names != [None]:
            table = table.reset_index()
        text = table.astype(object).where(table.notna(), "")
    except Exception as error:  # pyarrow raises many kinds for a file that is broken or not Parquet
        reason = " ".join(str(error).split())
        raise LabelError(f"{shown(path)} cannot be read as Parquet ({reason}); write it again, or use .csv") from None
    yield 0, [str(name) for name in table.columns]
    for number, row in enumerate(text.itertuples(index=False), 1):
        yield number, [str(cell) for cell in row]


def _lines(source: Path) -> dict[str, int]:
    """Line of each image's first row, read again: needed only for a report, so not kept in memory."""
    lines: dict[str, int] = {}
    for line, cells in _parse(source)[1]:
        lines.setdefault(_image_name(cells[0], ""), line)
    return lines


def _image_name(cell: str, where: str) -> str:
    name = cell.replace("\ufeff", "").strip()  # joined files carry a byte order mark in the middle
    path = PurePosixPath(name)
    if not name or not path.name:
        raise LabelError(f"{where}: no image name ({cell!r}); the first column is the path inside the images folder")
    if path.is_absolute() or ".." in path.parts or re.search(r"\A[A-Za-z]:|[\\\0\r\n]", name):
        raise LabelError(
            f"{where}: {name!r} must be a path inside the images folder, with / between folders and without .., drive or "
            "line break"
        )
    return str(path)


def _value(cell: str, values: Mapping[str, Any], where: str, attribute: str) -> int | None:
    text = cell.strip().lower()
    if text in values:
        value: int | None = values[text]
        return value
    if text in ("-1", "-1.0"):
        raise LabelError(
            f'{where}, column {attribute}: -1 means "unknown" in some data sets and "no" in others; '
            'say which with minus_one = "unknown" or minus_one = "no"'
        )
    raise LabelError(f"{where}, column {attribute}: {cell.strip()!r} is not 1, 0 or NA; write one of these")


def _numbered(count: int) -> list[str]:
    return [f"Attr{i}" for i in range(1, count + 1)]


def _chain(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest
