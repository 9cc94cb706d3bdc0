"""All formats: one row each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mlkit.data.formats.imagesets import is_imagesets, read_imagesets
from mlkit.data.formats.jsonfiles import is_coco, is_labelstudio, read_coco, read_labelstudio, write_labelstudio
from mlkit.data.formats.statements import Options
from mlkit.data.formats.tables import is_celeba, is_long, is_tags, read_celeba, read_long, read_tags
from mlkit.data.labelfile import read_labels, write_labels
from mlkit.data.remote import fetch
from mlkit.errors import LabelError, MlkitError
from mlkit.files import address, locate, resolve, shown


@dataclass(frozen=True)
class Format:
    """A row: how a format is recognised, read and, where that is possible, written."""

    meaning: str
    read: Callable[[Path, Options], pd.DataFrame]
    recognise: Callable[[Path], bool]


def _read_table(path: Path, options: Options) -> pd.DataFrame:
    return read_labels(path, values=options.values, attributes=options.attributes, image_column=options.image_column)


FORMATS = {  # in the order in which a file is asked
    "imagesets": Format("a folder of image names, a file an attribute (Pascal VOC)", read_imagesets, is_imagesets),
    "coco": Format("COCO annotations (JSON)", read_coco, is_coco),
    "labelstudio": Format("an export of Label Studio (JSON, JSON-MIN, CSV)", read_labelstudio, is_labelstudio),
    "celeba": Format("CelebA's list: a count, names, then rows of 1 and -1", read_celeba, is_celeba),
    "long": Format("one label a row (Open Images)", read_long, is_long),
    "tags": Format("tags in one column, lists in Parquet or JSON lines", read_tags, is_tags),
    "table": Format("a label file: a column an attribute", _read_table, lambda path: True),
}


def recognise(path: str | Path) -> str:
    """Name of the format that a file has, by its content. Raises LabelError if it cannot be read at all."""
    path = _there(path)
    with _structure(path, "a label file"):
        return next(name for name, one in FORMATS.items() if one.recognise(path))


@contextmanager
def _structure(path: str | Path, what: str) -> Iterator[None]:
    """Within: what a file does not have where its format has something is said of the file."""
    try:
        yield
    except MlkitError:
        raise
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OSError,
        NotImplementedError,
        RecursionError,
    ) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise LabelError(f"{shown(path)} is not built as {what} is ({reason}); export it again, or see --from") from None


def read_other(path: str | Path, options: Options, format: str = "") -> pd.DataFrame:
    """The label table of a file in any of `FORMATS`; empty: the one that is recognised.

    Raises:
        LabelError: naming the file and what is wrong, or the question that the person must answer.
    """
    known = FORMATS[format or recognise(path)]
    with _structure(path, known.meaning):
        return known.read(_there(path), options)


def write_other(labels: pd.DataFrame, path: str | Path, prefix: str = "") -> None:
    """Write a label table by the suffix of `path`: .json for Label Studio, else a label file. NA survives both ways."""
    path = resolve(path)
    if path.suffix.lower() == ".json":
        write_labelstudio(labels, path, prefix)
    else:
        write_labels(labels, path)


def _there(path: str | Path) -> Path:
    path = locate(path)
    if not fetch(path) and (address(path) or not path.exists()):
        raise LabelError(f"{shown(path)}: no such file; check the path")
    return path
