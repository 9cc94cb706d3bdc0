"""Figures of a search: takes its tables, draws on the given Axes, returns it."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlkit.plots import NO, YES, log_axis, shortened, use_fonts

_COLUMNS = 3  # of panels


def history(table: pd.DataFrame, ax: Axes) -> Axes:
    """Validation mAP of every trial, and the best so far; takes `trials.trials`."""
    whole, pruned = (table[table.state == state] for state in ("complete", "pruned"))
    failed = table.index[table.state == "fail"]
    ax.plot(whole.index, whole.mAP, "o", color=YES, label="finished")
    if len(pruned):
        ax.plot(pruned.index, pruned.mAP, "o", color=YES, markerfacecolor="none", label="stopped early")
    if len(failed):
        ax.plot(
            failed, [0.03] * len(failed), "x", color=NO, transform=ax.get_xaxis_transform(), label="failed, or taken over"
        )
    ax.step(whole.index, whole.mAP.cummax(), where="post", color=NO, label="best so far")
    ax.set(title="The search, trial by trial", xlabel="trial", ylabel="best validation mAP")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", alpha=0.3)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return ax


def importance(shares: pd.Series, ax: Axes) -> Axes:
    """Share of each parameter in the variance of the validation mAP; takes `trials.importance`."""
    ordered = shares.sort_values(ascending=False)
    bars = ax.barh(ordered.index, ordered, color=YES)
    ax.bar_label(bars, [f" {share:.0%}" for share in ordered])
    ax.set(title="Which parameter decides", xlabel="importance (sums to 1)", xlim=(0, 1.1))
    ax.invert_yaxis()
    if ordered.empty:
        ax.text(0.5, 0.5, "too few trials", ha="center", va="center", transform=ax.transAxes)
        ax.set_yticks([])
    return ax


def slices(table: pd.DataFrame, names: Sequence[str], logarithmic: Sequence[str] = ()) -> Figure:
    """Validation mAP over each parameter, one panel each, later trials darker; in a new figure.

    Args:
        table: of `trials.trials`.
        names: the parameters.
        logarithmic: those with a logarithmic axis.
    """
    shown = table[table.state.isin(["complete", "pruned"])]
    use_fonts(shown[list(names)].to_numpy(object).ravel())
    rows = -(-len(names) // _COLUMNS)
    columns = min(_COLUMNS, len(names))
    figure, axes = plt.subplots(
        rows, columns, figsize=(8 * columns / _COLUMNS + 0.8, 2.5 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    for ax, name in zip(axes.flat, names, strict=False):
        values = shown[name]
        if not pd.api.types.is_numeric_dtype(values) or values.dtype == bool:
            texts = values.astype(str).unique()
            values = values.astype(str).map(dict(zip(texts, shortened(texts), strict=True)))
            ax.margins(x=0.3)  # else the names of the outer choices run into the next panel
        for state, face in (("complete", None), ("pruned", "none")):
            chosen = shown.state == state
            colours = plt.get_cmap("Blues")(0.35 + 0.65 * np.asarray(shown.index[chosen]) / max(1, table.index.max()))
            ax.scatter(values[chosen], shown.mAP[chosen], color=colours if face is None else face, edgecolors=colours, s=26)
        ax.set_xlabel(name)
        if name in logarithmic:
            log_axis(ax)
        ax.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("validation mAP")
    figure.suptitle("Each parameter alone (hollow: stopped early; later trials darker)")
    return figure
