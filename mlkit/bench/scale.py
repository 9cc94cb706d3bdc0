"""How time and memory grow with the images: each piece at each size, in a process of its own, on generated data.

40 attributes, of which 0.5 to 60 % of the images have each; 30 % of the cells are unknown. The pictures are tiny, 1,000
different ones under as many names as there are images. The run that is read and evaluated has predictions of all images,
which judge it, and of a tenth as many for validation; it was not trained and has no images.
"""

import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mlkit.bench.footprint import in_own_process, own_peak_mb
from mlkit.data.fingerprints import FINGERPRINT, near_duplicates
from mlkit.data.labelfile import read_labels, write_labels
from mlkit.data.labels import from_codes
from mlkit.data.split import split_images
from mlkit.evaluation import calibration, intervals, metrics
from mlkit.evaluation.calibration import sigmoid
from mlkit.evaluation.predictions import Predictions
from mlkit.evaluation.thresholds import choose_thresholds
from mlkit.progress import bar
from mlkit.runs import Run
from mlkit.training.finish import Outputs, TrainedModel, finish_run

ROWS = (2_000, 20_000, 200_000)
ATTRIBUTES, UNKNOWN, PICTURES = 40, 0.3, 1000
_DATA = "data"  # what is made first, and not measured
_NAMES = [f"attribute{i:02d}" for i in range(ATTRIBUTES)]
_PREVALENCE = np.geomspace(0.005, 0.6, ATTRIBUTES)
_PROGRAM = "import sys; from mlkit.bench import scale; print(scale.run_piece(*sys.argv[1:]))"
_NOISE = 0.02  # of what the smallest size takes
_LONGER = 1.5  # than in proportion to the rows: what is allowed for when the time is short
Piece = Callable[[Path], Callable[[], object]]  # reads its data below a folder, gives what is measured


def measure_scale(work: Path, rows: Sequence[int] = ROWS, minutes: float = math.inf) -> pd.DataFrame:
    """CPU seconds and peak memory of every piece at every size, the small ones first.

    Args:
        work: an empty folder.
        rows: numbers of images, ascending.
        minutes: what would take longer than what is left of these is left out.

    Returns:
        Index piece; columns (seconds, rows), (MB, rows), NaN where left out; and, of three sizes or more, (growth, seconds)
        and (growth, MB), see `growth`.

    Raises:
        FailureError: if a piece fails.
    """
    end = time.monotonic() + 60 * minutes
    columns = pd.MultiIndex.from_product([["seconds", "MB"], rows])
    found = pd.DataFrame(math.nan, pd.Index(PIECES, name="piece"), columns)
    took: dict[str, float] = {}
    for before, count in itertools.pairwise([rows[0], *rows]):
        (folder := work / str(count)).mkdir(parents=True)
        for piece in bar([_DATA, *PIECES], desc=f"{count:,} images", unit="piece"):
            started = time.monotonic()
            if started + _LONGER * took.get(piece, 0) * count / before > end:
                took[piece] = math.inf
            if math.isinf(took.get(piece, 0) + took.get(_DATA, 0)):
                continue
            printed = in_own_process(["-c", _PROGRAM, piece, str(folder), str(count)], folder)
            took[piece] = time.monotonic() - started
            if piece != _DATA:
                found.loc[piece, [("seconds", count), ("MB", count)]] = json.loads(printed.splitlines()[-1])
    grown = {("growth", what): growth(pd.DataFrame(found[what])) for what in ("seconds", "MB") if len(rows) > 2}
    return pd.concat([found, pd.DataFrame(grown, found.index)], axis=1)


def growth(measured: pd.DataFrame) -> pd.Series:
    """Power of the rows by which what is measured grows between the two largest sizes, over what the smallest takes.

    1 is linear, whatever an import or the start of a kernel takes. Where the middle size takes hardly more than the
    smallest, it is that at least; NaN where the largest does.

    Args:
        measured: by piece (rows) and number of images (columns, ascending, at least three).
    """
    rows, values = measured.columns.to_numpy(np.float64)[[0, -2, -1]], measured.to_numpy(np.float64)
    more, most = (values[:, [-2, -1]] - values[:, [0]]).T
    noise = _NOISE * values[:, 0]
    power = np.log(np.where(most > noise, most, np.nan) / np.maximum(more, noise))
    return pd.Series(power / math.log((rows[2] - rows[0]) / (rows[1] - rows[0])), measured.index)


def readable(found: pd.DataFrame) -> str:
    """What `measure_scale` found, for the eye."""
    digits = {"seconds": 2, "MB": 0, "growth": 2}
    text = {column: found[column].map(f"{{:,.{digits[column[0]]}f}}".format) for column in found.columns.tolist()}
    return pd.DataFrame(text).rename_axis(None).replace("nan", "-").to_string()


