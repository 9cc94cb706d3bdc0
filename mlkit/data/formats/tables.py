"""Tables that are no label file: tags in one column, one label a row, lists in Parquet, CelebA's list."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from mlkit.data.columns import find_image_column, is_chosen, plain
from mlkit.data.formats.lists import is_of_tags, json_lists, list_column, parquet_lists
from mlkit.data.formats.statements import Options, Statements, say_all
from mlkit.data.labels import from_codes
from mlkit.data.tablefile import SUFFIXES, TableFile
from mlkit.data.values import code_of_values, normal, wanted
from mlkit.errors import LabelError, nearest
from mlkit.files import shown

_VALUES = ("confidence", "value", "present")
_SEPARATORS = ("|", ";", ",")


def read_tags(path: Path, options: Options) -> pd.DataFrame:
    """Tags in one column: `haze primary`, `a|b`, `a;b`, JSON lists; lists in Parquet and JSON lines."""
    statements = Statements(shown(path), options, present_only=True)
    read = {".parquet": parquet_lists, ".jsonl": json_lists}.get(path.suffix.lower(), _cells)
    return say_all(statements, read(path, options))


def read_long(path: Path, options: Options) -> pd.DataFrame:
    """One label a row: image, label and, as in Open Images, whether it is there (Confidence 1 or 0)."""
    file = TableFile(path)
    image, label = _two(file, options)
    value = next((i for i, name in enumerate(file.header) if plain(name) in _VALUES), None)
    statements = Statements(shown(path), options, present_only=value is None)
    codes = code_of_values(options.values)
    for line, row in file:
        if len(row) != len(file.header):
            raise LabelError(f"{file.where(line)}: {len(row)} cells where the header has {len(file.header)}")
        code = 1 if value is None else codes.get(normal(row[value]))
        if code is None:
            assert value is not None
            where = f"{file.where(line)}, column {file.header[value]}"
            raise LabelError(f"{where}: {row[value]!r} is not {wanted(options.values)}; say what it means with values")
        statements.image(row[image].strip())
        statements.say(row[image].strip(), row[label].strip(), code)
    return statements.table()


def read_celeba(path: Path, options: Options) -> pd.DataFrame:
    """CelebA's list_attr: a line with the count of images, one with the names, then rows of 1 and -1 (no)."""
    file = TableFile(path)
    rows = iter(file)
    (_, (count, *_)), (_, names) = next(rows), next(rows)
    codes = code_of_values(options.values or {"1": "yes", "-1": "no"})
    images, cells = [], []
    for line, (image, *values) in rows:
        if len(values) != len(names):
            raise LabelError(f"{file.where(line)}: {len(values)} values where line 2 names {len(names)} attributes")
        if bad := next((value for value in values if normal(value) not in codes), None):
            raise LabelError(f"{file.where(line)}: {bad!r} is not {wanted(options.values or {'1': 'yes', '-1': 'no'})}")
        images.append(image)
        cells.append([codes[normal(value)] for value in values])
    if len(images) != int(count):
        raise LabelError(f"{shown(path)}: line 1 says {count} images, {len(images)} follow; is the file whole?")
    if len(set(images)) < len(images):
        raise LabelError(f"{shown(path)}: {Counter(images).most_common(1)[0][0]} has several rows; keep one")
    table = from_codes(np.array(cells), images, names)
    return table[[name for name in names if is_chosen(name, options.attributes)]]


def is_celeba(path: Path) -> bool:
    """A .txt of a count, then names without a first cell of their own."""
    if path.suffix.lower() != ".txt":
        return False
    start = [cells for _, (_, cells) in zip(range(3), TableFile(path), strict=False)]
    return len(start) == 3 and len(start[0]) == 1 and start[0][0].isdecimal() and len(start[1]) == len(start[2]) - 1


def is_long(path: Path) -> bool:
    """Two columns, or those of Open Images, whose rows repeat images."""
    if path.suffix.lower() not in SUFFIXES[1:]:
        return False
    if path.suffix.lower() == ".parquet" and list_column(path):  # may hold the images: not read whole for a look
        return False
    file = TableFile(path)
    named = {plain(name) for name in file.header}
    if not ({"labelname"} & named or (len(file.header) <= 3 and any(map(is_of_tags, file.header)))):
        return False
    image, label = _two(file, Options())
    rows = [row for _, (_, row) in zip(range(1000), file, strict=False)]
    words = [row[label] for row in rows if len(row) > label]
    return "labelname" in named or (
        len({row[image] for row in rows}) < len(rows) and not any(re.search(r"[|;,\s\[]", word.strip()) for word in words)
    )


def is_tags(path: Path) -> bool:
    """A column of lists, or one column beside the image's whose cells are no values."""
    if path.suffix.lower() == ".jsonl":
        return True
    if path.suffix.lower() not in SUFFIXES[1:]:
        return False
    if path.suffix.lower() == ".parquet":
        return list_column(path) is not None
    file = TableFile(path)
    named = [name for name in file.header if is_of_tags(name)]
    rows = [row for _, (_, row) in zip(range(100), file, strict=False) if len(row) == len(file.header)]
    codes = {*code_of_values({}), "-1"}
    return bool(named) and any(normal(row[file.header.index(named[0])]) not in codes for row in rows)


def _two(file: TableFile, options: Options) -> tuple[int, int]:
    """Positions of the columns of image and label."""
    _, first = next(iter(file), (0, []))
    image = find_image_column(file.header, first, {}, options.image_column, 0, file.where(file.line))
    if options.column:
        if options.column not in file.header:
            raise LabelError(
                f"{file.where(file.line)}: no column is called {options.column!r}{nearest(options.column, file.header)}"
            )
        return image, file.header.index(options.column)
    found = [i for i, name in enumerate(file.header) if is_of_tags(name) and i != image]
    others = [i for i in range(len(file.header)) if i != image]
    if not found and len(others) != 1:
        raise LabelError(f"{file.where(file.line)}: which of {file.header} holds the labels? Say it with --column")
    return image, (found or others)[0]


def _cells(path: Path, options: Options) -> Iterator[tuple[str, list[str]]]:
    file = TableFile(path)
    image, column = _two(file, options)
    rows = []
    for line, row in file:
        if len(row) != len(file.header):
            raise LabelError(
                f"{file.where(line)}: {len(row)} cells where the header has {len(file.header)}; tags with the file's own "
                "separator between them need quotes around them"
            )
        rows.append((line, row[image].strip(), row[column].strip()))
    mark = options.separator or next((mark for mark in _SEPARATORS if any(mark in cell for *_, cell in rows)), None)
    for line, name, cell in rows:
        if cell.startswith("["):
            try:
                tags = json.loads(cell.replace("'", '"') if '"' not in cell else cell)  # a list as Python prints it, too
            except ValueError:
                raise LabelError(f"{file.where(line)}: {cell!r} begins like a list and is none") from None
        else:
            tags = cell.split(mark)
        yield name, [str(tag).strip() for tag in tags if str(tag).strip()]
