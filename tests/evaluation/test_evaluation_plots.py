"""Figures show the numbers that they are given; how they look is judged by eye."""

import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from mlkit.evaluation import plots
from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.metrics import confusion, reliability

mpl.use("Agg")
import matplotlib.pyplot as plt

Y = np.array([1, 1, 0, 1, 0, 0, -1])
P = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.1, np.nan])


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def named(ax):
    return bool(ax.get_title() and ax.get_xlabel() and ax.get_ylabel())


def test_pr_curve_has_its_area_chance_and_working_point(ax):
    assert plots.pr_curve(P, Y, 0.65, ax, "a") is ax
    curve, chance, point = ax.lines
    recall, precision = curve.get_data()
    area = -np.sum(np.diff(recall) * precision[:-1])
    assert area == pytest.approx(average_precision_score(Y[:6], P[:6]))
    assert chance.get_ydata()[0] == 0.5
    np.testing.assert_allclose(np.ravel(point.get_data()), [2 / 3, 2 / 3])
    assert ax.get_title() == "a\nAP 0.92, threshold 0.65"
    assert named(ax)


@pytest.mark.parametrize(
    ("targets", "text"), [(Y * 0, "no known yes"), (Y * 0 + 1, "no known no"), (Y * 0 - 1, "no known cell")]
)
def test_pr_curve_says_what_is_lacking(ax, targets, text):
    plots.pr_curve(np.nan_to_num(P), targets, 0.5, ax, "a")
    assert [part.get_text() for part in ax.texts] == [text]


def test_pr_curve_without_a_positive_decision_has_no_working_point(ax):
    plots.pr_curve(P, Y, 0.95, ax, "a")
    assert len(ax.lines) == 2


def test_scores_are_shares_of_each_class(ax):
    plots.scores(P, Y, 0.65, 0.4, ax, "a")
    shares = {patch.get_label(): patch.get_data().values for patch in ax.patches if isinstance(patch, mpl.patches.StepPatch)}
    assert {name: values.sum() for name, values in shares.items()} == pytest.approx({"known yes": 1, "known no": 1})
    assert [line.get_xdata()[0] for line in ax.lines] == [0.65, 0.4]
    assert ax.get_title() == "a\n3 yes, 3 no"
    assert named(ax)


def test_reliability_shows_before_and_after(ax):
    plots.reliability_diagram(P, P**2, Y, 0.4, ax, "a", bins=3)
    *curves, alone = ax.lines
    assert [line.get_label() for line in curves] == ["perfect", "before", "after"]
    np.testing.assert_allclose(np.ravel(alone.get_data()), [0.4, 0.5])
    for line, p in zip(curves[1:], (P, P**2), strict=True):
        table = reliability(p, Y, 3)
        np.testing.assert_array_equal(line.get_data(), [table.predicted, table.observed])
    assert "ECE" in ax.get_title()
    assert named(ax)


def test_reliability_has_a_point_for_every_20_cells(ax):
    p = np.linspace(0, 1, 105)
    plots.reliability_diagram(p, p, (p > 0.5).astype(int), 0.5, ax, "a")
    assert len(ax.lines[1].get_xdata()) == 5


def test_intervals_mark_chance_of_attributes_that_have_a_value(ax):
    index = pd.Index(["a", "b", "c", MEAN], name="attribute")
    nan = np.nan
    columns = {"value": [0.9, nan, 0.4, 0.65], "low": [0.8, nan, 0.2, 0.5], "high": [0.95, nan, 0.6, 0.8]}
    chance = pd.Series({"a": 0.5, "b": 0.0, "c": 0.1})
    assert plots.intervals(pd.DataFrame(columns, index=index), chance, ax) is ax
    (container,) = ax.containers
    points, _, (bars,) = container
    np.testing.assert_array_equal(points.get_xdata().astype(float), columns["value"])
    ends = [segment[:, 0] for segment in bars.get_segments() if len(segment)]
    np.testing.assert_allclose(ends, [[0.8, 0.95], [0.2, 0.6], [0.5, 0.8]])
    marks = next(line for line in ax.lines if line.get_label() == "chance level")
    np.testing.assert_allclose(marks.get_xdata(), [0.5, nan, 0.1, 0.3])
    for head, shown in ((pd.Series({"a": 0.7}), True), (pd.Series({"a": nan}), False)):  # an ensemble has no linear head
        ax.clear()
        plots.intervals(pd.DataFrame(columns, index=index), chance, ax, head=head)
        assert ("linear head" in [line.get_label() for line in ax.lines]) == shown
    assert [text.get_text() for text in ax.texts] == [
        "0.90 [0.80, 0.95]",
        "lacks a class",
        "0.40 [0.20, 0.60]",
        "0.65 [0.50, 0.80]",
    ]
    assert named(ax)
    ax.clear()
    few = pd.DataFrame({"value": [0.9], "low": [nan], "high": [nan]}, index=index[:1])
    plots.intervals(few, chance, ax)
    assert [text.get_text() for text in ax.texts] == ["0.90, few cells"]


