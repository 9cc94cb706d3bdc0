"""Names are data: every figure and table shows them as they are, whatever they hold."""

import warnings
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from mlkit import plots
from mlkit.data import labels
from mlkit.data.plots import cooccurrence, label_balance, na_patterns
from mlkit.evaluation import intervals, metrics
from mlkit.evaluation import plots as evaluation_plots
from mlkit.experiments.comparison import plots as comparison_plots
from mlkit.experiments.search import plots as search_plots
from mlkit.inference.plots import prediction
from mlkit.progress import shorten
from mlkit.training.plots import loss_curve, worth

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.text import Text

NAMES = [
    "$x$",
    "$^$",
    "$5 to $10",
    r"\frac{a}_b^c & \alpha",
    "_",
    "100%s %d {0} {x}",
    "<b>bold</b>&amp;<script>",
    "\"'`´",
    "🎩 ok",
    "👩‍👧 ❤️",
    "红色衣服",
    "قبعة حمراء",
    "כובע",
    "e\u0301te\u0301",
    "1e5",
    "a" + 98 * "x" + "!" + 99 * "y" + "z",
]
IMAGE = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """Matplotlib warns of nothing; what no font of this machine has is said once."""
    monkeypatch.setattr(plots, "_looked_for", set())
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "no font of this machine")
        yield
    plt.close("all")


def check(figure, names, *widths):
    """The figure can be saved, and for each name one of its texts has it as it is, or without its middle."""
    figure.savefig(BytesIO(), dpi=20)
    artists = figure.findobj(Text)
    assert not any(text.get_parse_math() for text in artists)
    shown = ["".join(text.get_text().split()) for text in artists]  # without the breaks of lines
    for name in names:
        wanted = ["".join(shorten(name, width).split()) for width in widths]
        assert any(one in text for text in shown for one in wanted), name


def drawn(figure_and_axes, draw, *data):
    figure, ax = figure_and_axes
    draw(*data, ax)
    return figure


def test_figures_of_labels():
    codes = np.random.default_rng(0).integers(-1, 2, (12, len(NAMES)))
    table = labels.from_codes(codes, map(str, range(12)), NAMES)
    counts, together, patterns = labels.label_counts(table), labels.cooccurrence(table), labels.na_patterns(table)
    check(drawn(plots.rows(NAMES), label_balance, counts), NAMES, 28)
    check(drawn(plots.square(NAMES), cooccurrence, together), NAMES, 24)
    check(drawn(plots.rows(NAMES), na_patterns, patterns), NAMES, 28)


def test_captions_of_images():
    every = labels.from_codes(np.eye(len(NAMES)), map(str, NAMES), NAMES)
    check(plots.image_grid([IMAGE] * len(NAMES), labels.captions(every)), NAMES, 24)
    images = ["a  b.jpg", " .jpg", "x/$1$_<b>.png"]
    check(plots.image_grid([IMAGE] * 3, images), images, 28)


def test_figures_of_a_training_and_of_an_answer():
    table = pd.DataFrame({"AP": 0.9, "chance": 0.5}, index=NAMES)
    check(drawn(plots.rows(NAMES), worth, table), NAMES, 28)
    answer = pd.DataFrame({"attribute": NAMES, "probability": 0.9, "threshold": 0.5, "decision": "yes"})
    check(drawn(plots.beside(IMAGE, NAMES), prediction, answer), NAMES, 28)
    plots.use_fonts(["$红$"])
    history = pd.DataFrame({"iteration": [1, 2], "loss": 1.0, "validation_loss": 1.0})
    check(loss_curve(history, history, plt.subplots()[1], "$红$").figure, ["$红$"], 28)


def test_figures_of_an_evaluation():
    rng = np.random.default_rng(0)
    p, y, half = rng.random((40, len(NAMES))), rng.integers(-1, 2, (40, len(NAMES))), np.full(len(NAMES), 0.5)
    table = metrics.evaluate(p, y, NAMES, half)
    panels = {
        evaluation_plots.pr_curve: (p, y, half),
        evaluation_plots.scores: (p, y, half, half),
        evaluation_plots.reliability_diagram: (p, p, y, half),
    }
    few = len(NAMES)
    for draw, columns in panels.items():
        check(evaluation_plots.per_attribute(draw, "Panels", NAMES[:few], *(c[..., :few] for c in columns)), NAMES[:few], 44)
        few = 4  # titles are set in the same way for all kinds of panels
    jackknife, pairs = intervals.jackknife(p, y, NAMES), intervals.compare(p, p[::-1], y, NAMES)
    check(evaluation_plots.intervals(jackknife.loc["AP"], table.chance, plots.rows(NAMES)[1]).figure, NAMES, 28)
    ax = plots.rows(NAMES)[1]
    check(evaluation_plots.differences(pairs.loc["AP"], ax, "$a$", NAMES[-1]).figure, [*NAMES, "$a$"], 28)
    check(evaluation_plots.confusion(metrics.confusion(p, y, NAMES), plots.rows(NAMES)[1], table).figure, NAMES, 28)
    wrong = pd.DataFrame({"attribute": NAMES, "target": 1, "probability": 0.1})
    check(evaluation_plots.gallery([IMAGE] * len(NAMES), wrong, "$a$"), [*NAMES, "$a$"], 18)


def test_figures_of_runs_and_of_a_search():
    history = pd.DataFrame({"iteration": [1, 2], "epoch": [1, 2], "loss": [1.0, 0.5], "mAP": 0.5})
    for runs in np.array_split(np.array(NAMES, dtype=object), 3):
        check(comparison_plots.losses(dict.fromkeys(runs, history), dict.fromkeys(runs, history)), runs, 40)
    columns = ["validation_mAP", "mAP", "low", "high", "difference", "difference_low", "difference_high"]
    ranking = pd.DataFrame(0.5, NAMES, columns)
    check(comparison_plots.ranking(ranking), NAMES, 28)
    check(comparison_plots.parameters(pd.DataFrame({"weights": NAMES}, NAMES, dtype=object), ranking.mAP), NAMES[:3], 28)
    trials = pd.DataFrame({"state": "complete", "mAP": 0.5, "weights": NAMES})
    check(search_plots.slices(trials, ["weights"]), NAMES, 28)


def test_tables_of_notebooks_are_neither_markup_nor_formulas():
    html = pd.DataFrame({"attribute": NAMES}, index=NAMES)._repr_html_()
    assert not any(markup in html for markup in ("<b>", "<script>"))
    assert html.count("$5 to $10") == 2
    assert "mathjax_ignore" in html  # JupyterLab would set them as formulas


def test_a_font_of_pictures_alone_is_not_taken(monkeypatch):
    class Bitmap:
        scalable = False

        def __init__(self, path):
            pass

        def get_charmap(self):
            return {ord("🎩"): 1}

    monkeypatch.setattr(plots, "FT2Font", Bitmap)
    assert not plots._characters("NotoColorEmoji.ttf")
