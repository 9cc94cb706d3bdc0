"""Figures of an evaluation: one function per figure, draws on the given Axes, returns it.

Some show all attributes on one Axes; the others show one attribute, and `per_attribute` repeats them for all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.metrics import CALIBRATION_BINS, expected_calibration_error, reliability
from mlkit.plots import NO, UNKNOWN, YES, beside_rows, legend_below, most_telling, name_rows, partly, use_fonts, wrapped
from mlkit.progress import shorten

_DARK = "#333333"
_CELLS_OF_A_POINT = 20  # in a reliability diagram
_MOST_PANELS, _OF_MANY = 24, 12  # attributes of a figure with a panel for each, and of one that cannot show all
_ACROSS = 4  # panels side by side, at most


def per_attribute(
    draw: Callable[..., Axes],
    title: str,
    attributes: Sequence[str],
    *columns: np.ndarray | float,
    worth: pd.Series | None = None,
) -> Figure:
    """A new figure with one panel per attribute: `draw(column of each array, ..., ax, title)`.

    Example: `per_attribute(pr_curve, "Precision and recall", attributes, probabilities, targets, thresholds)`.

    Args:
        draw: one of the functions below that shows one attribute.
        title: of the figure.
        attributes: names, for the panels' titles.
        columns: what `draw` takes before its Axes, as (images, attributes) or (attributes,) arrays, or one number for all.
        worth: by attribute; of more attributes than panels, those with the largest and the smallest are drawn. The first
            ones where it is not given.
    """
    use_fonts(attributes)
    order = pd.Series(-np.arange(len(attributes))) if worth is None else worth.reindex(list(attributes))
    panels = _MOST_PANELS if len(attributes) <= _MOST_PANELS else _OF_MANY
    chosen = most_telling(order, panels, ends=worth is not None)
    which = "the first" if worth is None else "the best, then the worst"
    title = partly(title, len(chosen), len(attributes), which)
    rows = -(-len(chosen) // _ACROSS)
    across = -(-len(chosen) // rows)  # so that no row is left nearly empty
    figure, axes = plt.subplots(
        rows, across, figsize=(2.3 * across + 0.3, 2.2 * rows + 0.9), squeeze=False, layout="constrained"
    )
    handles: dict[str, Artist] = {}
    for i, ax in enumerate(axes.flat):
        if i >= len(chosen):
            ax.axis("off")
            continue
        j = chosen[i]
        draw(*(column if np.isscalar(column) else np.asarray(column)[..., j] for column in columns), ax, attributes[j])
        handles |= {text: handle for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
        if legend := ax.get_legend():
            legend.remove()
        if i + across < len(chosen):  # there is a panel below, which names the axis
            ax.set_xlabel("")
        if i % across:
            ax.set_ylabel("")
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    figure.suptitle("\n".join(wrapped(line, 24 * across, 4) for line in title.splitlines()))
    columns_below = len(handles) if across > 2 else across  # as wide as the figure allows
    figure.set_figheight(figure.get_figheight() + 0.25 * (-(-len(handles) // columns_below) - 1))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns_below, frameon=False)
    return figure


def pr_curve(probabilities: np.ndarray, targets: np.ndarray, threshold: float, ax: Axes, title: str) -> Axes:
    """Precision over recall of one attribute's known cells, the prevalence, and the working point at the threshold."""
    from sklearn.metrics import average_precision_score, precision_recall_curve  # costs a second

    known = targets >= 0
    y, p = targets[known], probabilities[known]
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1.03), ylim=(0, 1.06))
    _title(ax, title)
    if not 0 < y.sum() < len(y):
        return _lacking(y, ax)
    precision, recall, _ = precision_recall_curve(y, p)
    ax.plot(recall, precision, color=YES, drawstyle="steps-post", label="precision at each recall")
    ax.axhline(y.mean(), color=_DARK, linestyle=":", linewidth=1.2, label="prevalence (yes to all)")
    present = p >= threshold
    if present.any():
        point = y[present].sum() / y.sum(), y[present].mean()
        ax.plot(*point, "o", color=NO, markeredgecolor="black", markersize=8, clip_on=False, label="at the threshold")
    _title(ax, title, f"AP {average_precision_score(y, p):.2f}, threshold {threshold:.2f}")
    ax.legend(fontsize="small")
    return ax


