"""Test-time augmentation: a model is asked about several views of an image, and its logits are averaged.

A view keeps the size, so that every network takes it. Calibration and thresholds stay those of the image alone; whether they
fit the mean, and whether it is worth its passes, `view_gain` measures.
"""

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit.data.dataset import MultiLabelDataset
from mlkit.errors import ParameterError, nearest
from mlkit.models.device import Device, choose_device
from mlkit.models.modelfile import load_model
from mlkit.models.networks import compute_logits, place
from mlkit.progress import bar

_BATCH, _TIMED = 32, 3  # images; batches by which the cost of a view is measured
_MARGIN = 16  # a zoom moves each edge by a sixteenth of the side


def flip(pixels: Tensor) -> Tensor:
    """Mirrored, left for right."""
    return pixels.flip(2)


def zoom_in(pixels: Tensor) -> Tensor:
    """The middle, seven eighths of each side, as large as the whole."""
    side, margin = pixels.shape[1], _margin(pixels)
    return _resized(pixels[:, margin : side - margin, margin : side - margin], side)


def zoom_out(pixels: Tensor) -> Tensor:
    """The whole on seven eighths of each side, around it what its edge reflects, as in the augmentation of training."""
    margin = _margin(pixels)
    small = _resized(pixels, pixels.shape[1] - 2 * margin).permute(0, 3, 1, 2)
    return functional.pad(small, [margin] * 4, mode="reflect").permute(0, 2, 3, 1)


# Name -> view: pixels (batch, side, side, 3) on 0..255 -> the same shape and scale.
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {view.__name__: view for view in (flip, zoom_in, zoom_out)}


def named_views(text: str) -> tuple[str, ...]:
    """Names of views out of a text such as "flip,zoom_in": each once, in one order however they were given.

    Raises:
        ParameterError: for an unknown one.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in VIEWS:
            raise ParameterError(f"unknown view {name!r}{nearest(name, VIEWS)}")
    return tuple(name for name in VIEWS if name in names)


def mean_logits(model: nn.Module, pixels: Tensor, device: Device, views: Collection[str] = ()) -> Tensor:
    """Float32 logits (batch, attributes) of pixels (batch, side, side, 3), averaged over them and their views."""
    pixels = pixels.to(device.device)
    logits = compute_logits(model, pixels, device)
    for name in views:
        logits = logits + compute_logits(model, VIEWS[name](pixels), device)
    return logits / (1 + len(views))


@torch.inference_mode()
def ask_views(
    model_file: Path, dataset: MultiLabelDataset, rows: np.ndarray, views: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, Any]]:
    """What a model says of each view of some images.

    Args:
        model_file: the model.
        dataset: images, of the model's image_size.
        rows: of those to look at.
        views: their names.

    Returns:
        By view, logits float32 (rows, attributes), and how many times as long as for the image alone these take; the meta
        data of the model.
    """
    network, meta = load_model(model_file)
    device = choose_device("auto", meta.get("precision", "auto"), meta["image_size"])
    network, alone = place(network, device), ""
    logits: dict[str, list[np.ndarray]] = {name: [] for name in (*views, alone)}
    seconds: dict[str, list[float]] = {name: [] for name in logits}
    for number, chosen in enumerate(bar(np.array_split(rows, -(-len(rows) // _BATCH)), desc="views", unit="batch")):
        pixels = torch.from_numpy(dataset.batch(chosen)[0]).to(device.device)
        for name in logits if number < _TIMED else views:
            started = time.perf_counter()
            viewed = pixels if name == alone else VIEWS[name](pixels)
            logits[name].append(compute_logits(network, viewed, device).cpu().numpy())
            seconds[name].append((time.perf_counter() - started) / len(chosen))
    usual = statistics.median(seconds[alone])
    times = {name: statistics.median(seconds[name][:_TIMED]) / usual for name in views}
    return {name: np.concatenate(logits[name]) for name in views}, times, meta


def _margin(pixels: Tensor) -> int:
    return max(1, pixels.shape[1] // _MARGIN)


def _resized(pixels: Tensor, side: int) -> Tensor:
    planes = pixels.permute(0, 3, 1, 2).float()
    return functional.interpolate(planes, (side, side), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
