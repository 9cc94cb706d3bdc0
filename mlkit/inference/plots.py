"""Figures of what a model says of an image."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from mlkit.data.labels import captions
from mlkit.inference.neighbours import Neighbours
from mlkit.plots import UNKNOWN, YES, Grid, beside_rows, legend_below, most_telling, name_rows, partly
from mlkit.progress import listed, shorten


def prediction(table: pd.DataFrame, ax: Axes) -> Axes:
    """Probability of each attribute of one image against its threshold; takes rows of `Predictor.predict`."""
    top = table.iloc[most_telling(table.probability - table.threshold)]
    places = np.arange(len(top))
    colours = [YES if decision == "yes" else UNKNOWN for decision in top.decision]
    ax.barh(places, top.probability.fillna(0), color=colours)
    beside_rows(ax, [f"{p:.2f}" if p >= 0 else "NA" for p in top.probability], places)
    for place in places[top.probability.isna()]:
        ax.text(0.02, place, "never seen in training", va="center", fontsize="small")
    ax.vlines(
        top.threshold.where(top.probability.notna()),
        places - 0.45,
        places + 0.45,
        color="black",
        linestyle=":",
        label="threshold",
    )
    title = partly("Predicted attributes (blue: present)", len(top), len(table), "furthest above the threshold")
    ax.set(title=title, xlabel="probability", xlim=(0, 1.02))
    ax.set_xticks(np.linspace(0, 1, 6))
    name_rows(ax, top.attribute)
    legend_below(ax)
    return ax


def reasons(pixels: np.ndarray, maps: np.ndarray, table: pd.DataFrame) -> Grid:
    """Where an image speaks for each attribute: what does is in colour.

    Args:
        pixels, maps: of `explanation.heat_maps`.
        table: rows of `Predictor.predict`, of the same attributes.
    """
    top = most_telling(table.probability - table.threshold)
    grey = np.repeat(pixels.mean(axis=2, keepdims=True) / 255, 3, axis=2)
    shade = 0.7 * maps[..., None]
    images = [shade[i] * colormaps["inferno"](maps[i])[..., :3] + (1 - shade[i]) * (0.35 + 0.65 * grey) for i in top]
    rows = table.iloc[top]
    said = [f"{p:.2f} {decision}" if p >= 0 else "NA" for p, decision in zip(rows.probability, rows.decision, strict=True)]
    title = partly("Where the image speaks for it", len(top), len(table), "furthest above the threshold", tables=False)
    return Grid(images, [f"{name}: {text}" for name, text in zip(rows.attribute, said, strict=True)], title)


def nearest(pixels: np.ndarray, table: pd.DataFrame, neighbours: Neighbours, found: pd.Series) -> Grid:
    """An image with what the model says of it, and the nearest training images with their similarity and labels.

    Args:
        pixels: the image as the network sees it.
        table: rows of `Predictor.predict`.
        neighbours, found: where they were looked for, and `Neighbours.nearest` of the image.
    """
    said = listed([shorten(name, 24) for name in table.attribute[table.decision == "yes"]], 8)
    labels = captions(neighbours.labels.loc[found.index])
    texts = [f"{similarity:.2f}: {text}" for similarity, text in zip(found, labels, strict=True)]
    title = f"Nearest of {neighbours}, with their labels"
    return Grid([pixels, *neighbours.pixels(found.index)], [f"the model: {said}", *texts], title)
