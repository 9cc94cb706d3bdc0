"""Bootstrap intervals: weights equal physically drawn images, coverage is near the level, pairs cancel."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from mlkit import intervals
from mlkit.intervals import FIGURES, MEAN, WeightedFigures, bootstrap, compare
from mlkit.metrics import evaluate, macro

NAMES = ["a", "b", "c", "d"]


def simulate(images=120, attributes=4, seed=0, decimals=1):
    """Predictions with many ties and unknown cells."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, attributes)) < np.linspace(0.15, 0.8, attributes)).astype(int)
    probabilities = np.clip(rng.normal(0.4 + 0.2 * targets, 0.2), 0, 1).round(decimals)
    targets[rng.random(targets.shape) < 0.2] = -1
    return probabilities, targets


@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_weighted_figures_equal_scikit_learn_with_sample_weight_ties_included(decimals):
    p, y = simulate(decimals=decimals)
    thresholds = np.array([0.3, 0.5, 0.5, 0.6])
    weights = np.random.default_rng(1).integers(0, 4, (5, len(y))).astype(float)
    figures = WeightedFigures(p, y, NAMES, thresholds)(weights)
    for w, row in zip(weights, figures, strict=True):
        for i, threshold in enumerate(thresholds):
            known = y[:, i] >= 0
            arguments = (y[known, i], p[known, i])
            expected = [
                sk.average_precision_score(*arguments, sample_weight=w[known]),
                sk.roc_auc_score(*arguments, sample_weight=w[known]),
                sk.f1_score(y[known, i], p[known, i] >= threshold, sample_weight=w[known]),
                sk.brier_score_loss(*arguments, sample_weight=w[known]),
            ]
            np.testing.assert_allclose(row[:, i], expected, rtol=1e-12)


def test_each_resample_equals_the_figures_of_the_images_drawn():
    p, y = simulate(images=30)
    (counts,) = intervals._resamples(len(y), 40, 0)
    assert (counts.sum(axis=1) == len(y)).all()
    figures = WeightedFigures(p, y, NAMES, 0.5)(counts)
    for drawn, row in zip(counts.astype(int), figures, strict=True):
        again = np.repeat(np.arange(len(y)), drawn)
        table = evaluate(p[again], y[again], NAMES, np.full(4, 0.5))
        np.testing.assert_allclose(row[:, :-1], table[list(FIGURES)].to_numpy().T, rtol=1e-12)
        np.testing.assert_allclose(row[:, -1], macro(table)[list(FIGURES)].to_numpy(float), rtol=1e-12)


def test_values_are_those_of_evaluate_and_lie_within_their_intervals():
    p, y = simulate()
    table = bootstrap(p, y, NAMES, resamples=200)
    judged = evaluate(p, y, NAMES, np.full(4, 0.5))
    for figure in FIGURES:
        np.testing.assert_allclose(table.loc[figure].value[NAMES], judged[figure])
        assert table.loc[(figure, MEAN), "value"] == pytest.approx(macro(judged)[figure])
    assert table.value.between(table.low, table.high).all()
    assert (table.left_out == 0).all()


def test_seed_decides_and_neither_block_size_nor_unknown_cells_matter(monkeypatch):
    p, y = simulate()
    table = bootstrap(p, y, NAMES, resamples=50)
    assert not table.equals(bootstrap(p, y, NAMES, resamples=50, seed=1))
    monkeypatch.setattr(intervals, "_BLOCK_CELLS", 7 * len(y))
    pd.testing.assert_frame_equal(table, bootstrap(np.where(y < 0, np.nan, p), y, NAMES, resamples=50), rtol=1e-12)


def test_resamples_without_a_class_are_left_out_and_counted():
    p, y = simulate(images=40)
    y[:, 0] = 0
    y[:2, 0] = 1  # missed by a resample with probability (1 - 2/40)^40 = 13 %
    y[:, 1] = 0
    y[:, 2] = -1
    table = bootstrap(p, y, NAMES, resamples=400)
    (counts,) = intervals._resamples(40, 400, 0)
    missed = (counts[:, :2].sum(axis=1) == 0).sum()
    assert 20 < missed < 90
    assert table.loc["AP"].left_out.tolist() == [missed, 400, 400, 0, missed]
    assert table.loc["Brier"].left_out.tolist() == [0, 0, 400, 0, missed]
    assert table.loc["AP"].low.notna().tolist() == [True, False, False, True, True]


def test_coverage_is_near_the_level():
    # Each attribute is a data set of its own, so one call holds 150 of them; the truth comes from a large one.
    rng = np.random.default_rng(0)

    def draw(images, sets):
        y = (rng.random((images, sets)) < 0.3).astype(int)
        return 1 / (1 + np.exp(-rng.normal(1.5 * y - 1, 1))), y

    big = draw(200_000, 1)
    truth = WeightedFigures(*big, ["a"], 0.5)(np.ones((1, 200_000)))[0, :, 0]
    p, y = draw(300, 150)
    table = bootstrap(p, y, [str(i) for i in range(150)], resamples=400)
    for figure, true in zip(FIGURES, truth, strict=True):
        part = table.loc[figure].drop(MEAN)
        assert 0.89 <= ((part.low <= true) & (true <= part.high)).mean() <= 0.99, figure


def test_identical_predictions_differ_by_exactly_zero():
    p, y = simulate()
    table = compare(p, p, y, NAMES, resamples=50)
    assert (table[["difference", "low", "high", "above_0"]] == 0).all(axis=None)


def test_paired_difference_is_that_of_the_values_and_narrower_than_its_parts():
    p, y = simulate(images=400, decimals=6)
    worse = np.clip(p + np.random.default_rng(1).normal(0, 0.1, p.shape), 0, 1)
    table = compare(p, worse, y, NAMES, resamples=200)
    first, second = (bootstrap(q, y, NAMES, resamples=200) for q in (p, worse))
    np.testing.assert_allclose(table.difference, first.value - second.value, atol=1e-12)
    paired, apart = (part.loc[("AP", MEAN), "high"] - part.loc[("AP", MEAN), "low"] for part in (table, first))
    assert paired < apart
    assert table.loc[("AP", MEAN), "above_0"] > 0.9
    swapped = compare(worse, p, y, NAMES, resamples=200)
    np.testing.assert_allclose(swapped.low, -table.high, atol=1e-12)


def test_thresholds_of_both_sides_count_and_lacking_classes_are_nan():
    p, y = simulate()
    y[:, 0] = np.minimum(y[:, 0], 0)
    table = compare(p, p, y, NAMES, 0.5, np.array([0.5, 0.5, 0.5, 0.9]), resamples=50)
    assert table.loc["F1"].difference.ne(0).tolist() == [True, False, False, True, True]  # NaN differs from 0
    assert np.isnan(table.loc[("F1", "a"), "above_0"])
    assert (table.loc["AP"].difference.drop("a") == 0).all()


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        bootstrap(np.empty((0, 1)), np.empty((0, 1), int), ["a"])
