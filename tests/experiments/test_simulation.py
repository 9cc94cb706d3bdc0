"""The simulation of what to label next: who is asked, who judges, resumed as if never stopped, what its curves say."""

import re
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from tinynet import TINYNET

from mlkit import cli
from mlkit.curation.orders import ORDERS
from mlkit.data.labels import from_codes, to_codes
from mlkit.data.source import DataSource
from mlkit.errors import ParameterError, RunError
from mlkit.experiments.simulation import Simulation, campaign, cells, plots, simulate
from mlkit.experiments.simulation.campaign import mean_ap, person
from mlkit.experiments.simulation.config import Campaign
from mlkit.experiments.simulation.findings import curves, differences, overall
from mlkit.experiments.simulation.learners import principal
from mlkit.runs import outputs_root
from mlkit.training.config import TrainConfig

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = TrainConfig(
    backbone=TINYNET, image_size=16, weights="none", epochs=1, batch_size=16, precision="fp32", test_fraction=0.3
)
SMALL = Simulation(
    ["uncertain", "random"], ["cell"], [0.8], seeds=[0, 1], rounds=2, answers_per_round=10, components=8, config=CONFIG
)
CAMPAIGN = Campaign("uncertain", "cell", 0.6, "random", 0.0, 0)


@pytest.fixture(scope="module")
def world(sample):
    """Images of the sample with two attributes that depend linearly on features."""
    pictures = DataSource(str(sample / "images"), str(sample / "truth.csv")).open(16)
    features = np.random.default_rng(0).standard_normal((len(pictures), 12)).astype(np.float32)
    codes = np.stack([features[:, 0] > 0, features[:, 1] > 0.8, features[:, 2] > 0], axis=1)
    return pictures.with_labels(from_codes(codes, pictures.labels.index, ["a", "b", "c"])), features


def table(images=400, attributes=4):
    codes = (np.random.default_rng(0).random((images, attributes)) < 0.3).astype(np.int8)
    return from_codes(codes, map(str, range(images)), [f"a{i}" for i in range(attributes)])


def test_person_is_wrong_as_often_as_said_and_answers_every_order_alike():
    truth, test = table(2000), np.arange(2000) < 500
    known, answers = person(SMALL, CAMPAIGN, truth, test)
    true = to_codes(truth)
    assert (answers == true).all()
    assert (known[test] == -1).all()
    assert (known[~test] >= 0).mean() == pytest.approx(0.4, abs=1e-3)
    often = replace(CAMPAIGN, error=0.05)
    wrong_known, wrong_answers = person(SMALL, often, truth, test)
    assert (wrong_answers != true).mean() == pytest.approx(0.05, abs=0.01)
    there = known >= 0
    assert ((wrong_known >= 0) == there).all()
    assert (wrong_known != true)[there].mean() == pytest.approx(0.05, abs=0.01)
    again = person(SMALL, replace(often, order="random", by="image"), truth, test)
    assert (again[0] == wrong_known).all()
    assert (again[1] == wrong_answers).all()


def test_mean_ap_is_over_attributes_with_both_classes_and_known_cells():
    true = np.array([[1, 0, -1], [0, 0, 1], [1, 0, 0]])
    assert mean_ap(np.array([[0.9, 0.1, 0.5], [0.2, 0.2, 0.8], [0.8, 0.1, 0.1]]), true) == 1.0


class Spy:
    """In place of a learner: writes down what it was taught, and is sure of nothing."""

    folds = np.arange(400) % 5

    def __init__(self):
        self.taught = []

    def learn(self, codes):
        self.taught.append(codes.copy())
        return np.random.default_rng(len(self.taught)).random(codes.shape)

    def members(self, codes):
        return np.random.default_rng(0).random((5, *codes.shape))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("by", ["cell", "image"])
def test_asks_no_test_image_and_no_cell_twice(order, by):
    truth, test, spy = table(), np.arange(400) % 4 == 0, Spy()
    asked = replace(CAMPAIGN, order=order, by=by, error=0.3)
    given, curve = campaign.run_campaign(
        replace(SMALL, rounds=3, answers_per_round=50), asked, truth, test, np.random.default_rng(0).random((400, 6)), spy
    )
    assert len(given) == len(curve) == len(spy.taught)
    assert given[0] == 0
    _, answers = person(SMALL, asked, truth, test)
    answered = np.zeros(truth.shape, bool)
    for before, after in zip(spy.taught, spy.taught[1:], strict=False):
        assert (after[test] == -1).all()
        changed = before != after
        assert not (changed & answered).any()
        assert (after == answers)[changed].all()
        answered |= changed
    if order != "errors":  # where an answer may be what was there
        assert answered.sum() == given[-1]
        assert given[-1] >= 150


