"""Suggestions: probabilities of unknown cells, in a file of their own; never labels, but a training may learn from them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mlkit.errors import LabelError
from mlkit.files import as_written, make_folder, resolve, shown, write_csv

# cell; yes or no, probability of yes; by the network or the stack of which run, by which guarantee; digest of the image file
COLUMNS = ["image", "attribute", "suggested", "probability", "by", "run", "run_id", "level", "digest"]


def write_suggestions(path: Path, table: pd.DataFrame) -> None:
    """Write suggestions, whole or not at all, in place of those before."""
    make_folder(path.parent)
    write_csv(path, table[COLUMNS], index=False)


def read_suggestions(path: str | Path) -> pd.DataFrame:
    """A file of suggestions.

    Raises:
        LabelError: if there is none, or it is something else.
    """
    file = resolve(path)
    try:
        table = as_written(pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig"))
    except FileNotFoundError:
        raise LabelError(f"{file}: no such file of suggestions; mlkit review suggest RUN makes one") from None
    except (OSError, ValueError) as error:
        raise LabelError(f"{shown(file)}: no file of suggestions ({error})") from None
    if list(table.columns) != COLUMNS:
        raise LabelError(f"{shown(file)}, line 1: no file of suggestions; it must begin with {','.join(COLUMNS)}")
    for name in ("probability", "level"):
        text, table[name] = table[name], pd.to_numeric(table[name], errors="coerce").astype(float)
        if (wrong := ~table[name].between(0, 1).to_numpy()).any():
            line, value = wrong.argmax() + 2, text[wrong].iloc[0]
            raise LabelError(f"{shown(file)}, line {line}, column {name}: {value!r}; it must be a number from 0 to 1")
    return table


def suggested(table: pd.DataFrame, labels: pd.DataFrame, digests: "Mapping[str, str] | pd.Series") -> tuple[np.ndarray, str]:
    """What suggestions say of the unknown cells of a label table.

    Args:
        table: of `read_suggestions`.
        labels: the label table; a cell that is known by now is not suggested any more.
        digests: image -> digest of its file; a suggestion about another picture of the same name does not count.

    Returns:
        Float32 (images, attributes), the probability of yes, NaN where nothing is suggested; and how many there are, for
        people.
    """
    rows, columns = (index.get_indexer(pd.Index(table[name])) for index, name in zip(labels.axes, COLUMNS, strict=False))
    same = [digests.get(image) == digest for image, digest in zip(table.image, table.digest, strict=True)]
    used = (rows >= 0) & (columns >= 0) & np.array(same, bool)
    values = np.full(labels.shape, np.nan, np.float32)
    values[rows[used], columns[used]] = table.probability[used]
    values[labels.notna().to_numpy()] = np.nan
    count = int(np.isfinite(values).sum())
    makers = ", ".join(f"the {row.by} of {row.run}" for row in table[["by", "run"]].drop_duplicates().itertuples())
    left = f", {len(table) - count} left out (known by now, or not of this data)" if count < len(table) else ""
    return values, f"suggestions for {count} unknown cells by {makers or 'nobody'}{left}"
