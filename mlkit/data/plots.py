"""Figures of labels."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from mlkit.plots import NO, UNKNOWN, YES, most_telling, name_rows, partly, shortened
from mlkit.progress import columns_of

_MOST_COLUMNS, _MOST_PATTERNS, _ANNOTATED = 25, 12, 12  # of heat maps


def label_balance(counts: pd.DataFrame, ax: Axes) -> Axes:
    """Share of yes, no and unknown per attribute, stacked, with the counts written in; takes `labels.label_counts`."""
    top = counts.iloc[most_telling(counts.imbalance)]
    total = top.positives + top.negatives + top.unknown
    left = np.zeros(len(top))
    for column, name, colour in (("positives", "yes", YES), ("negatives", "no", NO), ("unknown", "NA", UNKNOWN)):
        share = (top[column] / total).to_numpy()
        bars = ax.barh(range(len(top)), share, left=left, color=colour, label=name)
        texts = [str(n) if s > 0.03 else "" for n, s in zip(top[column], share, strict=True)]
        ax.bar_label(bars, texts, label_type="center", color="white" if column == "positives" else "black")
        left += share
    title = partly("Labels per attribute", len(top), len(counts), "the most imbalanced")
    ax.set(title=title, xlabel="share of images", xlim=(0, 1))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    name_rows(ax, top.index)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return ax


def cooccurrence(table: pd.DataFrame, ax: Axes) -> Axes:
    """Heat map of P(column | row); takes `labels.cooccurrence`."""
    values = table.to_numpy(np.float64)
    off_diagonal = np.where(np.eye(len(table), dtype=bool), np.nan, values)
    # of how far a share is from that of the other rows, both ways: the product is about the squared phi coefficient
    apart = off_diagonal - np.nanmean(off_diagonal, axis=0) if len(table) > _MOST_COLUMNS else off_diagonal
    strength = np.nan_to_num(apart * apart.T, nan=-1.0).max(axis=0)
    chosen = most_telling(pd.Series(strength), _MOST_COLUMNS)
    names = shortened(table.index[chosen], 24)
    top = pd.DataFrame(values[np.ix_(chosen, chosen)], names, names)
    annotated = len(top) <= _ANNOTATED
    sns.heatmap(
        top, ax=ax, vmin=0, vmax=1, cmap="cividis", annot=annotated, fmt=".2f", square=True, xticklabels=1, yticklabels=1
    )
    title = "Share of images with the column's attribute,\namong those with the row's"
    title = partly(title, len(top), len(table), "those that go together most", tables=False)
    ax.set(title=title, xlabel="has also", ylabel="images with")
    ax.tick_params(axis="y", rotation=0)
    fits = max(columns_of(name) for name in names) <= min(7, 60 // len(names))  # in a cell
    ax.tick_params(axis="x", rotation=0 if fits else 90)
    return ax


def na_patterns(table: pd.DataFrame, ax: Axes) -> Axes:
    """The most frequent patterns of unknown attributes as columns (dark = unknown); takes `labels.na_patterns`."""
    top = table.head(_MOST_PATTERNS)
    often = pd.Series((table.to_numpy() * table.index.to_numpy()[:, None]).sum(axis=0))
    chosen = most_telling(often)
    cells = top.to_numpy().T[chosen]
    sns.heatmap(cells, ax=ax, cmap=["#eeeeee", "#333333"], vmin=0, vmax=1, cbar=False, linewidths=1, linecolor="white")
    ax.set_xticks(np.arange(len(top)) + 0.5, [str(count) for count in top.index], rotation=0)
    ax.set_yticks(np.arange(len(chosen)) + 0.5, shortened(table.columns[chosen]), rotation=0)
    which = "those most often unknown"
    title = partly("Attributes unknown together (dark: NA)", len(chosen), table.shape[1], which, tables=False)
    patterns = "pattern" if len(table) == len(top) else f"pattern, the {len(top)} most frequent of {len(table)}"
    ax.set(title=title, xlabel=f"images of each {patterns}", ylabel="attribute")
    return ax