def test_small_simulation_from_end_to_end_resumes_to_the_same(world, outputs, monkeypatch, capsys):
    truth, features = world
    whole = simulate(SMALL, truth, "whole", features)
    assert len(whole) == 2 * 2 * 3
    assert whole.groupby("order").answers.apply(list).tolist() == [[0, 10, 20] * 2] * 2
    assert whole.mAP.between(0, 1).all()
    assert whole.groupby("seed").full.nunique().tolist() == [1, 1]
    assert (whole.seconds == whole.answers).all()
    real, begun = cells.run_campaign, []

    def cut(*arguments):
        begun.append(arguments[1])
        if len(begun) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cells, "run_campaign", cut)
        with pytest.raises(KeyboardInterrupt):
            simulate(SMALL, truth, "cut", features)
        resumed = simulate(replace(SMALL, seconds_cell=2.0), truth, "cut", features)
        assert len(begun) == 5, "what was finished is kept, and the cell that was cut is computed again"
    pd.testing.assert_frame_equal(resumed.drop(columns="seconds"), whole.drop(columns="seconds"))
    assert (resumed.seconds == 2 * resumed.answers).all()
    assert "4 campaigns, of which 2 are finished already" in capsys.readouterr().out
    names = {path.name for path in (outputs_root() / "cut" / "cells").glob("*.json")}
    assert names == {path.name for path in (outputs_root() / "whole" / "cells").glob("*.json")}
    simulate(replace(SMALL, orders=["random"]), truth, "cut", features + 1)
    assert len(list((outputs_root() / "cut" / "cells").glob("*.json"))) == 6, "other features are other cells"
    (outputs_root() / "mine").mkdir()
    (outputs_root() / "mine" / "file").touch()
    with pytest.raises(RunError, match="mine holds something that is no simulation"):
        simulate(SMALL, truth, "mine", features)


def test_features_of_the_frozen_network_are_computed_once(world, monkeypatch):
    truth, _ = world
    calls, real = [], cells.probe.features

    def counted(*arguments, **options):
        calls.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(cells.probe, "features", counted)
    few = replace(SMALL, orders=["random"], seeds=[0], rounds=1)
    simulate(few, truth, "s")
    simulate(replace(few, seeds=[0, 1]), truth, "s")
    assert calls == [{"backbone": TINYNET, "weights": "none", "device": "auto", "seed": 0}]


def test_a_network_can_be_trained_in_place_of_heads(world):
    truth, features = world
    few = replace(SMALL, orders=["random", "disagreement"], seeds=[0], rounds=1, hidden=[0.3], learner="network")
    results = simulate(few, truth, "s", features)
    assert len(results) == 4
    assert not [path for path in (outputs_root() / "s" / "cells").iterdir() if path.is_dir()], "no model is left"


def test_principal_components_do_not_see_test_images():
    rng = np.random.default_rng(0)
    features, training = rng.standard_normal((60, 10)), np.arange(60) < 40
    found = principal(features, training, 5)
    assert found.shape == (60, 5)
    np.testing.assert_allclose(found[training].mean(axis=0), 0, atol=1e-9)
    other = np.where(training[:, None], features, 5.0)
    np.testing.assert_allclose(principal(other, training, 5)[training], found[training])
    assert principal(features, training, 99).shape == (60, 10)


