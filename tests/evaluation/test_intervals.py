"""Intervals: what is left out is really left out, they hold what they are for as often as they say, and so does chance."""

import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from mlkit.evaluation.intervals import FIGURES, MEAN, Jackknife, above_chance, compare, jackknife
from mlkit.evaluation.metrics import ENOUGH, chance, evaluate, macro

NAMES = ["a", "b", "c", "d"]


def simulate(images=120, attributes=4, seed=0, decimals=1):
    """Predictions with many ties and unknown cells."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, attributes)) < np.linspace(0.2, 0.8, attributes)).astype(int)
    probabilities = np.clip(rng.normal(0.4 + 0.2 * targets, 0.2), 0, 1).round(decimals)
    targets[rng.random(targets.shape) < 0.2] = -1
    return probabilities, targets


def sets(rng, images, prevalence, skill, count):
    """Many data sets of one attribute, one a column: probabilities and targets."""
    y = (rng.random((images, count)) < prevalence).astype(int)
    return 1 / (1 + np.exp(1 - rng.normal(skill * y, 1))), y


@pytest.mark.parametrize("decimals", [1, 12])
def test_what_is_left_without_an_image_equals_the_figures_of_the_others(decimals):
    p, y = simulate(images=15, decimals=decimals)
    y[:, 3] = np.where(np.arange(15) == 3, 1, np.minimum(y[:, 3], 0))  # without image 3 it has no yes
    thresholds = np.array([0.3, 0.5, 0.5, 0.6])
    found = Jackknife(p, y, NAMES, thresholds)
    for image, figures in zip([None, *range(15)], [found.value, *found.without], strict=True):
        rows = np.arange(15) != image
        table = evaluate(p[rows], y[rows], NAMES, np.full(4, 0.5), thresholds)
        np.testing.assert_allclose(figures[:, :-1], table[list(FIGURES)].to_numpy().T, rtol=1e-12)
        np.testing.assert_allclose(figures[:, -1], macro(table)[list(FIGURES)].to_numpy(float), rtol=1e-12)


def test_values_are_those_of_evaluate_and_lie_within_their_intervals():
    p, y = simulate()
    table = jackknife(p, y, NAMES)
    figures = evaluate(p, y, NAMES, np.full(4, 0.5))
    for figure in FIGURES:
        np.testing.assert_allclose(table.loc[figure].value[NAMES], figures[figure])
        assert table.loc[(figure, MEAN), "value"] == pytest.approx(macro(figures)[figure])
    assert ((table.low < table.value) & (table.value < table.high)).all()


def test_macro_mean_of_noise_lies_within_its_interval_and_so_does_chance():
    p, y = sets(np.random.default_rng(0), images=60, prevalence=0.2, skill=0, count=80)
    names = [str(i) for i in range(80)]
    row = jackknife(p, y, names).loc[("AP", MEAN)]
    expected = np.mean([chance(k, 60) for k in y.sum(axis=0)])
    assert row.low < min(row.value, expected) < max(row.value, expected) < row.high


@pytest.mark.parametrize(("images", "prevalence"), [(60, 0.2), (300, 0.05), (60, 0.5), (300, 0.3)])
@pytest.mark.parametrize("skill", [0, 1, 2.5])
def test_coverage_is_near_the_level(images, prevalence, skill):
    p, y = sets(np.random.default_rng(1), images, prevalence, skill, count=600)
    table = jackknife(p, y, [str(i) for i in range(600)])
    for figure in FIGURES:
        part = table.loc[figure].drop(MEAN)
        part = part[part.low.notna()]
        true = part.value.mean()
        covered = ((part.low <= true) & (true <= part.high)).mean()
        assert len(part) > 300
        assert 0.91 <= covered <= 0.995, figure  # 93 to 97 %, on noise and near 1 more, and what 600 sets tell


@pytest.mark.parametrize(
    ("images", "prevalence", "skill", "shared"), [(60, 0.2, 0, 0.5), (60, 0.2, 1.5, 0), (250, 0.05, 1.5, 0.5)]
)
def test_coverage_of_the_macro_mean_is_near_the_level(images, prevalence, skill, shared):
    rng, rows = np.random.default_rng(2), []
    for _ in range(250):
        y = (rng.random((images, 6)) < prevalence).astype(int)
        score = shared * rng.normal(size=(images, 1)) + rng.normal(skill * y, 1)
        rows.append(jackknife(1 / (1 + np.exp(-score)), y, list("abcdef")).loc[("AP", MEAN)])
    table = pd.DataFrame(rows)
    true = table.value.mean()
    assert 0.91 <= ((table.low <= true) & (true <= table.high)).mean() <= 0.99


def test_too_few_cells_have_no_interval_and_no_test():
    p, y = simulate(images=60)
    y[:, 0] = (np.arange(60) < ENOUGH - 1).astype(int)
    y[:, 1] = (np.arange(60) >= ENOUGH - 1).astype(int)
    y[:, 2] = -1
    y[:, 3] = (np.arange(60) < ENOUGH).astype(int)
    table = jackknife(p, y, NAMES)
    assert table.loc["AP"].value.notna().tolist() == [True, True, False, True, True]
    for figure in FIGURES:
        assert table.loc[figure].low.notna().tolist() == [False, False, False, True, True]
    assert above_chance(p, y, NAMES, permutations=9).notna().tolist() == [False, False, False, True, True]
    few = jackknife(p[:, :1], y[:, :1], ["a"])
    assert few.loc[("AP", MEAN)].isna().tolist() == [False, True, True]


def test_figure_that_is_perfect_by_luck_has_an_interval():
    y = (np.arange(40) < 12).astype(int)[:, None]
    p = np.where(y == 1, 0.9, 0.1) + np.linspace(0, 0.05, 40)[:, None]
    row = jackknife(p, y, ["a"]).loc[("AP", "a")]
    assert (row.value, row.high) == (1, 1)
    assert row.low == pytest.approx(0.025 ** (1 / 12))
    both = compare(p, p**2, y, ["a"]).loc[("AP", "a")]
    assert both.low < both.difference == 0 < both.high  # two that are perfect here may differ elsewhere


def test_unknown_cells_do_not_matter():
    p, y = simulate()
    pd.testing.assert_frame_equal(jackknife(p, y, NAMES), jackknife(np.where(y < 0, np.nan, p), y, NAMES))


def test_identical_predictions_differ_by_exactly_zero():
    p, y = simulate()
    assert (compare(p, p, y, NAMES) == 0).all(axis=None)


def test_paired_difference_is_that_of_the_values_and_narrower_than_its_parts():
    p, y = simulate(images=400, decimals=6)
    worse = np.clip(p + np.random.default_rng(1).normal(0, 0.1, p.shape), 0, 1)
    table = compare(p, worse, y, NAMES)
    first, second = (jackknife(q, y, NAMES) for q in (p, worse))
    np.testing.assert_allclose(table.difference, first.value - second.value, atol=1e-12)
    paired, apart = (part.loc[("AP", MEAN), "high"] - part.loc[("AP", MEAN), "low"] for part in (table, first))
    assert paired < apart
    assert table.loc[("AP", MEAN), "low"] > 0
    np.testing.assert_allclose(compare(worse, p, y, NAMES).low, -table.high, atol=1e-12)


@pytest.mark.parametrize(("images", "prevalence", "skill"), [(60, 0.3, 0), (100, 0.2, 1.5), (300, 0.1, 1)])
def test_paired_differences_hold_what_they_are_for_at_least_as_often_as_they_say(images, prevalence, skill):
    rng = np.random.default_rng(3)
    y = (rng.random((images, 500)) < prevalence).astype(int)
    hard = rng.normal(skill * y, 1)
    p, q = (1 / (1 + np.exp(-hard - rng.normal(0, 0.5, y.shape))) for _ in range(2))
    table = compare(p, q, y, [str(i) for i in range(500)]).loc["AP"].drop(MEAN)
    table = table[table.low.notna()]
    assert ((table.low <= 0) & (table.high >= 0)).mean() >= 0.94


def test_thresholds_of_both_sides_count_and_lacking_classes_are_nan():
    p, y = simulate()
    y[:, 0] = np.minimum(y[:, 0], 0)
    table = compare(p, p + 0, y, NAMES, 0.5, np.array([0.5, 0.5, 0.5, 0.9]))
    assert table.loc["F1"].difference.ne(0).tolist() == [True, False, False, True, True]  # NaN differs from 0
    assert (table.loc["AP"].difference.drop("a") == 0).all()


@pytest.mark.parametrize(("cells", "positives"), [(2, 1), (6, 2), (7, 3), (6, 5)])
def test_chance_is_the_mean_over_all_rankings(cells, positives):
    rankings = itertools.combinations(range(cells), positives)
    each = [average_precision_score(np.isin(np.arange(cells), chosen), -np.arange(cells)) for chosen in rankings]
    assert chance(positives, cells) == pytest.approx(np.mean(each))


def test_chance_is_above_the_prevalence_where_positives_are_few():
    assert chance(1, 9) == pytest.approx(0.314, abs=5e-4)
    assert chance(5, 300) == pytest.approx(0.034, abs=5e-4)
    assert chance(3000, 10_000) == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("images", [9, 30, 100, 300])
@pytest.mark.parametrize("decimals", [1, 12])
def test_of_noise_no_more_is_called_above_chance_than_the_level_says(images, decimals):
    counts = [k for k in (1, 3, 9, 10, 20, 60) if k < images]
    y = np.concatenate([np.tile(np.arange(images)[:, None] < k, 150) for k in counts], axis=1).astype(int)
    p = np.random.default_rng(4).random(y.shape).round(decimals)
    found = above_chance(p, y, [str(i) for i in range(y.shape[1])], permutations=199).drop(MEAN)
    for k, part in zip(counts, np.split(found.to_numpy(), len(counts)), strict=True):
        if min(k, images - k) < ENOUGH:
            assert np.isnan(part).all()
        else:
            assert 0.005 <= (part <= 0.05).mean() <= 0.11, k  # 0.05, and what 150 of them tell


def test_of_noise_no_more_macro_means_are_called_above_chance_than_the_level_says():
    rng, found = np.random.default_rng(5), []
    for number in range(200):
        y = (rng.random((60, 5)) < 0.1).astype(int)
        y[:, 4] = y[:, 0]  # attributes that go together, and so do their scores
        p = rng.random((60, 1)) + rng.random((60, 5))
        y[rng.random(y.shape) < 0.1] = -1
        found.append(above_chance(p / 2, y, list("abcde"), permutations=99, seed=number)[MEAN])
    assert 0.01 <= (np.array(found) <= 0.05).mean() <= 0.1


def test_a_good_ranking_is_above_chance_and_the_seed_decides():
    p, y = simulate(decimals=3)
    found = above_chance(p, y, NAMES, permutations=199)
    assert (found <= 0.01).all()
    pd.testing.assert_series_equal(found, above_chance(p, y, NAMES, permutations=199))


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        jackknife(np.empty((0, 1)), np.empty((0, 1), int), ["a"])


def test_many_images_take_one_array_as_large_as_the_predictions():
    rng = np.random.default_rng(0)
    p, y = rng.random((4000, 40)), rng.integers(-1, 2, (4000, 40))
    names = [str(i) for i in range(40)]
    tracemalloc.start()
    one = Jackknife(p, y, names)
    one.bounds()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * one.without.nbytes, "of five arrays of that size"
