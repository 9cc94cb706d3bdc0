"""Figures show the numbers that they are given; how they look is judged by eye."""

import warnings
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from mlkit import plots
from mlkit.data import labels
from mlkit.data.plots import cooccurrence, label_balance, na_patterns
from mlkit.inference.plots import prediction
from mlkit.progress import listed, shorten
from mlkit.training.plots import learning_rate_range, loss_curve, worth

mpl.use("Agg")
import matplotlib.pyplot as plt

TABLE = labels.from_codes(np.array([[1, 0], [1, -1], [0, -1], [1, 1]]), ["a", "b", "c", "d"], ["x", "y"])


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_label_balance_stacks_the_shares(ax):
    label_balance(labels.label_counts(TABLE), ax)
    widths = [[bar.get_width() for bar in container] for container in ax.containers]
    np.testing.assert_allclose(widths, [[0.75, 0.25], [0.25, 0.25], [0, 0.5]])
    assert ax.get_title()
    assert ax.get_xlabel()


def test_heat_maps_are_drawn_on_the_given_axes(ax):
    assert cooccurrence(labels.cooccurrence(TABLE), ax) is ax
    ax.clear()
    na_patterns(labels.na_patterns(TABLE), ax)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "2"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["x", "y"]


def test_loss_curve_has_the_names_of_the_seed_and_every_iteration(ax):
    history = pd.DataFrame({"iteration": [1, 2, 3, 4], "loss": [4.0, 3, 2, 1]})
    epochs = pd.DataFrame({"iteration": [2, 4], "validation_loss": [3.5, 2]})
    loss_curve(history, epochs, ax, smoothing=0.0)
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == (
        "Aimonk_multilabel_problem",
        "iteration_number",
        "training_loss",
    )
    raw, smoothed, validation = (line.get_ydata() for line in ax.lines)
    assert list(raw) == list(smoothed) == [4, 3, 2, 1]
    assert list(validation) == [3.5, 2]


def test_prediction_marks_what_is_present(ax):
    table = pd.DataFrame({"attribute": ["x", "y"], "probability": [0.9, 0.2], "threshold": 0.5, "decision": ["yes", "no"]})
    prediction(table, ax)
    colours = [mpl.colors.to_hex(bar.get_facecolor()) for bar in ax.containers[0]]
    assert colours == [plots.YES, plots.UNKNOWN]


def test_learning_rate_range_is_drawn_on_a_logarithmic_axis(ax):
    learning_rate_range(pd.DataFrame({"lr": [1e-6, 1e-4, 1e-2], "loss": [0.7, 0.5, 2.0]}), ax)
    assert ax.get_xscale() == "log"
    assert list(ax.lines[0].get_ydata()) == [0.7, 0.5, 2.0]


def test_worth_shows_ap_and_chance(ax):
    worth(pd.DataFrame({"AP": [0.9, 0.4], "chance": [0.5, 0.1]}, index=["x", "y"]), ax)
    assert [bar.get_width() for bar in ax.containers[0]] == [0.9, 0.4]
    assert list(ax.lines[0].get_xdata()) == [0.5, 0.1]


def test_image_grid_hides_empty_places():
    figure = plots.image_grid([np.zeros((4, 4, 3), np.uint8)] * 5, list("abcde"))
    assert [bool(ax.images) for ax in figure.axes] == [True] * 5 + [False] * 3
    plt.close(figure)


def many(count=300, seed=0):
    """Counts, as `label_counts`, of attributes whose names of 60 characters differ in the middle."""
    codes = np.random.default_rng(seed).integers(-1, 2, (60, count))
    names = [f"an attribute that somebody gave a name {i:03d} of sixty characters" for i in range(count)]
    return labels.from_codes(codes, map(str, range(60)), names)


