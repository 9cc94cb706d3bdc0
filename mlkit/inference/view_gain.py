"""What more views of an image gain and cost, on the validation images of a run."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from mlkit.data.dataset import MultiLabelDataset
from mlkit.errors import MlkitError, RunError
from mlkit.evaluation.calibration import Calibration
from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.metrics import macro
from mlkit.evaluation.predictions import Predictions, compare
from mlkit.inference.views import VIEWS, named_views
from mlkit.models.device import Device, choose_device
from mlkit.models.modelfile import load_model
from mlkit.models.networks import compute_logits, place
from mlkit.progress import bar, say
from mlkit.runs import Run
from mlkit.training.recipe import data_of

ALONE = "image alone"
_BATCH, _TIMED = 32, 3  # images; batches by which the cost is measured
_FIGURES = {"AP": "mAP", "F1": "F1", "Brier": "Brier"}


@torch.inference_mode()
def compare_views(run: Run, views: str, level: float = 0.95) -> pd.DataFrame:
    """What views change in a run's figures: each beside the image, and all together.

    A view costs one pass over the validation images; what the network says of the images alone stands in predictions.csv.
    Epoch, calibration and thresholds were chosen on these images by that, which flatters it rather than the views.

    Args:
        run: finished.
        views: as for `named_views`; empty: none.
        level: of the intervals, those of a figure together.

    Returns:
        Index views, `ALONE` the first. Columns images; passes; speed, images per second by those of the image alone; mAP;
        and of mAP, F1 and the Brier score (lower is better) NAME_difference to the image alone, paired, NAME_low and
        NAME_high. No row where nothing was asked for; nor, which is said, where labels or images are gone, or not what the
        run was made from any more, or an ensemble's members were split each in its way.

    Raises:
        ParameterError: for an unknown view.
        RunError: if the run is not finished.
    """
    run.check_finished()
    chosen = named_views(views)
    dataset = _data_of(run) if chosen else None
    if dataset is None:
        return pd.DataFrame()
    predicted, (network, meta) = Predictions.read(run, "validation"), load_model(run / "model.pth")
    device = choose_device("auto", meta.get("precision", "auto"), meta["image_size"])
    rows = dataset.labels.index.get_indexer(pd.Index(predicted.images))
    logits, times = _ask(place(network, device), device, dataset, rows, chosen)
    sets: list[tuple[str, ...]] = [*((name,) for name in chosen), *([chosen] if len(chosen) > 1 else [])]
    alone = macro(predicted.evaluate())["AP"]
    table = [{"views": ALONE, "images": len(rows), "passes": 1, "speed": 1.0, "mAP": alone}]
    for names in sets:
        mean = np.mean([predicted.logits, *(logits[name] for name in names)], axis=0)
        probabilities = Calibration.from_dict(meta["calibration"]).probabilities(mean)
        found = compare(replace(predicted, probabilities=probabilities), predicted, 1 - (1 - level) / len(sets))
        means = {f"{to}_{at}": found[at].loc[of, MEAN] for of, to in _FIGURES.items() for at in found}
        cost = {"passes": 1 + len(names), "speed": 1 / (1 + sum(times[name] for name in names))}
        table.append(
            {"views": ",".join(names), "images": len(rows), **cost, "mAP": alone + means["mAP_difference"], **means}
        )
    return pd.DataFrame(table).set_index("views")


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """What `compare_views` found for the eye: differences as "+0.012 [+0.003, +0.021]"."""
    text = table[["passes"]].assign(
        **{"images/s": table.speed.map("{:.2f} x".format), "mAP": table.mAP.map("{:.3f}".format)}
    )
    for figure in _FIGURES.values():
        text[f"{figure} difference"] = ["", *(_interval(row, figure) for _, row in table.iloc[1:].iterrows())]
    return text


def conclusion(table: pd.DataFrame) -> str:
    """What `compare_views` found, in a sentence: of the views with the highest mAP."""
    if table.empty:
        return "More views of an image: not compared."
    best = table.iloc[1:].sort_values("mAP", kind="stable").iloc[-1]
    shown = "they help" if best.mAP_low > 0 else "they do harm" if best.mAP_high < 0 else "nothing shown"
    return (
        f"More views of an image: {shown}; {best.name} changes mAP on {best.images:.0f} validation images by "
        f"{_interval(best, 'mAP')}, for {best.passes:.0f} passes instead of one."
    )


def _data_of(run: Run) -> MultiLabelDataset | None:
    """The data of a run; None, which is said, where it is gone or another one by now, or was split in more than one way."""
    try:
        if run.members and not (run / "split.csv").is_file():
            raise RunError(f"the members of {run} were split each in its way; look at one of them")
        return data_of(run)
    except MlkitError as error:
        say(f"views were not compared: {error}")
        return None


def _ask(
    network: nn.Module, device: Device, dataset: MultiLabelDataset, rows: np.ndarray, views: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Logits (rows, attributes) of each view, and how many times as long as for the image alone these take."""
    logits: dict[str, list[np.ndarray]] = {name: [] for name in (*views, ALONE)}
    seconds: dict[str, list[float]] = {name: [] for name in logits}
    for number, chosen in enumerate(bar(np.array_split(rows, -(-len(rows) // _BATCH)), desc="views", unit="batch")):
        pixels = dataset.batch(chosen)[0].to(device.device)
        for name in logits if number < _TIMED else views:
            started = time.perf_counter()
            viewed = pixels if name == ALONE else VIEWS[name](pixels)
            logits[name].append(compute_logits(network, viewed, device).cpu().numpy())
            seconds[name].append((time.perf_counter() - started) / len(chosen))
    alone = statistics.median(seconds[ALONE])
    times = {name: statistics.median(seconds[name][:_TIMED]) / alone for name in views}
    return {name: np.concatenate(logits[name]) for name in views}, times


def _interval(row: pd.Series, figure: str) -> str:
    difference, low, high = (row[f"{figure}_{at}"] for at in ("difference", "low", "high"))
    return f"{difference:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if np.isfinite(low) else " (too few images)")
