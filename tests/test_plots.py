"""Figures show the numbers that they are given; how they look is judged by eye."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from mlkit import labels, plots

mpl.use("Agg")
import matplotlib.pyplot as plt

TABLE = labels.from_codes(np.array([[1, 0], [1, -1], [0, -1], [1, 1]]), ["a", "b", "c", "d"], ["x", "y"])


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_label_balance_stacks_the_shares(ax):
    plots.label_balance(labels.label_counts(TABLE), ax)
    widths = [[bar.get_width() for bar in container] for container in ax.containers]
    np.testing.assert_allclose(widths, [[0.75, 0.25], [0.25, 0.25], [0, 0.5]])
    assert ax.get_title()
    assert ax.get_xlabel()


def test_heat_maps_are_drawn_on_the_given_axes(ax):
    assert plots.cooccurrence(labels.cooccurrence(TABLE), ax) is ax
    ax.clear()
    plots.na_patterns(labels.na_patterns(TABLE), ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["2 images", "2 images"]


def test_loss_curve_has_the_names_of_the_seed_and_every_iteration(ax):
    history = pd.DataFrame({"iteration": [1, 2, 3, 4], "loss": [4.0, 3, 2, 1]})
    epochs = pd.DataFrame({"iteration": [2, 4], "validation_loss": [3.5, 2]})
    plots.loss_curve(history, epochs, ax, smoothing=0.0)
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == (
        "Aimonk_multilabel_problem",
        "iteration_number",
        "training_loss",
    )
    raw, smoothed, validation = (line.get_ydata() for line in ax.lines)
    assert list(raw) == list(smoothed) == [4, 3, 2, 1]
    assert list(validation) == [3.5, 2]


def test_prediction_marks_what_is_present(ax):
    table = pd.DataFrame({"attribute": ["x", "y"], "probability": [0.9, 0.2], "threshold": 0.5, "present": [True, False]})
    plots.prediction(table, ax)
    colours = [mpl.colors.to_hex(bar.get_facecolor()) for bar in ax.containers[0]]
    assert colours == [plots.YES, plots.UNKNOWN]


def test_learning_rate_range_is_drawn_on_a_logarithmic_axis(ax):
    plots.learning_rate_range(pd.DataFrame({"lr": [1e-6, 1e-4, 1e-2], "loss": [0.7, 0.5, 2.0]}), ax)
    assert ax.get_xscale() == "log"
    assert list(ax.lines[0].get_ydata()) == [0.7, 0.5, 2.0]


def test_worth_shows_ap_and_chance(ax):
    plots.worth(pd.DataFrame({"AP": [0.9, 0.4], "prevalence": [0.5, 0.1]}, index=["x", "y"]), ax)
    assert [bar.get_width() for bar in ax.containers[0]] == [0.9, 0.4]
    assert list(ax.lines[0].get_xdata()) == [0.5, 0.1]


def test_image_grid_hides_empty_places():
    figure = plots.image_grid([np.zeros((4, 4, 3), np.uint8)] * 5, list("abcde"))
    assert [bool(ax.images) for ax in figure.axes] == [True] * 5 + [False] * 3
    plt.close(figure)