def names_of(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


@pytest.mark.parametrize("count", [1, 5, 40, 300])
def test_figures_of_many_attributes_show_the_most_telling_and_say_so(count):
    table = many(count)
    counts, together, patterns = labels.label_counts(table), labels.cooccurrence(table), labels.na_patterns(table)
    rng = np.random.default_rng(0)
    ap = pd.DataFrame({"AP": rng.random(count), "chance": 0.5}, table.columns)
    answer = pd.DataFrame(
        {
            "attribute": table.columns,
            "probability": ap.AP.array,
            "threshold": 0.5,
            "decision": np.where(ap.AP > 0.5, "yes", "no"),
        }
    )
    drawn = [
        (plots.rows(counts.index), label_balance, counts, plots.MOST_ROWS),
        (plots.square(counts.index), cooccurrence, together, 25),
        (plots.rows(patterns.columns), na_patterns, patterns, plots.MOST_ROWS),
        (plots.rows(ap.index), worth, ap, plots.MOST_ROWS),
        (plots.beside(np.zeros((4, 4, 3), np.uint8), answer.attribute), prediction, answer, plots.MOST_ROWS),
    ]
    for (figure, ax), draw, data, most in drawn:
        draw(data, ax)
        names = names_of(ax.yaxis)
        assert len(names) == len(set(names)) == (count if count <= most else plots.OF_MANY)
        assert (f"{plots.OF_MANY} of {count}" in ax.get_title()) == (count > most)
        assert figure.get_figheight() < 16
        plt.close(figure)


def test_the_most_telling_come_first_and_those_without_a_worth_last():
    values = pd.Series([0.2, np.nan, 0.9, 0.1, 0.5])
    assert plots.most_telling(values, 5).tolist() == [0, 1, 2, 3, 4]
    assert plots.most_telling(values, 3).tolist() == [2, 4, 0]
    assert plots.most_telling(values, 2, ends=True).tolist() == [2, 3]
    assert plots.most_telling(values * np.nan, 2, ends=True).tolist() == [0, 1]


def test_of_many_names_a_line_has_the_first_and_how_many_more_there_are():
    assert listed([]) == "none"
    assert listed("abc") == "a, b, c"
    assert listed(range(300), 2) == "0, 1 and 298 more"


def test_long_names_keep_both_ends_and_stay_apart():
    assert shorten("short") == "short"
    assert shorten("abcdefghij", 5) == "ab…ij"
    assert shorten("长名字的属性", 7) == "长…性"  # two columns each
    assert plots.shortened(["abcxdef", "abcydef", "other"], 6) == ["abc…ef (1)", "abc…ef (2)", "other"]


@pytest.mark.parametrize(
    ("names", "rotation"), [(["hat"], 0), (["hat", "红色衣服"], 90), ([f"a{i}" for i in range(25)], 90)]
)
def test_names_below_a_heat_map_do_not_overlap_and_its_title_fits(names, rotation):
    codes = np.random.default_rng(0).integers(0, 2, (20, len(names)))
    table = labels.cooccurrence(labels.from_codes(codes, map(str, range(20)), names))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no font of this machine|Glyph")
        figure, ax = plots.square(names)
        cooccurrence(table, ax)
        figure.canvas.draw()
    assert ax.get_xticklabels()[0].get_rotation() == rotation
    extent = ax.title.get_window_extent()
    assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1
    plt.close(figure)


def test_captions_of_many_attributes_are_cut():
    assert labels.captions(many(30))[0].endswith("more")
    figure = plots.image_grid([np.zeros((4, 4, 3), np.uint8)], ["many words " * 100])
    assert len(figure.axes[0].get_xlabel().splitlines()) == 5
    plt.close(figure)


@pytest.fixture
def fonts(monkeypatch):
    monkeypatch.setattr(plots, "_looked_for", set())
    with mpl.rc_context(), warnings.catch_warnings():
        yield


def test_a_font_of_this_machine_that_has_the_characters_is_taken(fonts, monkeypatch):
    path = str(mpl.get_data_path()) + "/fonts/ttf/DejaVuSerif.ttf"
    monkeypatch.setattr(plots.font_manager, "findSystemFonts", lambda: ["broken", path])
    own = plots._characters
    monkeypatch.setattr(plots, "_characters", lambda file: own(file) | {"帽"} if file == path else own(file) - {"帽"})
    plots.use_fonts(["帽", "plain"])
    assert plt.rcParams["font.family"][-1] == "DejaVu Serif"


def test_what_no_font_has_is_said_once_with_what_to_install(fonts, monkeypatch):
    monkeypatch.setattr(plots.font_manager, "findSystemFonts", list)
    with pytest.warns(UserWarning, match="no font of this machine has 帽: .* apt install fonts-noto-cjk"):
        plots.use_fonts(["帽"])
    warnings.simplefilter("error")
    plots.use_fonts(["帽"])


def test_names_are_data_and_no_formulas():
    names = ["$$", "$5 to $10", "a_b^c", r"\frac"]
    figure, ax = plt.subplots()
    label_balance(labels.label_counts(labels.from_codes(np.eye(4), "abcd", names)), ax)
    ax.set(title="$5 to $10", xlabel="$$")
    figure.savefig(BytesIO())
    texts = [text.get_text() for text in ax.get_yticklabels()]
    assert texts == names
    assert not any(text.get_parse_math() for text in [ax.title, ax.xaxis.label, *ax.get_yticklabels()])


def test_logarithmic_axes_have_plain_numbers():
    figure, ax = plt.subplots()
    ax.plot([1e-5, 0.1], [1, 2])
    plots.log_axis(ax)
    figure.savefig(BytesIO())
    assert {text.get_text() for text in ax.get_xticklabels()} >= {"0.001", "0.01"}
