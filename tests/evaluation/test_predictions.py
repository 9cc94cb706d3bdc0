"""A run read back: the same arrays and figures as were written, baselines beside, and two runs on common images."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import logit

from mlkit.errors import RunError
from mlkit.evaluation import metrics, predictions
from mlkit.evaluation import plots as evaluation_plots
from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.predictions import Predictions
from mlkit.experiments.folds import over_folds
from mlkit.runs import Run

NAMES = ["a", "b", "null"]


def make_run(name, images, names=NAMES, split="test", seed=0, folder="."):
    """A finished run of random predictions on the images, as a training leaves it; its targets do not depend on `seed`."""
    rng = np.random.default_rng(seed)
    numbers = np.array([int(image) for image in images])
    y = np.stack([numbers % 2, numbers % 3 == 0, numbers % 5 == 0], axis=1).astype(float)
    y[numbers % 7 == 0, 0] = np.nan
    y = pd.DataFrame(y, columns=NAMES)[names].to_numpy()
    p = rng.uniform(0.01, 0.99, y.shape)
    run = Run.create(name, {"images": folder}, "data")
    cells = {
        "split": split,
        "image": np.repeat(images, len(names)),
        "attribute": np.tile(names, len(images)),
        "target": pd.Series(y.ravel(), dtype="Int8"),
        "logit": logit(p).ravel() + 1,
        "probability": p.ravel(),
    }
    other = pd.DataFrame(cells | {"split": "validation", "image": "other"}).head(len(names))
    run.write_table("predictions.csv", pd.concat([pd.DataFrame(cells), other] if split == "test" else [pd.DataFrame(cells)]))
    facts = {name: {"threshold": 0.3 + 0.1 * i} for i, name in enumerate(names)}
    prevalence = dict.fromkeys(names, 0.5) | {"b": None}
    run.write_json("metrics.json", {"judged_on": split, "attributes": facts, "training_prevalence": prevalence})
    return run, p, np.where(np.isnan(y), -1, y).astype(np.int8)


IMAGES = [f"{i:03d}" for i in range(60)]


def test_what_was_written_is_read_back():
    run, p, y = make_run("t", IMAGES)
    predicted = Predictions.read(run)
    assert (predicted.images, predicted.attributes, predicted.split) == (IMAGES, NAMES, "test")
    np.testing.assert_allclose(predicted.probabilities, p)
    np.testing.assert_array_equal(predicted.targets, y)
    np.testing.assert_allclose(predicted.uncalibrated, 1 / (1 + np.exp(-logit(p) - 1)))
    np.testing.assert_allclose(predicted.thresholds, [0.3, 0.4, 0.5])
    np.testing.assert_allclose(predicted.prevalence, 0.5)
    assert "60 test images, 171 of 180 cells known" in str(predicted)
    assert "flatter" not in str(predicted)


def test_run_without_test_images_says_that_its_figures_flatter():
    predicted = Predictions.read(make_run("t", IMAGES, split="validation")[0])
    assert "60 validation images" in str(predicted)
    assert "all figures below flatter" in str(predicted)


def test_unfinished_run_is_refused():
    with pytest.raises(RunError, match=r"metrics\.json is missing"):
        Predictions.read(Run.create("t", {}, "data"))


def test_summary_has_intervals_and_baselines_and_the_macro_mean():
    predicted = Predictions.read(make_run("t", IMAGES)[0])
    bounds = predicted.bounds()
    table = predictions.summary(predicted, bounds)
    own = predicted.evaluate()
    assert list(table.index) == [*NAMES, MEAN]
    pd.testing.assert_frame_equal(table.loc[NAMES, list(metrics.FIGURES)], own[list(metrics.FIGURES)])
    np.testing.assert_allclose(table.loc[MEAN, list(metrics.FIGURES)].astype(float), metrics.macro(own))
    np.testing.assert_allclose(table.AP, bounds.loc["AP"].value)
    assert table.AP.between(table.AP_low, table.AP_high).all()
    assert table.unknown.tolist() == [9, 0, 0, 9]
    y = predicted.targets[:, 1]
    always = metrics.evaluate(np.ones((60, 1)), y[:, None], ["b"], np.array([0.5])).F1["b"]
    assert table.always_yes_F1["b"] == pytest.approx(always)
    np.testing.assert_allclose(
        table.chance[NAMES], [metrics.chance(k, k + m) for k, m in own[["positives", "negatives"]].to_numpy()]
    )
    text = predictions.readable(table)
    assert text.AP["a"] == f"{table.AP['a']:.2f} [{table.AP_low['a']:.2f}, {table.AP_high['a']:.2f}]"


def test_an_attribute_may_be_called_as_the_mean_is():
    predicted = replace(Predictions.read(make_run("a", IMAGES)[0]), attributes=["macro mean", "mean", "images"])
    bounds = predicted.bounds()
    table = predictions.summary(predicted, bounds)
    assert list(table.index) == ["macro mean", "mean", "images", MEAN]
    assert table.AP[MEAN] == pytest.approx(table.AP[:3].mean())
    _, ax = plt.subplots()
    evaluation_plots.intervals(bounds.loc["AP"], table.chance.drop(MEAN), ax)
    assert len(ax.get_yticks()) == 4


def test_attribute_without_a_class_has_no_figure_and_stays_out_of_the_mean():
    predicted = Predictions.read(make_run("t", IMAGES)[0])
    predicted.targets[:, 0] = -1
    predicted.targets[:, 1] = 0
    table = predictions.summary(predicted, predicted.bounds())
    assert table[["AP", "always_yes_F1", "chance_ROC_AUC"]].loc[["a", "b"]].isna().all(axis=None)
    assert table.AP[MEAN] == table.AP["null"]
    assert predictions.readable(table).AP["a"] == "-"
    assert predictions.mean_ap(table).endswith(" over 1 of 3 attributes")
    assert predictions.unknown_cells(predicted).known.tolist() == [0, 60, 60]


def test_mistakes_are_the_wrong_decisions_most_confident_first():
    predicted = Predictions.read(make_run("t", IMAGES)[0])
    table = predictions.mistakes(predicted)
    counts = predicted.confusion()
    assert len(table) == counts.FN.sum() + counts.FP.sum()
    assert table.confidence.is_monotonic_decreasing
    missed = table[table.target == 1]
    assert (missed.probability < missed.threshold).all()
    np.testing.assert_allclose(missed.confidence, 1 - missed.probability)


def test_images_are_read_from_the_folder_of_the_run_and_lost_ones_are_none(tmp_path):
    Image.new("RGB", (7, 5)).save(tmp_path / "x.png")
    run, _, _ = make_run("t", IMAGES, folder=str(tmp_path))
    found, lost = predictions.read_images(run, ["x.png", "gone.png"])
    assert found.shape == (5, 7, 3)
    assert lost is None


def test_missingness_finds_unknown_cells_that_the_model_sees_otherwise():
    predicted = Predictions.read(make_run("t", IMAGES)[0])
    assert predictions.unknown_cells(predicted).difference.isna().tolist() == [False, True, True]
    predicted.probabilities[:, 0] = np.where(predicted.targets[:, 0] < 0, 0.1, 0.8) + np.linspace(0, 0.01, 60)
    row = predictions.unknown_cells(predicted).loc["a"]
    assert row.difference == pytest.approx(-0.7, abs=0.01)
    assert abs(row.difference) > 2 * row.standard_error


def test_two_runs_are_compared_on_the_images_that_judge_both():
    first = Predictions.read(make_run("one", IMAGES[:50])[0])
    second = Predictions.read(make_run("two", IMAGES[:19:-1], ["null", "b", "a"], seed=1)[0])
    second.targets[0, 1] = -1
    second.targets[second.images.index("030"), 1] = -1
    one, two, note = predictions.in_common(first, second)
    assert one.images == two.images == IMAGES[20:50]
    assert two.attributes == NAMES
    np.testing.assert_allclose(one.probabilities, first.probabilities[20:])
    np.testing.assert_allclose(two.probabilities[0], second.probabilities[second.images.index("020")][::-1])
    np.testing.assert_allclose(two.thresholds, second.thresholds[::-1])
    np.testing.assert_array_equal(two.targets, first.targets[20:])
    assert note.startswith("30 images judge both (50 judge ")
    assert "over 3 of 3 attributes" in note
    assert "The labels differ in 1 cells" in note
    table = predictions.compare(one, two)
    expected = one.evaluate().AP["b"] - two.evaluate().AP["b"]
    assert table.loc["AP", "b"].difference == pytest.approx(expected)


def test_two_runs_are_compared_on_the_attributes_that_both_can_be_judged_on():
    first, second = (Predictions.read(make_run(name, IMAGES, seed=seed)[0]) for seed, name in enumerate(("one", "two")))
    second.probabilities[:, 1] = np.nan  # never seen in its training
    one, two, note = predictions.in_common(first, second)
    assert "over 2 of 3 attributes" in note
    ap = [metrics.macro(side.evaluate()).AP for side in (one, two)]
    assert predictions.compare(one, two).loc[("AP", MEAN), "difference"] == pytest.approx(ap[0] - ap[1])
    assert ap[0] == pytest.approx(first.evaluate().AP[["a", "null"]].mean())


def test_comparison_tells_what_flatters_and_where_images_come_from(tmp_path):
    first = Predictions.read(make_run("one", IMAGES)[0])
    second = Predictions.read(make_run("two", IMAGES, split="validation", folder=str(tmp_path))[0])
    note = predictions.in_common(first, second)[2]
    assert "two has no test images" in note
    assert f"and {tmp_path}, matched by name" in note


def test_runs_that_cannot_be_compared_are_refused():
    first = Predictions.read(make_run("one", IMAGES[:30])[0])
    with pytest.raises(RunError, match="share none of the images that judge them; train one again"):
        predictions.in_common(first, Predictions.read(make_run("two", IMAGES[30:])[0]))
    with pytest.raises(RunError, match=r"differ in their attributes \(null\)"):
        predictions.in_common(first, Predictions.read(make_run("three", IMAGES, ["a", "b"])[0]))


def test_folds_give_mean_deviation_and_a_pool_in_which_each_decides_by_its_own_threshold():
    folds = [Predictions.read(make_run(f"f{i}", IMAGES[20 * i : 20 * i + 20], seed=i)[0]) for i in range(3)]
    folds[1].thresholds[:] = 0.9
    table = over_folds(folds)
    each = [fold.evaluate().Brier["b"] for fold in folds]
    row = table.loc["Brier", "b"]
    assert (row["mean"], row.deviation) == pytest.approx((np.mean(each), np.std(each, ddof=1)))
    assert row.pooled == pytest.approx(np.mean(each))  # of equal size, all known
    counts = sum(fold.confusion() for fold in folds).loc["b"]
    assert table.loc["F1", "b"].pooled == pytest.approx(2 * counts.TP / (2 * counts.TP + counts.FP + counts.FN))
    assert table.loc[("accuracy", MEAN), ["pooled", "low"]].isna().all()
    assert (table.folds == 3).all()
    assert table.attrs["over"] == "3 of 3 attributes"
    folds[0].targets[:, 2] = 0
    table = over_folds(folds)
    assert table.attrs["over"] == "2 of 3 attributes"
    assert table.loc[("AP", MEAN), "mean"] == pytest.approx(
        np.mean([fold.evaluate().AP[["a", "b"]].mean() for fold in folds])
    )


def test_attribute_that_one_fold_never_saw_in_training_is_pooled_from_the_others():
    runs = [make_run(f"f{i}", IMAGES[30 * i : 30 * i + 30], seed=i)[0] for i in range(2)]
    table = runs[1].read_table("predictions.csv")
    runs[1].write_table("predictions.csv", table.assign(probability=table.probability.mask(table.attribute == "b")))
    first, second = map(Predictions.read, runs)
    assert (second.targets[:, 1] == -1).all()
    assert over_folds([first, second]).loc[("Brier", "b"), "pooled"] == pytest.approx(first.evaluate().Brier["b"])
