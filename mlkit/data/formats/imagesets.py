"""One file of image names an attribute, as in Pascal VOC's ImageSets."""

from pathlib import Path

import pandas as pd

from mlkit.data.formats.statements import Options, Statements
from mlkit.data.tablefile import TableFile
from mlkit.data.values import code_of_values, normal, wanted
from mlkit.errors import LabelError
from mlkit.files import shown

_SPLITS = ("trainval", "train", "val", "test")
_VOC = {"1": "yes", "-1": "no", "0": "NA"}  # 0: difficult, left out of VOC's own evaluation


def read_imagesets(folder: Path, options: Options) -> pd.DataFrame:
    """A folder of `dog_train.txt`, `cat_train.txt` ...: rows `image 1`, `image -1` (no), `image 0` (difficult), or names.

    Files of one attribute (train, val) are put together; a file that is called like a split (`train.txt`) adds its images.
    """
    files = {file: [(line, cells) for line, cells in TableFile(file) if cells] for file in sorted(folder.glob("*.txt"))}
    present_only = not any(len(cells) > 1 for rows in files.values() for _, cells in rows)
    statements = Statements(shown(folder), options, present_only)
    values = options.values or _VOC
    codes = code_of_values(values)
    for file, rows in files.items():
        attribute = _attribute(file)
        for line, cells in rows:
            where = f"{shown(file)}, line {line}"
            if len(cells) > 2:
                raise LabelError(f"{where}: {len(cells)} cells where an image and perhaps a value are expected")
            if attribute and len(cells) == 2:
                if normal(cells[1]) not in codes:
                    raise LabelError(f"{where}: {cells[1]!r} is not {wanted(values)}; say what it means with values")
                statements.say(cells[0], attribute, codes[normal(cells[1])])
            elif attribute and present_only:
                statements.say(cells[0], attribute)
            statements.image(cells[0])
    return statements.table()


def is_imagesets(path: Path) -> bool:
    """A folder with text files in it."""
    return path.is_dir() and any(path.glob("*.txt"))


def _attribute(file: Path) -> str:
    """Attribute of a file by its name; empty for the list of a split."""
    if file.stem in _SPLITS:
        return ""
    stem, _, split = file.stem.rpartition("_")
    return stem if stem and split in _SPLITS else file.stem