def test_command_takes_lists_and_prints_what_every_order_was_worth(sample, monkeypatch, capsys):
    worth = {"balanced": 0.3, "uncertain": 0.2, "random": 0.1}
    monkeypatch.setattr(cells, "run_campaign", lambda _, asked, *rest: ([0, 10], [0.5, 0.5 + worth[asked.order]]))
    data = ["--images", str(sample / "images"), "--labels", str(sample / "truth.csv"), "--name", "s"]
    few = ["-p", "orders", "[balanced, uncertain, random]", "-p", "seeds", "[0, 1]", "-p", "seconds_image", "0.5"]
    small = ["-p", "backbone", TINYNET, "-p", "image_size", "16"]
    assert cli.main(["review", "simulate", *data, *few, *small]) == 0
    printed = capsys.readouterr().out
    assert "12 campaigns, of which 0 are finished already" in printed
    assert re.search(r"mAP less that of random.*balanced +0\.10.*mAP less that of uncertain.*balanced +0\.05", printed, re.S)
    assert re.search(
        r"by image less by cell, over answers\n.*random +0.7 +0.0 +0.0 .*over seconds\n.*0.7 +0.0 +0.075", printed, re.S
    )
    assert cli.main(["review", "simulate", *data, "-p", "seed", "3"]) == 2
    assert "seed is 3, which a study decides by itself: give seeds" in capsys.readouterr().err
    assert cli.main(["review", "simulate", *data, "-p", "hidden", "0.7"]) == 2
    assert "it must be a list, such as [0.7]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"orders": ["random", "uncertian"]}, "did you mean 'uncertain'"),
        ({"orders": ["uncertain"]}, "add 'random'"),
        ({"by": ["photo"]}, "by: there is no 'photo'"),
        ({"mechanisms": ["block"]}, "did you mean 'blocks'"),
        ({"hidden": [1.0]}, "hidden: 1.0 must lie between 0 and 1"),
        ({"errors": [0.5]}, "errors: 0.5 must be"),
        ({"seeds": [1, 1]}, "each once"),
        ({"rounds": 0}, "rounds is 0"),
        ({"learner": "forest"}, "learner is 'forest'"),
        ({"config": replace(CONFIG, test_fraction=0.0)}, "test_fraction is 0.0"),
    ],
)
def test_refuses_a_simulation_that_cannot_be(changes, message):
    with pytest.raises(ParameterError, match=message):
        replace(SMALL, **changes)


def planted(seeds=4, by=("cell",)):
    """Results in which `balanced` needs half of random's answers, and `rare` none of them helps."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        level = 0.6 + 0.1 * rng.standard_normal()
        for way in by:
            for order, speed in {"balanced": 2.0, "rare": 0.0, "random": 1.0}.items():
                for answers in range(0, 101, 10):
                    gain = speed * answers / 1000 / (1 + (way == "image"))
                    rows.append((order, way, 0.7, "random", 0.0, seed, answers, level + gain, level + 0.3))
    names = ["order", "by", "hidden", "mechanism", "error", "seed", "answers", "mAP", "full"]
    results = pd.DataFrame(rows, columns=names)
    return results.assign(seconds=results.answers / np.where(results.by == "image", 4.0, 1.0))


def test_differences_are_paired_and_say_what_is_saved():
    found = differences(planted()).droplevel(["mechanism", "hidden", "error", "by"])
    np.testing.assert_allclose(found.loc["balanced", ["area", "low", "high"]].astype(float), 0.05, atol=1e-6)
    np.testing.assert_allclose(found.loc["balanced", ["end", "half"]].astype(float), [0.1, 0.0], atol=1e-6)
    assert found.loc["balanced", "spent"] == pytest.approx(0.5)
    assert found.loc["random", "area"] == 0
    assert np.isnan(found.loc["rare", "spent"])
    to = differences(planted(), to="balanced").droplevel(["mechanism", "hidden", "error", "by"])
    assert to.loc["random", "area"] == pytest.approx(-0.05)
    assert overall(planted()).loc["rare", "area"] == pytest.approx(-0.05)
    assert list(overall(planted()).index) == ["balanced", "rare"]


def test_a_way_to_ask_is_compared_with_another_by_answers_and_by_seconds():
    results = planted(by=("cell", "image"))
    answers = differences(results, "balanced", to_by="cell").xs(("image", "balanced"), level=["by", "order"])
    assert answers.area.item() == pytest.approx(-0.05)
    seconds = differences(results, "balanced", to_by="cell", over="seconds").xs(("image", "balanced"), level=["by", "order"])
    assert seconds.area.item() > 0


def test_curves_go_on_level_where_nothing_was_left_to_ask():
    results = planted()
    short = results[(results.order != "balanced") | (results.answers <= 40)]
    found = curves(short).xs("balanced", level="order")
    assert found.columns[-1] == 100
    np.testing.assert_allclose(found.iloc[:, -1], found[40.0])


def test_figure_has_a_line_per_order_and_the_level_of_all_labels():
    figure, ax = plt.subplots()
    plots.campaigns(planted(), ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["balanced", "rare", "random", "all labels"]
    line = next(line for line in ax.lines if line.get_label() == "balanced")
    assert line.get_ydata()[-1] - line.get_ydata()[0] == pytest.approx(0.2)
    assert ax.get_title() == "70% of the cells hidden (random), asked by cell"
    assert len(ax.collections) == 1, "the band of the default"
    ax.clear()
    plots.campaigns(planted(seeds=1), ax)  # no interval, and no warning
    with pytest.raises(ValueError, match="one setting at a time"):
        plots.campaigns(planted(by=("cell", "image")), ax)
    plt.close(figure)
