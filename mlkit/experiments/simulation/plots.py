"""The figure of a simulation: takes its results, draws on the given Axes, returns it."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from mlkit.curation.orders import DEFAULT_ORDER
from mlkit.experiments.simulation.config import YARDSTICK
from mlkit.experiments.simulation.findings import SETTING, curves
from mlkit.experiments.study.findings import t_interval
from mlkit.plots import UNKNOWN, legend_below


def campaigns(results: pd.DataFrame, ax: Axes, over: str = "answers") -> Axes:
    """mAP over answers, a line per order, with the level that all labels reach.

    The band is the 95 % interval of the difference between `DEFAULT_ORDER` and `YARDSTICK` of the same seed, by Student's t
    over the seeds, on top of the yardstick's line: seeds differ in their test images, which moves all orders alike. With a
    single seed there is none.

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
        style = {"color": sns.color_palette("colorblind", 10)[number % 10], "marker": "osD^vPX*"[number % 8]}
        if name == YARDSTICK:
            style = {"color": "#333333", "linestyle": "--"}
        ax.plot(points, own.mean(), linewidth=1.4, markersize=5, markevery=len(points) // 10, label=name, **style)
        gain = (own - base).dropna()
        if name == DEFAULT_ORDER and len(gain) > 1:
            _, low, high = np.array([t_interval(gain[point].to_numpy()) for point in points]).T
            middle = base.to_numpy().mean(axis=0)
            ax.fill_between(
                points, middle + low, np.minimum(middle + high, 1), color=style["color"], alpha=0.15, linewidth=0
            )
    ax.axhline(results.groupby("seed").full.first().mean(), color=UNKNOWN, linewidth=1.6, label="all labels")
    setting = results.iloc[0]
    wrong = f", {setting.error:.0%} of the answers wrong" if setting.error else ""
    ax.set(title=f"{setting.hidden:.0%} of the cells hidden ({setting.mechanism}){wrong}, asked by {setting.by}")
    ax.set(xlabel=over, ylabel=f"mAP on the full truth\n(mean of {results.seed.nunique()} seeds)", xlim=(0, points[-1]))
    legend_below(ax, 4)
    ax.grid(alpha=0.3)
    return ax