def test_confusion_writes_counts_and_shares_of_the_true_class(ax):
    targets = np.stack([Y, np.minimum(Y, 0)], axis=1)
    plots.confusion(confusion(np.stack([P, P], axis=1), targets, ["a", "b"], 0.65), ax)
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert [texts[column, 0] for column in range(4)] == ["2 (67%)", "1 (33%)", "1 (33%)", "2 (67%)"]
    assert [texts[column, 1] for column in range(4)] == ["none known", "none known", "3 (50%)", "3 (50%)"]
    assert named(ax)


def test_confusion_shows_accuracy_beside_the_majoritys(ax):
    figures = pd.DataFrame({"accuracy": [0.9, np.nan], "majority_accuracy": [0.8, np.nan]}, index=["a", "b"])
    targets = np.stack([Y, Y * 0 - 1], axis=1)
    plots.confusion(confusion(np.stack([P, P], axis=1), targets, ["a", "b"], 0.65), ax, figures)
    assert [text.get_text() for text in ax.texts][-3:] == ["0.90 / 0.80", "-", "accuracy /\nmajority's"]


def test_differences_are_shown_with_their_intervals(ax):
    table = pd.DataFrame({"difference": [0.1, np.nan, 0.1], "low": [-0.1, np.nan, 0.0], "high": [0.3, np.nan, 0.2]})
    table.index = pd.Index(["a", "b", MEAN], name="attribute")
    plots.differences(table, ax, "one", "two")
    assert [text.get_text() for text in ax.texts] == [
        "+0.100 [-0.100, +0.300]",
        "lacks a class",
        "+0.100 [+0.000, +0.200]",
    ]
    assert "one minus two" in ax.get_title()
    assert named(ax)


def test_gallery_says_what_model_and_label_say_and_shows_a_lost_file():
    columns = {"attribute": ["a", "b"], "target": [1, 0], "probability": [0.1, 0.9]}
    figure = plots.gallery([np.zeros((9, 5, 3), np.uint8), None], pd.DataFrame(columns), "Mistakes", across=3)
    first, second, rest = figure.axes
    assert first.get_xlabel() == "1. a\nmodel no (0.10)\nlabel yes"
    assert second.get_xlabel() == "2. b\nmodel yes (0.90)\nlabel no"
    assert [text.get_text() for text in second.texts] == ["file cannot\nbe read"]
    assert not rest.axison
    plt.close(figure)


def test_gallery_without_a_mistake_is_a_title():
    figure = plots.gallery([], pd.DataFrame(columns=["attribute", "target", "probability"]), "No mistake")
    assert not any(ax.axison for ax in figure.axes)
    plt.close(figure)


@pytest.mark.parametrize(("count", "across"), [(1, 1), (2, 2), (4, 4), (5, 3), (6, 3)])
def test_per_attribute_has_a_panel_each_and_one_legend(count, across):
    names = [f"attribute {i}" for i in range(count)]
    p, y = np.tile(P[:, None], count), np.tile(Y[:, None], count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that does not fit warns
        figure = plots.per_attribute(plots.pr_curve, "Precision and recall", names, p, y, np.linspace(0.2, 0.8, count))
        figure.canvas.draw()
    used = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title().splitlines()[0] for ax in used] == names
    (legend,) = figure.legends
    assert figure.bbox.containsx(legend.get_window_extent().x0), "the legend fits"
    assert used[0].get_gridspec().ncols == across
    assert not any(ax.get_legend() for ax in used)
    bottom = used[-across:]
    assert all(ax.get_xlabel() == "recall" for ax in bottom)
    assert used[0].get_ylabel() == "precision"
    plt.close(figure)


def test_long_names_are_wrapped_and_cut(ax):
    plots.scores(P, Y, 0.5, 0.4, ax, "an attribute whose name is much longer than anybody should ever choose")
    lines = ax.get_title().splitlines()
    assert max(map(len, lines)) <= 25
    assert "…" in "".join(lines)


def test_of_many_attributes_the_best_and_the_worst_have_a_panel_or_a_row_and_the_mean_stays():
    count = 100
    names = pd.Index([f"attribute {i}" for i in range(count)], name="attribute")
    worth = pd.Series(np.linspace(1, 0, count), names)
    p, y = np.tile(P[:, None], count), np.tile(Y[:, None], count)
    figure = plots.per_attribute(plots.pr_curve, "Curves", list(names), p, y, 0.5, worth=worth)
    titles = [ax.get_title().splitlines()[0] for ax in figure.axes if ax.axison]
    assert titles == list(names[[*range(6), *range(94, 100)]])
    assert "12 of 100" in figure.get_suptitle()
    plt.close(figure)
    table = pd.DataFrame({"value": worth, "low": worth - 0.1, "high": worth + 0.1})
    table.loc[MEAN] = 0.5
    figure, ax = plt.subplots()
    plots.intervals(table, worth * 0 + 0.5, ax)
    drawn = [text.get_text() for text in ax.get_yticklabels()]
    assert drawn == [*names[:12], *names[88:], MEAN]
    assert "24 of 100" in ax.get_title()
    plt.close(figure)
    figure, ax = plt.subplots()
    plots.confusion(confusion(p, y, list(names), 0.65), ax, pd.DataFrame({"accuracy": 0.5, "majority_accuracy": 0.5}, names))
    assert len(ax.get_yticklabels()) == 24
    plt.close(figure)