def run_piece(piece: str, folder: str, count: str) -> str:
    """CPU seconds of a piece (its data read, large packages imported before), its process's peak memory in MB; as JSON."""
    import iterstrat.ml_stratifiers  # noqa: F401
    import sklearn.metrics  # noqa: F401

    if piece == _DATA:
        _make_data(Path(folder), int(count))
        return ""
    work = PIECES[piece](Path(folder))
    started = sum(os.times()[:4])
    work()
    return json.dumps([sum(os.times()[:4]) - started, max(own_peak_mb(), _peak_of_children())])


def _peak_of_children() -> float:
    """In MB; 0 where the system does not tell."""
    if os.name != "posix":
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _make_data(folder: Path, count: int) -> None:
    """What the pieces read."""
    rng = np.random.default_rng(0)
    logits = np.log(_PREVALENCE / (1 - _PREVALENCE)) + rng.normal(size=(count, 1)) + rng.normal(size=(count, ATTRIBUTES))
    codes = (rng.random(logits.shape) < sigmoid(logits)).astype(np.int8)
    codes[rng.random(codes.shape) < UNKNOWN] = -1
    np.save(folder / "codes.npy", codes)
    np.save(folder / "logits.npy", logits)
    write_labels(_labels(folder), folder / "labels.csv")
    prints = rng.integers(256, size=(count, FINGERPRINT), dtype=np.uint8)
    copies, originals = rng.integers(count, size=(2, count // 20))
    prints[copies] = prints[originals] ^ np.eye(1, FINGERPRINT, dtype=np.uint8)  # all but for a bit
    np.save(folder / "prints.npy", prints)
    (folder / "images").mkdir()
    for i, name in enumerate(names := _images(count)):
        if i < PICTURES:
            Image.fromarray(rng.integers(256, size=(4, 4, 3), dtype=np.uint8)).save(folder / "images" / name)
        else:
            os.link(folder / "images" / names[i % PICTURES], folder / "images" / name)
    Run.create("scale", {"images": str(folder / "nowhere"), "labels": ""}, "generated")
    _end_of_training(folder)()


def _images(count: int) -> list[str]:
    return [f"{i:07d}.png" for i in range(count)]


def _labels(folder: Path) -> pd.DataFrame:
    codes = np.load(folder / "codes.npy")
    return from_codes(codes, _images(len(codes)), _NAMES)


def _split(folder: Path) -> Callable[[], object]:
    return partial(split_images, _labels(folder), test=0.2)


def _end_of_training(folder: Path) -> Callable[[], object]:
    logits, codes = np.load(folder / "logits.npy"), np.load(folder / "codes.npy")
    test = Outputs(pd.Index(_images(len(codes))), logits, codes)
    tenth = len(codes) // 10
    validation = Outputs(test.images[:tenth] + ".again", logits[:tenth], codes[:tenth])
    meta = {"attributes": _NAMES, "calibration": calibration.from_pos_weight(_NAMES).to_dict()}
    model = TrainedModel(torch.nn.Linear(1, 1), meta, _PREVALENCE, 1.0)
    return partial(finish_run, Run.open("scale"), model, {"validation": validation, "test": test}, "f1", {}, NotImplemented)


def _predicted(function: Callable[..., object], **more: object) -> Piece:
    """A piece that takes predictions."""

    def prepare(folder: Path) -> Callable[[], object]:
        return partial(function, sigmoid(np.load(folder / "logits.npy")), np.load(folder / "codes.npy"), _NAMES, **more)

    return prepare


def _paired_difference(probabilities: np.ndarray, targets: np.ndarray, attributes: list[str]) -> object:
    return intervals.compare(probabilities, np.sqrt(probabilities), targets, attributes)


def _notebook(name: str, **parameters: object) -> Piece:
    """A piece that is a notebook, the start of its kernel included."""

    def prepare(folder: Path) -> Callable[[], object]:
        from mlkit.notebooks import execute

        run = Run(folder / "outputs" / "notebooks")
        given = {key: value.format(folder) if isinstance(value, str) else value for key, value in parameters.items()}
        return partial(execute, name, run, given, silent=True)

    return prepare


PIECES: dict[str, Piece] = {
    "labels.csv, read": lambda folder: partial(read_labels, folder / "labels.csv"),
    "split in three": _split,
    "near duplicates, found": lambda folder: partial(near_duplicates, np.load(folder / "prints.npy")),
    "calibration": lambda folder: partial(
        calibration.fit, np.load(folder / "logits.npy"), np.load(folder / "codes.npy"), _NAMES
    ),
    "thresholds": _predicted(choose_thresholds),
    "figures": _predicted(metrics.evaluate, training_prevalence=_PREVALENCE),
    "intervals (jackknife)": _predicted(intervals.jackknife),
    "paired difference of two runs": _predicted(_paired_difference),
    "100 random rankings": _predicted(intervals.above_chance, permutations=100),
    "end of a training": _end_of_training,
    "predictions.csv, read": lambda folder: partial(Predictions.read, Run.open("scale")),
    "notebook 01": _notebook(
        "01_explore_label_imbalance", images="{}/images", labels="{}/labels.csv", recipe="", settings={"image_size": 32}
    ),
    "notebook 05, 100 random rankings": _notebook("05_evaluate", run="scale", more_views="", permutations=100),
}
