"""Prediction of a folder by every door, in turns on the same photos: the plain loop, mlkit, and what `mlkit export` left."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mlkit.bench.load import doubts, moment, summarise
from mlkit.bench.plainloop import PlainImages, plain_loader, plain_predict
from mlkit.data.cache import cores
from mlkit.data.images import load_image
from mlkit.inference.export import Door, spread
from mlkit.inference.exported import open_exported
from mlkit.inference.predictor import Predictor
from mlkit.models.modelfile import load_model
from mlkit.progress import bar
from mlkit.runs import Run

_MOST, _BATCH, _TURNS = 256, 32, 5  # photos, those that a network sees at once, turns
_EXPORTED = {  # file -> its row in the table, and what makes the file
    "model.onnx": ("ONNX Runtime", "--format onnx"),
    "model.xml": ("OpenVINO", "--format openvino"),
    "model-int8.xml": ("OpenVINO, INT8", "--int8"),
}


def measure_inference(run: Run) -> tuple[pd.DataFrame, list[str]]:
    """From files to probabilities, on the CPU: images per second on validation photos of a run.

    What was exported is fed as mlkit feeds its network: photos decoded and resized in threads, batches of `_BATCH`.

    Returns:
        Columns median, low, high (images/s) and ratio (to the plain loop, the median over the turns, or why there are no
        figures), a row a door; and why the ratios cannot be trusted, if so.
    """
    predictor = Predictor.load(run.path, "cpu", quiet=True)
    files, size = spread(run.validation_images(), _MOST), predictor.meta["image_size"]
    cpu, network = torch.device("cpu"), load_model(run / "model.pth")[0]
    images = PlainImages(files, torch.zeros(len(files), len(predictor.attributes)), size)
    loaders = [plain_loader(images, _BATCH, workers, cpu, shuffle=False) for workers in (0, cores())]
    doors: dict[str, Callable[[], Any]] = {
        "plain loop, 0 workers": partial(plain_predict, network, loaders[0], cpu),
        f"plain loop, {cores()} workers": partial(plain_predict, network, loaders[1], cpu),
        "mlkit": partial(predictor.predict, files),
    }
    plain, left_out = list(doors)[:2], {}
    for file, (name, options) in _EXPORTED.items():
        if (run / file).is_file():
            doors[name] = partial(_ask, open_exported(run / file), files, predictor)
        else:
            left_out[name] = f"left out: mlkit export {run.name} {options}"
    speeds, moments = _take_turns(doors, len(files))
    better = max(plain, key=lambda name: statistics.median(speeds[name]))
    ratios = {name: [a / b for a, b in zip(each, speeds[better], strict=True)] for name, each in speeds.items()}
    rows = {
        name: (statistics.median(each), min(each), max(each), f"{statistics.median(ratios[name]):.2f} x {better}")
        for name, each in speeds.items()
    } | {name: (np.nan, np.nan, np.nan, why) for name, why in left_out.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["median", "low", "high", "ratio"])
    return table, doubts(summarise(moments), ratios["mlkit"])


def _take_turns(doors: dict[str, Callable[[], Any]], count: int) -> tuple[dict[str, list[float]], list[Any]]:
    """Images per second of each door in each turn, and the machine's load between; a first turn warms up."""
    speeds: dict[str, list[float]] = {name: [] for name in doors}
    moments = []
    for turn in bar(range(_TURNS + 1), desc="inference", unit="turn"):
        for name, door in doors.items():
            started = time.perf_counter()
            door()
            if turn:
                speeds[name].append(count / (time.perf_counter() - started))
        moments.append(moment())
    return speeds, moments


def _ask(door: Door, files: list[Path], predictor: Predictor) -> np.ndarray:
    """Probabilities of image files by an exported model; the next photos are decoded meanwhile."""
    decode = partial(load_image, size=predictor.meta["image_size"], reading=predictor.reading)
    with ThreadPoolExecutor() as executor:
        pixels = executor.map(decode, files)
        return np.concatenate(
            [door(np.stack([next(pixels) for _ in files[i : i + _BATCH]])) for i in range(0, len(files), _BATCH)]
        )
