"""Figures of a comparison of runs: they take its tables, and stay readable with many runs."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from mlkit.data.source import DATA
from mlkit.experiments.comparison.overview import key, shorten, written
from mlkit.plots import NO, UNKNOWN, YES, log_axis, shortened, use_fonts

_NAMED, _ALL_NAMED = 6, 7  # runs with a colour and a name among many; up to so many have all one
_ROWS = 25  # of a ranking, at most
_POSITIONS = 6  # values of a number that stand side by side; more are drawn to scale
_DARK, _GREY = "#333333", "#bbbbbb"
_MARKERS = "osD^vPX*"


def losses(histories: Mapping[str, pd.DataFrame], epochs: Mapping[str, pd.DataFrame], note: str = "") -> Figure:
    """Training loss and validation mAP of many runs, overlaid: the first few coloured and named, the others grey.

    The training loss is smoothed over iterations; where the runs' epochs differ in iterations, it is the mean of each epoch.

    Args:
        histories: title -> history.csv, the best run first.
        epochs: title -> epochs.csv, of the same runs.
        note: below the title of the training losses.
    """
    use_fonts(histories)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    by_iteration = len({int((history.epoch == history.epoch.iloc[0]).sum()) for history in histories.values()}) <= 1
    named = len(histories) if len(histories) <= _ALL_NAMED else _NAMED
    handles: list[Line2D] = []  # matplotlib itself leaves a name out of a legend that begins with an underscore
    for number, (title, history) in reversed(list(enumerate(histories.items()))):  # the best on top
        style, table = _line_style(number, named), epochs[title]
        if by_iteration:
            left.plot(history.iteration, history.loss.ewm(alpha=0.1).mean(), **style)
        else:
            means = history.groupby("epoch").loss.mean()
            left.plot(means.index, means, **style)
        right.plot(table.epoch, table.mAP, marker="o", markersize=3, **style)
        if number < named:
            best = int(table.mAP.fillna(-1).to_numpy().argmax())
            point = table.epoch.iloc[best], table.mAP.iloc[best]
            marker = {"marker": _MARKERS[number], "markersize": 7, "color": style["color"], "zorder": 4}
            handles += right.plot(*point, linewidth=1.6, label=title, **marker)
    left.set(title=f"Training loss\n{note}".strip(), xlabel="iteration" if by_iteration else "epoch", ylabel="training loss")
    right.set(title="Validation mAP (large: the best epoch)", xlabel="epoch", ylabel="mAP on the validation images")
    left.set_ylim(bottom=0)
    for ax in (left, right):
        ax.grid(alpha=0.3)
    right.xaxis.get_major_locator().set_params(integer=True)
    names = shortened(list(histories)[:named], 40)[::-1]
    if len(histories) > named:
        handles.insert(0, Line2D([], [], color=_GREY))
        names.insert(0, f"{len(histories) - named} more")
    figure.legend(handles[::-1], names[::-1], loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def _line_style(number: int, named: int) -> dict[str, Any]:
    if number >= named:
        return {"color": _GREY, "linewidth": 0.8, "alpha": 0.7, "zorder": 1}
    return {"color": sns.color_palette("colorblind")[number], "linewidth": 1.6, "zorder": 3}


def ranking(table: pd.DataFrame, level: float = 0.95) -> Figure:
    """Each run's mAP with its interval beside its validation mAP, and its paired difference to the best.

    Args:
        table: of `Comparison.ranking`.
        level: of the intervals.
    """
    top = table.head(_ROWS)
    use_fonts(top.index)
    height = max(0.3 * len(top) + 1.9, 3.0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, height), sharey=True, layout="constrained")
    position = np.arange(len(top))
    errors = np.abs(np.stack([top.mAP - top.low, top.high - top.mAP]))
    left.errorbar(top.mAP, position, xerr=errors, fmt="o", color=YES, capsize=3, label="images that judge, with interval")
    left.plot(
        top.validation_mAP,
        position,
        "D",
        color=NO,
        markersize=5,
        mfc="none",
        mew=1.5,
        label="validation images, which choose",
    )
    left.set_yticks(position, shortened(top.index))
    left.set_ylim(len(top) - 0.4, -0.6)
    left.set(title=f"mAP\n({level:.0%} interval of each)", xlabel="mAP", ylabel="run, by validation mAP")
    errors = np.abs(np.stack([top.difference - top.difference_low, top.difference_high - top.difference]))
    right.axvline(0, color=_DARK, linestyle=":", linewidth=1.2)
    right.errorbar(top.difference, position, xerr=errors, fmt="o", color=YES, capsize=3)
    for y, row in enumerate(top[["difference", "difference_low", "difference_high"]].to_numpy()):
        text = "the best" if y == 0 else f"{row[0]:+.3f} [{row[1]:+.3f}, {row[2]:+.3f}]"
        right.text(1.02, y, text, transform=right.get_yaxis_transform(), va="center", fontsize="small")
    right.set(title=f"Difference to the best\n({level:.0%} interval for all together)", xlabel="paired difference in mAP")
    for ax in (left, right):
        ax.grid(axis="x", alpha=0.3)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside lower left", ncols=2, frameon=False, fontsize="small")
    if len(table) > len(top):
        figure.suptitle(f"The first {len(top)} of {len(table)} runs")
    return figure


def parameters(varying: pd.DataFrame, mean_ap: pd.Series, across: int = 3) -> Figure:
    """A panel per parameter: mAP of the runs over its value; along numbers, a line joins runs equal in everything else.

    Args:
        varying: what the runs were made from as far as they differ, see `overview.varying`.
        mean_ap: mAP by run.
        across: panels side by side, at most.

    Raises:
        ValueError: if the runs differ in no parameter.
    """
    keys = varying.drop(columns=[name for name in DATA if name in varying]).map(key)
    names = [name for name in keys.columns if name not in ("data", "members")]
    if not names:
        raise ValueError("the runs differ in no parameter, and there is nothing to draw")
    use_fonts(varying[names].map(written).to_numpy().ravel())
    rows = -(-len(names) // across)
    across = -(-len(names) // rows)
    figure, axes = plt.subplots(
        rows, across, figsize=(min(9.0, 4.5 * across), 2.9 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    for number, ax in enumerate(axes.flat):
        if number >= len(names):
            ax.axis("off")
            continue
        _panel(varying[names[number]], keys.drop(columns=names[number]), mean_ap, ax)
        if number % across == 0:
            ax.set_ylabel("mAP on the\nimages that judge")
    space = "\n" if across == 1 else " "  # a single panel is narrower than the title
    figure.suptitle(f"mAP by parameter{space}(numbers joined: equal in everything else)")
    return figure


def _panel(values: pd.Series, others: pd.DataFrame, mean_ap: pd.Series, ax: Axes) -> Axes:
    """One parameter; runs that lack it are not drawn."""
    values = values[[not isinstance(value, float) or not np.isnan(value) for value in values]]
    texts = values.map(written)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    order = sorted(set(texts), key=lambda text: (float(values[texts == text].iloc[0]), "") if numbers else (0.0, text))
    if numbers and len(order) > _POSITIONS:
        x = values.astype(float)
        if x.min() > 0 and x.max() / x.min() >= 10:
            log_axis(ax)
    else:
        x = texts.map({text: float(place) for place, text in enumerate(order)})
        many = sum(len(shorten(text)) for text in order) > 24
        ax.set_xticks(range(len(order)), [shorten(text) for text in order], rotation=30 if many else 0)
        if many:
            plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")
        ax.set_xlim(-0.5, len(order) - 0.5)
    if numbers:  # a line between choices would speak of what lies between them
        groups = others.loc[values.index].apply(tuple, axis=1) if others.shape[1] else pd.Series("", values.index)
        for _, group in values.groupby(groups).groups.items():
            joined = pd.DataFrame({"x": x[group], "y": mean_ap[group]}).sort_values("x")
            if joined.x.nunique() > 1:
                ax.plot(joined.x, joined.y, color=YES, linewidth=1.2, alpha=0.7)
    ax.plot(x, mean_ap[values.index], "o", color=YES, markersize=5, alpha=0.8, markeredgecolor="white", zorder=3)
    ax.set_xlabel(str(values.name))
    ax.grid(axis="y", alpha=0.3)
    return ax


def architectures(table: pd.DataFrame, ax: Axes) -> Axes:
    """mAP with its interval over the images/s of the training; colour: network, marker: device, precision, image size.

    Args:
        table: of `conclusion.architectures`: backbone, conditions, img_per_s, parameters, mAP, low, high; runs
            without images/s are not drawn.
        ax: where to draw.
    """
    drawn = table[table.img_per_s.notna()]
    sizes = drawn.groupby("backbone").parameters.max().sort_values()
    colours = dict(zip(sizes.index, sns.color_palette("colorblind", 10) * (1 + len(sizes) // 10), strict=False))
    conditions = list(dict.fromkeys(drawn.conditions))
    for (backbone, condition), group in drawn.groupby(["backbone", "conditions"], sort=False):
        marker = _MARKERS[conditions.index(condition) % len(_MARKERS)]
        errors = np.abs(np.stack([group.mAP - group.low, group.high - group.mAP]))
        style = {"fmt": marker, "color": colours[backbone], "markersize": 7, "capsize": 3}
        ax.errorbar(group.img_per_s, group.mAP, yerr=errors, **style)
    for backbone, size in sizes.items():
        label = f"{backbone}, {size / 1e6:.1f} M" if np.isfinite(size) else str(backbone)
        ax.plot([], [], "s", color=colours[backbone], label=label)
    for condition in conditions if len(conditions) > 1 else ():
        ax.plot([], [], _MARKERS[conditions.index(condition) % len(_MARKERS)], color=UNKNOWN, mec=_DARK, label=condition)
    ax.set(
        xscale="log", title="What accuracy costs", xlabel="images/s of the training", ylabel="mAP on the images that judge"
    )
    if len(drawn):
        ax.set_xlim(drawn.img_per_s.min() / 1.6, drawn.img_per_s.max() * 1.6)  # so wide that one of the ticks is within
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(alpha=0.3)
    if len(drawn):
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="network, parameters", alignment="left")
    return ax
