"""Figures of what a model says of an image."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mlkit.plots import UNKNOWN, YES, legend_below, most_telling, name_rows, partly


def prediction(table: pd.DataFrame, ax: Axes) -> Axes:
    """Probability of each attribute of one image against its threshold; takes rows of `Predictor.predict`."""
    top = table.iloc[most_telling(table.probability - table.threshold)]
    places = np.arange(len(top))
    colours = [YES if present else UNKNOWN for present in top.probability >= top.threshold]
    bars = ax.barh(places, top.probability.fillna(0), color=colours)
    ax.bar_label(bars, [f" {p:.2f}" if p >= 0 else " NA: never seen in training" for p in top.probability])
    ax.vlines(top.threshold, places - 0.45, places + 0.45, color="black", linestyle=":", label="threshold")
    title = partly("Predicted attributes (blue: present)", len(top), len(table), "furthest above the threshold")
    ax.set(title=title, xlabel="probability", xlim=(0, 1.15))
    ax.set_xticks(np.linspace(0, 1, 6))
    name_rows(ax, top.attribute)
    legend_below(ax)
    return ax
