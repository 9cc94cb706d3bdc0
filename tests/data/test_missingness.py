"""Random hiding is found random, biased hiding is found and named, and p-values are scipy's."""

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from scipy import stats

from mlkit.data.labels import from_codes
from mlkit.data.missingness import COLUMNS, _properties, image_properties, missingness
from mlkit.data.source import DataSource

real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not here")


def random_data(seed, count=400):
    """Complete codes of three attributes, a generator, and two properties."""
    rng = np.random.default_rng(seed)
    codes = (rng.random((count, 3)) < [0.5, 0.3, 0.1]).astype(int)
    names = [str(i) for i in range(count)]
    properties = pd.DataFrame(rng.random((count, 2)), index=names, columns=["brightness", "contrast"])
    return codes, rng, properties


def table_of(codes, properties=None):
    return missingness(from_codes(codes, map(str, range(len(codes))), ["a", "b", "c"]), properties)


def test_random_hiding_seldom_looks_like_a_pattern():
    alarms = 0
    for seed in range(60):
        codes, rng, properties = random_data(seed)
        alarms += table_of(np.where(rng.random(codes.shape) < 0.2, -1, codes), properties).p_holm.min() < 0.05
    assert alarms <= 8  # 3 expected at the most


@pytest.mark.parametrize("kind", ["value", "unknown", "property"])
def test_biased_hiding_is_found_and_named(kind):
    codes, rng, properties = random_data(0)
    hidden = rng.random(codes.shape) < 0.2
    if kind == "value":
        hidden[:, 0] = rng.random(len(codes)) < np.where(codes[:, 1] == 1, 0.5, 0.1)
    elif kind == "unknown":
        hidden[:, 0] = rng.random(len(codes)) < np.where(hidden[:, 1], 0.7, 0.1)
    else:
        hidden[:, 0] = rng.random(len(codes)) < np.where(properties.brightness < 0.3, 0.6, 0.1)
    first = table_of(np.where(hidden, -1, codes), properties).iloc[0]
    expected = {"value": ("b", 1), "unknown": ("NA of b", 1), "property": ("brightness", -1)}[kind]
    assert (first.attribute, first.depends_on, np.sign(first.effect)) == ("a", *expected)
    assert first.p_holm < 1e-3
    assert abs(first.effect) > 0.2


def test_p_values_and_effects_are_those_of_scipy_on_the_known_cells():
    codes, rng, properties = random_data(3)
    codes = np.where(rng.random(codes.shape) < 0.2, -1, codes)
    table = table_of(codes, properties).set_index(["attribute", "depends_on"])
    known = codes[:, 1] >= 0  # unknown cells physically removed
    counts = pd.crosstab(codes[known, 0] < 0, codes[known, 1])
    row = table.loc["a", "b"]
    assert row.p == pytest.approx(stats.chi2_contingency(counts, correction=False).pvalue)
    assert row.effect == pytest.approx(np.corrcoef(codes[known, 0] < 0, codes[known, 1])[0, 1])
    assert row.images == known.sum()
    assert table.loc["a", "NA of b"].effect == pytest.approx(np.corrcoef(codes[:, 0] < 0, codes[:, 1] < 0)[0, 1])
    dark = stats.mannwhitneyu(properties.contrast[codes[:, 2] < 0], properties.contrast[codes[:, 2] >= 0])
    assert table.loc["c", "contrast"].p == pytest.approx(dark.pvalue)


def test_small_counts_are_tested_exactly():
    codes = np.zeros((40, 3), int)
    codes[:4, 0], codes[:5, 1] = -1, 1
    table = table_of(codes)
    (row,) = table.to_dict("records")  # all else is constant
    assert (row["attribute"], row["depends_on"], row["test"]) == ("a", "b", "Fisher")
    assert row["p"] == pytest.approx(stats.fisher_exact([[4, 0], [1, 35]]).pvalue)
    assert row["detail"] == "80.0% NA where yes, 0.0% NA where no"


def test_holm_correction_is_that_of_the_definition():
    codes, rng, properties = random_data(1)
    table = table_of(np.where(rng.random(codes.shape) < 0.2, -1, codes), properties)
    assert table.p.is_monotonic_increasing
    p, count = table.p.tolist(), len(table)
    assert count == 6 + 3 + 6
    for k in range(count):
        assert table.p_holm[k] == pytest.approx(min(1, max(p[j] * (count - j) for j in range(k + 1))))


def test_nothing_to_test_gives_an_empty_table():
    for value in (-1, 0):
        table = table_of(np.full((10, 3), value), random_data(0, 10)[2])
        assert table.empty
        assert list(table) == COLUMNS


def test_properties_are_what_they_are_called():
    grey = np.full((16, 16, 3), 100, np.uint8)
    colourful = grey.copy()
    colourful[:8, :, 0], colourful[8:, :, 2] = 250, 250
    checks = np.where((np.indices((16, 16)).sum(axis=0) % 2)[..., None], 150, 50).repeat(3, axis=2).astype(np.uint8)
    table = pd.DataFrame(_properties(np.stack([grey, colourful, checks])), columns=list("bcks"))
    np.testing.assert_allclose(table.loc[0], [100, 0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(table.loc[2, ["b", "c", "k"]], [100, 50, 0], atol=1e-3)
    assert table.k[1] > 50
    assert table.s[2] > table.s[1] > 0
    assert np.isfinite(_properties(grey[None, :2, :2])).all()


def test_properties_follow_the_images(sample):
    dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(32)
    table = image_properties(dataset)
    assert table.index.equals(dataset.labels.index)
    assert table.colourfulness.idxmin() == "0001.jpg"  # the grey one
    assert not missingness(dataset.labels, table).empty


@real_data
def test_scenes_hidden_at_random_are_found_so_and_hidden_by_brightness_are_found_out():
    folder = SHARED / "scenes"
    dataset = DataSource(str(folder / "images"), str(folder / "labels.csv")).open(32)
    properties = image_properties(dataset)
    assert missingness(dataset.labels, properties).p_holm.min() > 0.05
    biased = dataset.labels.copy()
    dark = properties.brightness < properties.brightness.quantile(0.2)
    biased.loc[dark & (np.random.default_rng(0).random(len(dark)) < 0.5), "sunset"] = pd.NA
    first = missingness(biased, properties).iloc[0]
    assert (first.attribute, first.depends_on) == ("sunset", "brightness")
    assert first.p_holm < 1e-6


@pytest.mark.parametrize("images", [7, 60, 400])
def test_all_pairs_at_once_give_what_scipy_gives_for_each(images):
    rng = np.random.default_rng(images)
    codes = (rng.random((images, 5)) < 0.4).astype(int)
    codes[rng.random(codes.shape) < 0.2] = -1
    table = missingness(from_codes(codes, map(str, range(images)), list("abcde")))
    for row in table.itertuples():
        i, other = "abcde".index(row.attribute), codes[:, "abcde".index(row.depends_on[-1])]
        parts = (other < 0, other >= 0) if row.depends_on.startswith("NA") else (other == 1, other == 0)
        cells = [[(part & side).sum() for part in parts] for side in (codes[:, i] < 0, codes[:, i] >= 0)]
        if row.test == "Fisher":
            expected = stats.fisher_exact(cells).pvalue
        else:
            expected = stats.chi2_contingency(cells, correction=False).pvalue
        assert row.p == pytest.approx(expected)
    assert len(table)