def scores(
    probabilities: np.ndarray, targets: np.ndarray, threshold: float, prevalence: float, ax: Axes, title: str
) -> Axes:
    """Histograms of one attribute's predicted probabilities, known yes and known no apart, with the threshold.

    Beside them the one probability that all images would get without a model: the prevalence in training.
    """
    edges = [round(0.05 * i, 2) for i in range(21)]
    for value, name, colour in ((0, "known no", NO), (1, "known yes", YES)):
        p = probabilities[targets == value]
        if len(p):
            # as shares of the class: counts of a rare class would vanish beside the other
            ax.hist(p, edges, weights=np.full(len(p), 1 / len(p)), color=colour, alpha=0.35)
            shares = np.histogram(p, edges)[0] / len(p)
            ax.stairs(shares, edges, color=colour, linewidth=1.5, label=name)
    ax.axvline(threshold, color="black", linestyle="--", linewidth=1.2, label="threshold")
    ax.axvline(prevalence, color=_DARK, linestyle=":", linewidth=1.2, label="without a model (prevalence)")
    ax.set(xlabel="predicted probability", ylabel="share of the class", xlim=(0, 1))
    yes, no = (targets == 1).sum(), (targets == 0).sum()
    _title(ax, title, f"{yes} yes, {no} no")
    ax.legend(loc="upper center", fontsize="small")
    return ax


