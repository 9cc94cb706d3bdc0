"""The figure of a simulation: takes its results, draws on the given Axes, returns it."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from mlkit.experiments.simulation.config import YARDSTICK
from mlkit.experiments.simulation.findings import SETTING, curves
from mlkit.experiments.study.findings import t_interval
from mlkit.plots import UNKNOWN


def campaigns(results: pd.DataFrame, ax: Axes, over: str = "answers") -> Axes:
    """mAP over answers, a line per order, with the level that all labels reach.

    Bands are 95 % intervals of the difference to `YARDSTICK` of the same seed, by Student's t over the seeds, around each
    line: seeds differ in their test images, which moves all orders alike. With a single seed there are none.

    Args:
        results: of `simulate`, of one setting, asked in one way.
        ax: where to draw.
        over: "answers" or "seconds".

    Raises:
        ValueError: if the results hold several settings or ways to ask.
    """
    if len(results[[*SETTING, "by"]].drop_duplicates()) != 1:
        raise ValueError(f"one setting at a time: filter the results by {', '.join([*SETTING, 'by'])}")
    table = curves(results, over).droplevel([*SETTING, "by"])
    points = table.columns.to_numpy()
    names = list(dict.fromkeys(table.index.get_level_values("order")))  # in their own order: colours stay those of others
    lines = {name: table.xs(name, level="order") for name in names}
    base = lines[YARDSTICK]
    for number, (name, own) in enumerate(lines.items()):
        colour = "#333333" if name == YARDSTICK else sns.color_palette("colorblind", 10)[number % 10]
        ax.plot(points, own.mean(), color=colour, linestyle="--" if name == YARDSTICK else "-", linewidth=1.6, label=name)
        gain = (own - base).dropna()
        _, low, high = np.array([t_interval(gain[point].to_numpy()) for point in points]).T
        if name != YARDSTICK and np.isfinite(low).all():
            ax.fill_between(points, base.mean() + low, base.mean() + high, color=colour, alpha=0.12, linewidth=0)
    ax.axhline(results.groupby("seed").full.first().mean(), color=UNKNOWN, linewidth=1.6, label="all labels")
    setting = results.iloc[0]
    wrong = f", {setting.error:.0%} of the answers wrong" if setting.error else ""
    ax.set(title=f"{setting.hidden:.0%} of the cells hidden ({setting.mechanism}){wrong}, asked by {setting.by}")
    ax.set(xlabel=over, ylabel=f"mAP on the full truth\n(mean of {results.seed.nunique()} seeds)", xlim=(0, points[-1]))
    handles, labels = ax.get_legend_handles_labels()
    last = {name: own.to_numpy()[:, -1].mean() for name, own in lines.items()}
    order = sorted(range(len(labels)), key=lambda i: -last.get(labels[i], np.inf))
    ax.legend([handles[i] for i in order], [labels[i] for i in order], loc="lower right", frameon=False)
    ax.grid(alpha=0.3)
    return ax
