"""Figures of labels."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.ticker import PercentFormatter

from mlkit.plots import NO, UNKNOWN, YES, most_telling, name_rows, partly, shortened
from mlkit.progress import columns_of

_MOST_COLUMNS, _MOST_PATTERNS, _ANNOTATED = 25, 12, 12  # of heat maps
_DARK = 0.65  # shares below have a dark colour, on which text is white


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
    names, top = shortened(table.index[chosen], 24), values[np.ix_(chosen, chosen)]
    fits = max(columns_of(name) for name in names) <= min(7, 60 // len(names))  # in a cell
    mesh = _heat_map(top, names, names, ax, cmap="cividis", rotation=0 if fits else 90)
    ax.set_aspect("equal")
    ax.figure.colorbar(mesh, ax=ax).outline.set_visible(False)
    for (row, column), share in np.ndenumerate(top):
        if len(top) <= _ANNOTATED and np.isfinite(share):
            colour = "white" if share < _DARK else "#262626"
            ax.text(column + 0.5, row + 0.5, f"{share:.2f}", ha="center", va="center", color=colour)
    title = "Share of images with the column's attribute,\namong those with the row's"
    title = partly(title, len(top), len(table), "those that go together most", tables=False)
    ax.set(title=title, xlabel="has also", ylabel="images with")
    return ax


def na_patterns(table: pd.DataFrame, ax: Axes) -> Axes:
    """The most frequent patterns of unknown attributes as columns (dark = unknown); takes `labels.na_patterns`."""
    top = table.head(_MOST_PATTERNS)
    often = pd.Series((table.to_numpy() * table.index.to_numpy()[:, None]).sum(axis=0))
    chosen = most_telling(often)
    names, colours = shortened(table.columns[chosen]), ListedColormap(["#eeeeee", "#333333"])
    _heat_map(top.to_numpy().T[chosen], names, map(str, top.index), ax, cmap=colours, linewidth=1, edgecolor="white")
    which = "those most often unknown"
    title = partly("Attributes unknown together (dark: NA)", len(chosen), table.shape[1], which, tables=False)
    patterns = "pattern" if len(table) == len(top) else f"pattern, the {len(top)} most frequent of {len(table)}"
    ax.set(title=title, xlabel=f"images of each {patterns}", ylabel="attribute")
    return ax


def _heat_map(
    cells: np.ndarray, rows: Sequence[str], columns: Iterable[str], ax: Axes, rotation: float = 0, **style: Any
) -> QuadMesh:
    """Cells of 0 to 1 in colours, the first row on top. Not seaborn's: its import takes longer than the figures."""
    mesh = ax.pcolormesh(cells, vmin=0, vmax=1, **style)
    ax.invert_yaxis()
    ax.set_xticks(np.arange(cells.shape[1]) + 0.5, list(columns), rotation=rotation)
    ax.set_yticks(np.arange(cells.shape[0]) + 0.5, rows)
    ax.spines[:].set_visible(False)
    return mesh
