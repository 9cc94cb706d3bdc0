"""How long it takes to read a label file of CelebA's size, measured once."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlkit.bench.config import BenchConfig
from mlkit.data.labelfile import read_labels

ROWS, ATTRIBUTES = 202_599, 40  # of CelebA


def parts(config: BenchConfig) -> int:
    """Of how many parts of the file one is read; the whole where there is a minute, or the repeats are asked for."""
    return 1 if config.repeats or config.minutes >= 1 else 4


def label_file(work: Path, config: BenchConfig) -> dict[str, float]:
    """Seconds for the whole file, by `read_labels` and by `pandas.read_csv`; of a part, its seconds times the parts."""
    path = work / "many-labels.csv"
    write_celeba(path, ROWS // parts(config))
    plain = _seconds(lambda: pd.read_csv(path, index_col=0))
    mlkit = _seconds(lambda: read_labels(path, values={"1": "yes", "-1": "no"}))
    return {"plain_labels_s": plain * parts(config), "mlkit_labels_s": mlkit * parts(config)}


def write_celeba(path: Path, rows: int) -> None:
    """A label file of 40 attributes whose values, 1 and -1, are drawn."""
    eight = [",".join("1" if byte >> bit & 1 else "-1" for bit in range(8)) for byte in range(256)]
    drawn = np.random.default_rng(0).integers(256, size=(rows, ATTRIBUTES // 8)).tolist()
    with path.open("w", encoding="ascii", newline="\n") as file:
        print("image", *(f"Attr{i}" for i in range(1, ATTRIBUTES + 1)), sep=",", file=file)
        for i, values in enumerate(drawn, 1):
            print(f"{i:06d}.jpg", *map(eight.__getitem__, values), sep=",", file=file)


def _seconds(read: Callable[[], Any]) -> float:
    started = time.perf_counter()
    read()
    return time.perf_counter() - started
