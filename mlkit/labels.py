"""Label files: read, check, write; what is in them, counted.

In memory a label table is a DataFrame: index `image` (path relative to the images folder), one nullable Int8 column per
attribute, `<NA>` where nobody knows. `attrs["source"]` names the file, `attrs["notes"]` lists what the reader tidied up.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

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
                    raise LabelError(f"{where}, column {name}: {image} is {new} here and {old} on line {first}; keep one")
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
        LabelError: if the format cannot hold the table (`.txt` has no header and no spaces in names).
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
    with atomic(path) as temporary:
        if suffix == ".parquet":
            labels.rename_axis("image").reset_index().to_parquet(temporary, index=False)
        else:
            separator = _SEPARATORS.get(suffix, " ")
            labels.rename_axis("image").to_csv(temporary, sep=separator, na_rep="NA", header=suffix != ".txt")


def to_codes(labels: pd.DataFrame) -> np.ndarray:
    """Label table as an int8 array (images, attributes) of 1, 0 and -1 for unknown."""
    return labels.to_numpy(dtype=np.int8, na_value=-1)


def from_codes(codes: np.ndarray, images: Iterable[str], attributes: Iterable[str]) -> pd.DataFrame:
    """Label table from an array (images, attributes) of 1, 0 and -1 for unknown; the inverse of `to_codes`."""
    codes = np.asarray(codes, np.int8)
    names = list(attributes)
    columns = [pd.arrays.IntegerArray(np.where(c < 0, np.int8(0), c), c < 0) for c in codes.T]
    index = pd.Index(list(images), name="image", dtype=object)
    table = pd.DataFrame(dict(enumerate(columns)), index=index)
    return table.set_axis(names, axis=1)


def exclude_images(
    labels: pd.DataFrame, problems: Mapping[str, str], strict: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take out the rows whose image is missing or broken, and report them.

    Args:
        labels: the label table.
        problems: image -> reason, for those that cannot be used.
        strict: make any problem an error.

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
        raise LabelError(f"{file}: {len(bad)} of {len(labels)} images cannot be used ({named}); mend them, or strict off")
    if len(bad) == len(labels):
        raise LabelError(f"{file}: none of its {len(labels)} images can be used ({named}); is the images folder right?")
    kept = labels[~labels.index.isin(bad)]
    kept.attrs = labels.attrs
    return kept, report


def captions(labels: pd.DataFrame) -> list[str]:
    """One line per image: the attributes that it has, then those unknown with a question mark."""
    names = np.array(labels.columns, dtype=object)
    return [", ".join([*names[row == 1], *(f"{name}?" for name in names[row < 0])]) or "none" for row in to_codes(labels)]


def label_counts(labels: pd.DataFrame) -> pd.DataFrame:
    """Per attribute: positives, negatives, unknown, prevalence (positives among known), imbalance (majority / minority).

    Prevalence and imbalance are NaN where they are undefined: nothing known, or one class absent.
    """
    codes = to_codes(labels)
    positives, negatives, unknown = (codes == 1).sum(0), (codes == 0).sum(0), (codes < 0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        minority = np.minimum(positives, negatives).astype(float)
        imbalance = np.maximum(positives, negatives) / np.where(minority > 0, minority, np.nan)
        prevalence = positives / np.where(positives + negatives > 0, positives + negatives, np.nan)
    return pd.DataFrame(
        {
            "positives": positives,
            "negatives": negatives,
            "unknown": unknown,
            "prevalence": prevalence,
            "imbalance": imbalance,
        },
        index=pd.Index(labels.columns, name="attribute"),
    )


def cooccurrence(labels: pd.DataFrame) -> pd.DataFrame:
    """P(column = 1 | row = 1) over the images that know both, shape (attributes, attributes); NaN where there are none."""
    codes = to_codes(labels)
    positive, known = (codes == 1).astype(float), (codes >= 0).astype(float)
    both, base = positive.T @ positive, positive.T @ known
    share = np.divide(both, base, out=np.full_like(both, np.nan), where=base > 0)
    return pd.DataFrame(share, index=labels.columns, columns=labels.columns)


def na_patterns(labels: pd.DataFrame) -> pd.DataFrame:
    """Which attributes are unknown together: one row per pattern (True = unknown), most frequent first, with `images`."""
    unknown = labels.isna()
    patterns, counts = np.unique(unknown.to_numpy(), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    table = pd.DataFrame(patterns[order], columns=labels.columns)
    return table.set_index(pd.Index(counts[order], name="images"))


def pos_weight(labels: pd.DataFrame, cap: float = 100.0) -> pd.Series:
    """Weight of a positive cell per attribute: negatives / positives among the known cells, at most `cap`.

    An attribute without known positives or without known negatives gets 1: with one class only there is no balance to
    restore, and the ratio would be infinite or zero.
    """
    counts = label_counts(labels)
    both = (counts.positives > 0) & (counts.negatives > 0)
    ratio = (counts.negatives / counts.positives.where(counts.positives > 0)).where(both, 1.0)
    return ratio.clip(upper=cap).rename("pos_weight")


def _parse(path: Path) -> tuple[list[str], Iterator[Row]]:
    """Attributes of a label file, and its rows as text."""
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".parquet", *_SEPARATORS):
        raise LabelError(f"{shown(path)}: unknown label format {suffix!r}; use {_FORMATS}")
    if not path.is_file():
        raise LabelError(f"{shown(path)}: no such label file; check the path")
    rows = _parquet_rows(path) if suffix == ".parquet" else _text_rows(path, _SEPARATORS.get(suffix))
    first = next(rows, None)
    if first is None:
        raise LabelError(f"{shown(path)} holds no rows; write one line per image, in {_FORMATS}")
    if suffix == ".txt":
        attributes = _numbered(len(first[1]) - 1)
        rows = _chain(first, rows)
    else:
        attributes = [cell.strip() for cell in first[1][1:]]
    where = f"{shown(path)}, line {first[0]}"
    if not attributes:
        raise LabelError(f"{where}: no attribute found in {first[1]}; write the image, then one value per attribute")
    if suffix != ".txt" and all(name.lower() in (*_VALUES, "-1") for name in attributes):
        raise LabelError(f"{where}: this looks like labels, not like a header; add a first line image,attribute,...")
    if odd := [name for i, name in enumerate(attributes) if not name or name in attributes[:i]]:
        raise LabelError(f"{where}: attribute name {odd[0]!r} is empty or appears twice; give each column its own name")
    return attributes, rows


def _text_rows(path: Path, separator: str | None) -> Iterator[Row]:
    try:
        with open(path, encoding="utf-8-sig", newline="" if separator else None) as file:
            if separator is None:
                lines: Iterator[Row] = ((n, line.split()) for n, line in enumerate(file, 1))
            else:
                reader = csv.reader(file, delimiter=separator, strict=True)
                lines = ((reader.line_num, row) for row in reader)
            yield from ((n, cells) for n, cells in lines if any(cell.strip() for cell in cells))
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{shown(path)} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise LabelError(f"{shown(path)}, line {reader.line_num}: {error}; check its quotes and separators") from None
    except OSError as error:
        raise LabelError(f"{shown(path)}: {error.strerror}; check the file") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds for a file that is not Parquet
        raise LabelError(f"{shown(path)} cannot be read as Parquet ({error}); write it again, or use .csv") from None
    if table.index.name:
        table = table.reset_index()
    yield 0, [str(name) for name in table.columns]
    text = table.astype(object).where(table.notna(), "")
    for number, row in enumerate(text.itertuples(index=False), 1):
        yield number, [str(cell) for cell in row]


def _lines(source: Path) -> dict[str, int]:
    """Line of each image's first row, read again: needed only for a report, so not kept in memory."""
    lines: dict[str, int] = {}
    for line, cells in _parse(source)[1]:
        lines.setdefault(str(PurePosixPath(cells[0].strip())), line)
    return lines


def _image_name(cell: str, where: str) -> str:
    name = cell.strip()
    path = PurePosixPath(name)
    if not name or not path.name or "\0" in name:
        raise LabelError(f"{where}: no image name ({cell!r}); the first column is the path inside the images folder")
    if path.is_absolute() or ".." in path.parts or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise LabelError(f"{where}: {name!r} must be a path inside the images folder, with / and without ..")
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
