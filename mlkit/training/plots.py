"""Figures of a training."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mlkit.plots import NO, YES, beside_rows, legend_below, log_axis, most_telling, name_rows, partly


def loss_curve(
    history: pd.DataFrame,
    epochs: pd.DataFrame,
    ax: Axes,
    title: str = "Aimonk_multilabel_problem",
    smoothing: float = 0.9,
) -> Axes:
    """Training loss of every iteration, raw and smoothed, and the validation loss of every epoch.

    The two may be different losses: the training's is that of the method, with its weights; the validation's is the plain
    binary cross-entropy (BCE) over the known cells.

    The smoothed curve is an exponential moving average with weight `smoothing` on the past (0: none), corrected for its
    start as in Adam.
    """
    ax.plot(history.iteration, history.loss, color=YES, alpha=0.25, linewidth=1, label="training, each iteration")
    smoothed = history.loss.ewm(alpha=1 - smoothing, adjust=True).mean()
    ax.plot(history.iteration, smoothed, color=YES, linewidth=2, label="training, smoothed")
    ax.plot(epochs.iteration, epochs.validation_loss, color=NO, marker="o", linewidth=2, label="validation, plain BCE")
    ax.set(title=title, xlabel="iteration_number", ylabel="training_loss")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def learning_rate_range(table: pd.DataFrame, ax: Axes) -> Axes:
    """Loss over the learning rate, smoothed too; takes `preview.learning_rate_range`."""
    ax.plot(table.lr, table.loss, color=YES, alpha=0.25, linewidth=1, label="each iteration")
    ax.plot(table.lr, table.loss.ewm(alpha=0.3).mean(), color=YES, linewidth=2, label="smoothed")
    ax.set(title="Learning-rate range: choose where the loss falls fastest", xlabel="learning rate", ylabel="training loss")
    ax.set(ylim=(0, 1.5 * table.loss.iloc[:5].mean()))
    log_axis(ax)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def worth(table: pd.DataFrame, ax: Axes) -> Axes:
    """AP of each attribute as a bar, that of a random ranking as a mark; takes `metrics.evaluate`."""
    top = table.iloc[most_telling(table.AP - table.chance, ends=True)]
    ax.barh(range(len(top)), top.AP, color=YES, label="AP of the model")
    beside_rows(ax, ["lacks a class" if np.isnan(ap) else f"{ap:.2f}" for ap in top.AP], range(len(top)))
    ax.plot(top.chance, range(len(top)), "|", color=NO, markersize=14, markeredgewidth=3, label="chance (random ranking)")
    title = partly("Average precision on images not trained on", len(top), len(table), "furthest above and below chance")
    ax.set(title=title, xlabel="average precision", xlim=(0, 1.02))
    ax.set_xticks(np.linspace(0, 1, 6))
    name_rows(ax, top.index)
    legend_below(ax)
    return ax
