"""What more views of an image gain and cost, on the validation images of a run."""

from dataclasses import replace

import numpy as np
import pandas as pd

from mlkit.data.dataset import MultiLabelDataset
from mlkit.errors import MlkitError, RunError
from mlkit.evaluation.calibration import Calibration
from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.metrics import macro
from mlkit.evaluation.predictions import Predictions, compare
from mlkit.progress import say
from mlkit.runs import Run
from mlkit.training.recipe import data_of

ALONE = "image alone"
_FIGURES = {"AP": "mAP", "F1": "F1", "Brier": "Brier"}


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
    # Here: they take torch, which a run without views can do without.
    from mlkit.inference.views import ask_views, named_views

    run.check_finished()
    chosen = named_views(views)
    dataset = _data_of(run) if chosen else None
    if dataset is None:
        return pd.DataFrame()
    predicted = Predictions.read(run, "validation")
    rows = dataset.labels.index.get_indexer(pd.Index(predicted.images))
    logits, times, meta = ask_views(run / "model.pth", dataset, rows, chosen)
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


def _interval(row: pd.Series, figure: str) -> str:
    difference, low, high = (row[f"{figure}_{at}"] for at in ("difference", "low", "high"))
    return f"{difference:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if np.isfinite(low) else " (too few images)")
