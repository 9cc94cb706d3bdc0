"""A grid of cells, each computed once: after an interruption, in a grid that grew, or beside other processes.

outputs/<name>/
    <kind>.json       what was asked for, and of which data
    cells/*.json      one finished cell each, named by the digest of all that decides its result
    cells/*.lock      claims; the operating system drops that of a process which dies
    results.csv       the finished cells as one table
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from mlkit.errors import ClaimError, ParameterError, RunError, nearest
from mlkit.fanout import Piece, open_cluster, run_pieces
from mlkit.files import make_folder, read_json, shown, write_csv, write_json
from mlkit.progress import bar, say
from mlkit.runs import Claim, named_folder
from mlkit.training.config import TrainConfig

Cell = TypeVar("Cell")
_WAIT_SECONDS = 0.5  # between looks at cells that another process works on
_WRITE_SECONDS = 5.0  # between tables of what is finished so far


def open_grid(name: str, kind: str, asked: Mapping[str, Any]) -> Path:
    """The folder `outputs/<name>` of a grid, made where it is not there yet; `<kind>.json` in it says what was asked for.

    Raises:
        RunError: if the folder holds something else.
    """
    folder = named_folder(name)
    if folder.exists() and any(folder.iterdir()) and not (folder / f"{kind}.json").exists():
        raise RunError(f"{shown(folder)} holds something that is no {kind}; choose another name")
    make_folder(folder / "cells")
    write_json(folder / f"{kind}.json", asked)
    return folder


def check_judge(config: TrainConfig) -> None:
    """Raise ParameterError if there are no test images, on which the full truth judges."""
    if not 0 < config.test_fraction < 1 - config.validation_fraction:
        raise ParameterError(
            f"test_fraction is {config.test_fraction}; the truth judges on the test images: give a share above 0"
        )


def check_lists(settings: Any, known: Mapping[str, Collection[str] | None]) -> None:
    """Check the lists that a grid is made of: each with a value at least, none twice, and names that there are.

    Args:
        settings: whose attributes they are.
        known: name of a list -> the names that may be in it; None: values of another kind.

    Raises:
        ParameterError: naming the first list that is wrong.
    """
    for name, names in known.items():
        values = getattr(settings, name)
        if names is not None and (bad := [value for value in values if value not in names]):
            raise ParameterError(f"{name}: there is no {bad[0]!r}{nearest(str(bad[0]), names)}")
        if not values or len(set(values)) < len(values):
            raise ParameterError(f"{name} is {values}; give at least one value, and each once")


def digest(*parts: Any) -> str:
    """Name of a cell, from all that decides its result."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()


def compute_grid(
    folder: Path,
    names: Mapping[Cell, str],
    compute: Callable[[Cell, Path], dict[str, Any]],
    table: Callable[[list[dict[str, Any]]], pd.DataFrame],
    describe: Callable[[dict[str, Any]], str],
    unit: str,
    dask: str = "",
) -> pd.DataFrame:
    """Compute the cells that are not finished yet, and return the table of all.

    Several processes may work on one grid: each takes a cell that nobody works on, and returns when all are finished.

    Args:
        folder: of `open_grid`.
        names: cell -> its `digest`.
        compute: what makes the content of a cell's file, of the cell and a path for its own files; pickled for `dask`.
        table: of such contents, in the order of the cells, what is written to results.csv.
        describe: what is said of such a content, in a few words.
        unit: what a cell is called.
        dask: who computes the cells, see `open_cluster`.
    """
    files = {cell: folder / "cells" / f"{name}.json" for cell, name in names.items()}
    contents: dict[Path, dict[str, Any]] = {}

    def finished() -> pd.DataFrame:
        there = [file for file in files.values() if file in contents or file.exists()]
        contents.update({file: read_json(file) for file in there if file not in contents})
        result = table([contents[file] for file in there])
        write_csv(folder / "results.csv", result, index=False)
        return result

    pending = [cell for cell, file in files.items() if not file.exists()]
    say(f"{len(files)} {unit}s, of which {len(files) - len(pending)} are finished already; results in {shown(folder)}")
    if not pending:
        return finished()
    with open_cluster(dask) as client, bar(total=len(pending), desc=folder.name, unit=unit, smoothing=0.1) as progress:
        started, written, total = time.monotonic(), -math.inf, len(pending)
        while pending:
            pieces = [Piece(str(cell), (cell, files[cell])) for cell in pending]
            for piece in run_pieces(client, partial(_compute, compute), pieces):
                cell, file = piece.arguments
                if not file.exists():
                    continue  # another process works on it
                if time.monotonic() > written + _WRITE_SECONDS:
                    finished()
                    written = time.monotonic()
                pending.remove(cell)
                progress.update()
                left = sum(not file.exists() for file in files.values())  # others finish some, too
                minutes = (time.monotonic() - started) / (total - left) * left / 60
                say(f"{cell}: {describe(read_json(file))}; {left} left, about {minutes:.0f} min")
            pending = [cell for cell in pending if not files[cell].exists()]
            time.sleep(_WAIT_SECONDS if pending else 0)
    return finished()


def _compute(compute: Callable[[Cell, Path], dict[str, Any]], cell: Cell, file: Path) -> None:
    """Compute a cell into its file, unless it is there, or another process works on it."""
    with suppress(ClaimError), Claim(file.with_suffix(".lock"), str(cell)):
        if not file.exists():
            write_json(file, compute(cell, file.with_suffix("")))
