"""One function per figure: takes tables, draws on the given Axes, returns it."""

import textwrap
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

# from seaborn's colour-blind safe palette
YES, NO, UNKNOWN = "#0173b2", "#de8f05", "#cccccc"


def label_balance(counts: pd.DataFrame, ax: Axes) -> Axes:
    """Share of yes, no and unknown per attribute, stacked, with the counts written in; takes `labels.label_counts`."""
    total = counts.positives + counts.negatives + counts.unknown
    left = np.zeros(len(counts))
    for column, name, colour in (("positives", "yes", YES), ("negatives", "no", NO), ("unknown", "NA", UNKNOWN)):
        share = (counts[column] / total).to_numpy()
        bars = ax.barh(counts.index, share, left=left, color=colour, label=name)
        texts = [str(n) if s > 0.03 else "" for n, s in zip(counts[column], share, strict=True)]
        ax.bar_label(bars, texts, label_type="center", color="white" if column == "positives" else "black")
        left += share
    ax.set(title="Labels per attribute", xlabel="share of images", xlim=(0, 1))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.invert_yaxis()
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return ax


def cooccurrence(table: pd.DataFrame, ax: Axes) -> Axes:
    """Heat map of P(column | row); takes `labels.cooccurrence`."""
    sns.heatmap(table, ax=ax, vmin=0, vmax=1, cmap="cividis", annot=len(table) <= 12, fmt=".2f", square=True)
    ax.set(
        title="Share of images with the column's attribute,\namong those with the row's",
        xlabel="has also",
        ylabel="images with",
    )
    ax.tick_params(axis="y", rotation=0)
    return ax


def na_patterns(table: pd.DataFrame, ax: Axes, most: int = 12) -> Axes:
    """The most frequent patterns of unknown attributes (dark = unknown), images of each; takes `labels.na_patterns`."""
    top = table.head(most)
    names = [f"{count} image{'s' * (count != 1)}" for count in top.index]
    sns.heatmap(
        top.to_numpy(), ax=ax, cmap=["#eeeeee", "#333333"], vmin=0, vmax=1, cbar=False, linewidths=1, linecolor="white"
    )
    ax.set_xticks(np.arange(top.shape[1]) + 0.5, top.columns)
    ax.set_yticks(np.arange(len(top)) + 0.5, names, rotation=0)
    ax.set(title="Attributes unknown together (dark: NA)", xlabel="attribute")
    return ax


def image_grid(images: Iterable[np.ndarray], captions: Sequence[str], columns: int = 4) -> Figure:
    """Images with a caption under each, in a new figure."""
    rows = -(-len(captions) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.25 * columns, 1.65 * rows), dpi=72, squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(captions) :]:
        ax.axis("off")
    for ax, image, caption in zip(axes.flat, images, captions, strict=False):
        ax.imshow(image)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(textwrap.fill(caption, 18), fontsize=8)
    return figure


def loss_curve(
    history: pd.DataFrame,
    epochs: pd.DataFrame,
    ax: Axes,
    title: str = "Aimonk_multilabel_problem",
    smoothing: float = 0.9,
) -> Axes:
    """Training loss of every iteration, raw and smoothed, and the validation loss of every epoch.

    The smoothed curve is an exponential moving average with weight `smoothing` on the past (0: none), corrected for its
    start as in Adam.
    """
    ax.plot(history.iteration, history.loss, color=YES, alpha=0.25, linewidth=1, label="training, each iteration")
    smoothed = history.loss.ewm(alpha=1 - smoothing, adjust=True).mean()
    ax.plot(history.iteration, smoothed, color=YES, linewidth=2, label="training, smoothed")
    ax.plot(epochs.iteration, epochs.validation_loss, color=NO, marker="o", linewidth=2, label="validation, each epoch")
    ax.set(title=title, xlabel="iteration_number", ylabel="training_loss")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def worth(table: pd.DataFrame, ax: Axes) -> Axes:
    """AP of each attribute as a bar, its chance level as a mark; takes `metrics.evaluate`."""
    bars = ax.barh(table.index, table.AP, color=YES, label="AP of the model")
    ax.bar_label(bars, [f" {ap:.2f}" for ap in table.AP])
    ax.plot(table.prevalence, table.index, "|", color=NO, markersize=18, markeredgewidth=3, label="chance (prevalence)")
    ax.set(title="Average precision on the validation images", xlabel="average precision", xlim=(0, 1.1))
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.invert_yaxis()
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return ax


def prediction(table: pd.DataFrame, ax: Axes) -> Axes:
    """Probability of each attribute of one image against its threshold; takes rows of `Predictor.predict`."""
    bars = ax.barh(table.attribute, table.probability, color=[YES if present else UNKNOWN for present in table.present])
    ax.bar_label(bars, [f" {p:.2f}" for p in table.probability])
    for position, threshold in enumerate(table.threshold):
        ax.plot(
            [threshold] * 2,
            [position - 0.45, position + 0.45],
            color="black",
            linestyle=":",
            label="threshold" if position == 0 else None,
        )
    ax.set(title="Predicted attributes (blue: present)", xlabel="probability", xlim=(0, 1.15))
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.invert_yaxis()
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.18), frameon=False)
    return ax