def reliability_diagram(
    before: np.ndarray,
    after: np.ndarray,
    targets: np.ndarray,
    prevalence: float,
    ax: Axes,
    title: str,
    bins: int = 0,
) -> Axes:
    """Observed share over predicted probability of one attribute, before and after calibration; on the diagonal is right.

    Beside them the point of always predicting the prevalence in training.

    Args:
        before, after: probabilities (images,).
        targets: (images,) of 1, 0 and -1 for unknown.
        prevalence: in training.
        ax: where to draw.
        title: of the panel; the ECE of `metrics` is added.
        bins: points at most; 0 takes one for every 20 known cells, as fewer in each make a zigzag of noise.
    """
    cells = int((targets >= 0).sum())
    bins = bins or min(CALIBRATION_BINS, max(1, cells // _CELLS_OF_A_POINT))
    ax.plot([0, 1], [0, 1], color=_DARK, linestyle=":", linewidth=1.2, label="perfect")
    for p, name, colour, style in ((before, "before", NO, "s--"), (after, "after", YES, "o-")):
        table = reliability(p, targets, bins)
        ax.plot(
            table.predicted, table.observed, style, color=colour, label=name, markersize=3.5, linewidth=1.2, clip_on=False
        )
    if cells:
        ax.plot(
            prevalence, targets[targets >= 0].mean(), "D", color="black", markersize=5, label="without a model (prevalence)"
        )
    ax.set(xlabel="predicted probability", ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
    errors = [expected_calibration_error(p, targets) for p in (before, after)]
    _title(ax, title, f"ECE {errors[0]:.3f} → {errors[1]:.3f}")
    ax.legend(fontsize="small")
    return ax


def intervals(
    table: pd.DataFrame,
    chance: pd.Series,
    ax: Axes,
    head: pd.Series | None = None,
) -> Axes:
    """Each attribute's figure with its interval, and its chance level; the macro mean below.

    Args:
        table: one figure of `intervals.jackknife`, as `.loc["AP"]`: value, low, high; low and high are NaN where there are
            too few cells for an interval.
        chance: chance levels by attribute, as `metrics.evaluate(...).chance`; of the mean, their mean.
        ax: where to draw.
        head: what a linear head on frozen features reaches, by the names of `table`.
    """
    levels = chance.reindex(table.index).where(table.value.notna())
    levels[levels.index == MEAN] = levels.mean()
    whole, (table, levels) = (table.index != MEAN).sum(), _with_mean(table.value - levels, table, levels)
    position = _estimates(table, "value", ".2f", ax)
    ax.plot(levels, position, "|", color=NO, markersize=11, markeredgewidth=2.5, label="chance level")
    if head is not None and head.notna().any():
        ax.plot(head.reindex(table.index), position, "x", color="#555555", markersize=6, label="linear head")
    title = partly(
        "Average precision and its uncertainty", (table.index != MEAN).sum(), whole, "furthest above and below chance"
    )
    ax.set(title=title, xlabel="average precision", xlim=(-0.01, 1.02))
    legend_below(ax)
    return ax


def confusion(table: pd.DataFrame, ax: Axes, figures: pd.DataFrame | None = None) -> Axes:
    """Known cells by truth and decision, a row per attribute.

    The darker, the larger the share of the cell's true class; right decisions in one colour, wrong ones in another.

    Args:
        table: of `metrics.confusion`.
        ax: where to draw.
        figures: of `metrics.evaluate`, whose accuracy is then written beside that of always answering the majority.
    """
    wrong = (table.FN + table.FP) / table[["TP", "FN", "FP", "TN"]].sum(axis=1).replace(0, np.nan)
    whole, table = len(table), table.iloc[most_telling(wrong)]
    positives, negatives = table.TP + table.FN, table.FP + table.TN
    columns = {"TP": (positives, YES), "FN": (positives, NO), "FP": (negatives, NO), "TN": (negatives, YES)}
    image = np.ones((len(table), 4, 3))
    for column, (name, (total, colour)) in enumerate(columns.items()):
        share = (table[name] / total.where(total > 0)).fillna(0).to_numpy()
        image[:, column] = 1 - share[:, None] * (1 - np.array(to_rgb(colour)))
        for row, (count, part) in enumerate(zip(table[name], share, strict=True)):
            text = f"{count} ({part:.0%})" if total.iloc[row] else "none known"
            dark = colour == YES and part > 0.6
            ax.text(column, row, text, ha="center", va="center", fontsize="small", color="white" if dark else "black")
    if figures is not None:
        for row, (own, majority) in enumerate(figures.loc[table.index, ["accuracy", "majority_accuracy"]].to_numpy()):
            text = f"{own:.2f} / {majority:.2f}" if np.isfinite(own) else "-"
            ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small")
        heading = offset_copy(ax.transAxes, ax.get_figure(root=True), y=-7, units="points")
        ax.text(1.02, 0, "accuracy /\nmajority's", transform=heading, va="top", fontsize="small")
    ax.imshow(image, aspect="auto")
    ax.set_xticks(range(4), ["yes, found\n(TP)", "yes, missed\n(FN)", "no, claimed\n(FP)", "no, refused\n(TN)"])
    name_rows(ax, table.index)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.hlines(np.arange(len(table) - 1) + 0.5, -0.5, 3.5, color="white", linewidth=1)
    ax.vlines([0.5, 1.5, 2.5], -0.5, len(table) - 0.5, color="white", linewidth=[1, 6, 1])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    title = partly("Decisions on known cells (share of the true class)", len(table), whole, "most often wrong")
    ax.set(title=title, xlabel="truth and decision", ylabel="attribute")
    return ax


def differences(table: pd.DataFrame, ax: Axes, first: str, second: str) -> Axes:
    """Each attribute's paired difference `first - second` with its interval, beside zero; the macro mean below.

    Args:
        table: one figure of `intervals.compare`, as `.loc["AP"]`: difference, low, high.
        ax: where to draw.
        first, second: names of the two.
    """
    whole, (table,) = (table.index != MEAN).sum(), _with_mean(table.difference, table)
    _estimates(table, "difference", "+.3f", ax)
    ax.axvline(0, color=_DARK, linestyle=":", linewidth=1.2)
    title = f"Paired difference in average precision, {shorten(first)} minus {shorten(second)}"
    title = partly(title, (table.index != MEAN).sum(), whole, "furthest above and below zero")
    ax.set(title=title, xlabel="difference in average precision")
    return ax


def gallery(images: Sequence[np.ndarray | None], table: pd.DataFrame, title: str, across: int = 6) -> Figure:
    """A new figure of images on which a decision is wrong, each with what the model and the label say.

    Args:
        images: pixels, None where the file cannot be read any more.
        table: one row per image, as `predictions.mistakes`: attribute, target, probability.
        title: of the figure.
        across: images side by side.
    """
    use_fonts(table.attribute)
    rows = max(1, -(-len(table) // across))
    figure, axes = plt.subplots(
        rows, across, figsize=(1.45 * across, 1.95 * rows + 0.4), squeeze=False, layout="constrained"
    )
    figure.suptitle(title)
    for ax in axes.flat:
        ax.axis("off")
    for number, (ax, image, row) in enumerate(zip(axes.flat, images, table.itertuples(), strict=False), 1):
        ax.axis("on")
        ax.set(xticks=[], yticks=[])
        if image is None:
            ax.set_box_aspect(1)
            ax.text(0.5, 0.5, "file cannot\nbe read", ha="center", va="center", transform=ax.transAxes, fontsize="small")
        else:
            ax.imshow(image)
        said, truth = ("no", "yes") if row.target == 1 else ("yes", "no")
        text = f"{number}. {shorten(str(row.attribute), 18)}\nmodel {said} ({row.probability:.2f})\nlabel {truth}"
        ax.set_xlabel(text, fontsize="small", color="black")
        ax.spines[:].set(color=NO if truth == "no" else YES, linewidth=2)
    return figure


def _with_mean(worth: pd.Series, *tables: Any) -> list[Any]:
    """Of each table the rows to draw: the attributes chosen by worth, then the macro mean where there is one."""
    mean = worth.index == MEAN
    chosen = np.concatenate([np.flatnonzero(~mean)[most_telling(worth[~mean], ends=True)], np.flatnonzero(mean)])
    return [table.iloc[chosen] for table in tables]


def _estimates(table: pd.DataFrame, name: str, style: str, ax: Axes) -> np.ndarray:
    """A row for each estimate `name` with its interval, drawn and in figures; gives the rows' positions."""
    position: np.ndarray = np.arange(len(table)) + 0.4 * (table.index == MEAN)
    value = table[name]
    errors = np.abs(np.stack([value - table.low, table.high - value]))
    ax.errorbar(value, position, xerr=errors, fmt="o", color=YES, capsize=3, label=f"{name} and interval")
    texts = []
    for own, *ends in table[[name, "low", "high"]].to_numpy():
        low, high = (format(end, style) for end in ends)
        text = f"{own:{style}} [{low}, {high}]" if np.isfinite(ends).all() else f"{own:{style}}, few cells"
        texts.append(text if np.isfinite(own) else "lacks a class")
    beside_rows(ax, texts, position)
    if MEAN in table.index:
        ax.axhline(position[-1] - 0.7, color=UNKNOWN, linewidth=1)
    name_rows(ax, table.index, position)
    ax.set_ylabel("attribute")
    ax.grid(axis="x", alpha=0.3)
    return position


def _title(ax: Axes, name: str, below: str = "") -> None:
    ax.set_title(f"{wrapped(shorten(name, 44), 24, 2)}\n{below}".strip(), fontsize="medium")


def _lacking(y: np.ndarray, ax: Axes) -> Axes:
    text = "no known cell" if not len(y) else "no known yes" if not y.sum() else "no known no"
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes)
    return ax
