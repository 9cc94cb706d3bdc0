"""Figures of a review: what is asked, and what the answers were worth."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlkit.curation.gain import Gain
from mlkit.data.dataset import MultiLabelDataset
from mlkit.evaluation.intervals import MEAN
from mlkit.plots import YES, image_grid, most_telling, name_rows, partly

_SHOWN = 12


def questions(queue: pd.DataFrame, dataset: MultiLabelDataset) -> Figure:
    """The first questions of a queue: pictures, and the attribute that is asked about."""
    first = queue.head(_SHOWN)
    pixels = dataset.batch(dataset.labels.index.get_indexer(pd.Index(first.image)))[0]
    figure = image_grid(pixels, [f"{name}?" for name in first.attribute], 6)
    figure.suptitle(f"The first {len(first)} of {len(queue)} questions")
    return figure


def gains(gain: Gain, ax: Axes) -> Axes:
    """Difference in average precision that answers made, by attribute, with its interval."""
    table = gain.attributes
    top = most_telling(table.difference.abs())
    shown, places = table.iloc[top], np.arange(len(top))
    ax.axvline(0, color="#333333", linewidth=1)
    ax.hlines(places, shown.low, shown.high, color=YES, linewidth=1.5)
    ax.plot(shown.difference, places, "o", color=YES)
    title = partly(f"What {gain.answers} answers did to the average precision", len(top), len(table), "moved most")
    ax.set(title=title, xlabel=f"AP with the answers - AP without\n(mean of {gain.seeds} seeds, 95 % interval)")
    counted = zip(shown.index, shown.answers, strict=True)
    name_rows(ax, ["mAP" if name == MEAN else f"{name} ({count})" for name, count in counted])
    return ax


def curve(gain: Gain, ax: Axes) -> Axes:
    """The difference in mAP by how many answers were used, in the order in which they came."""
    table = gain.curve
    ax.axhline(0, color="#333333", linewidth=1)
    ax.fill_between(table.answers, table.low.fillna(0), table.high.fillna(0), color=YES, alpha=0.2, linewidth=0)
    ax.plot(table.answers, table.difference, "o-", color=YES)
    ax.set(title="Gain against answers", xlabel="answers used", ylabel="mAP with - mAP without\n(95 % interval)")
    ax.grid(axis="y", alpha=0.3)
    return ax
