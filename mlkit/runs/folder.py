"""A folder of results, with a record of the files that mlkit wrote in it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mlkit.errors import RunError
from mlkit.files import as_written, make_folder, read_json, shown, unlink_link, write_csv, write_json
from mlkit.runs.table import COLUMNS, NUMBERS, VALUES

# A number that is read and written again has the same digits; newer pandas does so by itself, and warns of the option.
_EXACT: dict[str, Any] = {"float_precision": "round_trip"} if pd.__version__ < "3.1" else {}
RECORD = ".written"  # names of the files that mlkit wrote, one a line


@dataclass(frozen=True)
class Folder:
    """A folder for tables, figures and plain values."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def __truediv__(self, file: str) -> Path:
        """Path of a file in it."""
        return self.path / file

    def __str__(self) -> str:
        return shown(self.path)

    def read_json(self, file: str) -> dict[str, Any]:
        """The values in a JSON file. Raises RunError if it is not there, or some are of other types, see `VALUES`."""
        path = self.existing(file)
        values, kinds = read_json(path), VALUES.get(file, {})
        for name in kinds.keys() & values.keys():
            if not isinstance(values[name], kinds[name]) or (name in NUMBERS and not _are_numbers(values[name])):
                raise RunError(
                    f"{path} is damaged ({name} is {str(values[name])[:40]}); train the run again, with --overwrite"
                )
        return values

    def read_table(self, file: str) -> pd.DataFrame:
        """What a CSV file holds. Raises RunError if it is not there, cut, or lacks columns that it has, see `COLUMNS`."""
        # names stay as they were written: an attribute may be called "null", an image "0001"
        names: dict[str, type] = {"image": str, "attribute": str}
        columns = COLUMNS.get(file, {})
        path = self.existing(file)
        try:
            with open(path, "rb") as content:
                content.seek(max(0, content.seek(0, os.SEEK_END) - 1))
                if content.read() not in (b"\n", b""):
                    raise ValueError("its last line is cut")
            kinds: Any = names | columns
            table: pd.DataFrame = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=[""], **_EXACT)
            if lacking := [name for name in columns if name not in table]:
                raise ValueError(f"no column {lacking[0]}")
        except ValueError as error:  # pandas' parser errors are such
            raise RunError(f"{path} is damaged ({error}); train the run again, with --overwrite") from None
        return as_written(table)

    def new(self, file: str) -> Path:
        """Path of a file that is written now; its name goes on record as one of mlkit's own, see `record`."""
        if file not in self.record():
            make_folder(self.path)
            unlink_link(self.path / RECORD)
            with open(self.path / RECORD, "a", encoding="utf-8") as record:
                record.write(f"{file}\n")  # appended in one piece: several processes may write files at once
        return self.path / file

    def write_json(self, file: str, values: Mapping[str, Any]) -> None:
        """Write named values as JSON, whole or not at all."""
        write_json(self.new(file), values)

    def write_table(self, file: str, table: pd.DataFrame) -> None:
        """Write a table as CSV, without its index, whole or not at all."""
        write_csv(self.new(file), table, index=False)

    def record(self) -> list[str]:
        """Names of the files that mlkit wrote here."""
        record = self.path / RECORD
        return record.read_text(encoding="utf-8", errors="replace").splitlines() if record.exists() else []

    def existing(self, file: str) -> Path:
        """Path of a file that is there. Raises RunError if it is not."""
        if not (self / file).is_file():
            raise RunError(f"{shown(self / file)} is missing")
        return self / file


def _are_numbers(value: Any) -> bool:
    """Whether a mapping, or what is in it, holds numbers, None for NaN, and nothing else."""
    if isinstance(value, dict):
        return all(map(_are_numbers, value.values()))
    return value is None or isinstance(value, int | float)
