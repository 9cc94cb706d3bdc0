"""The figure of a study: takes its results, draws on the given Axes, returns it."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from mlkit.experiments.study.findings import BASELINE, FULL, t_interval
from mlkit.plots import UNKNOWN


def methods(results: pd.DataFrame, ax: Axes) -> Axes:
    """mAP on the full truth over the share of known cells, a line per method, with the level that all labels reach.

    Intervals are 95 % by Student's t over the seeds; with a single seed there are none. Since seeds differ in their test
    images as well, they are wider than those of the paired differences (`findings.differences`), which compare methods.

    Args:
        results: of `study.run_study`, for one mechanism.
        ax: where to draw.

    Raises:
        ValueError: if the results hold no mechanism or several.
    """
    hidden = results[results.mechanism != FULL]
    if hidden.mechanism.nunique() != 1:
        raise ValueError(f"one mechanism at a time, not {list(hidden.mechanism.unique())}; filter the results")
    full = results[results.mechanism == FULL]
    center, low, high = t_interval(full.mAP)
    ax.axhline(center, color="#333333", linestyle="--", linewidth=1.2, label=f"{BASELINE}, all known")
    if np.isfinite(low):
        ax.axhspan(low, high, color=UNKNOWN, alpha=0.35, linewidth=0)
    methods = list(dict.fromkeys(hidden.method))  # in their own order, so that colours stay those of other figures
    fractions = sorted(hidden.fraction.unique())
    bounds = [low, high, center]
    for number, method in enumerate(methods):
        groups = hidden[hidden.method == method].groupby("fraction").mAP
        table = np.array([t_interval(groups.get_group(f)) if f in groups.groups else (np.nan,) * 3 for f in fractions])
        # side by side, or the intervals would hide each other
        x = np.arange(len(fractions)) + 0.55 * ((number + 0.5) / len(methods) - 0.5)
        colour = sns.color_palette("colorblind", 10)[number % 10]
        ax.vlines(x, table[:, 1], table[:, 2], color=colour, linewidth=1.2, alpha=0.8)
        marker = "osD^vPX*"[number % 8]
        ax.plot(x, table[:, 0], color=colour, marker=marker, linewidth=1.2, markersize=6, label=method)
        bounds += list(table.ravel())
    handles, names = ax.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: (i > 0, -hidden.mAP[hidden.method == names[i]].mean() if i else 0))
    ax.legend([handles[i] for i in order], [names[i] for i in order], loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    ax.set_xticks(range(len(fractions)), [f"{fraction:.0%}" for fraction in fractions])
    seeds = results.seed.nunique()
    ax.set(title=f"What missing labels cost (hidden: {hidden.mechanism.iloc[0]})", xlabel="labels known")
    ax.set_ylabel(f"mAP on the full truth\n(mean of {seeds} seed{'s' * (seeds != 1)}, 95 % interval)")
    margin = 0.02
    ax.set_ylim(max(0.0, np.nanmin(bounds) - margin), min(1.0, np.nanmax(bounds) + margin))
    ax.grid(axis="y", alpha=0.3)
    return ax
