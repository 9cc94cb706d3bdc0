"""Planted label errors come first; unknown cells never come."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mlkit.curation.label_errors import COLUMNS, label_errors, suspicion
from mlkit.curation.probe import out_of_fold
from mlkit.data.labels import from_codes, to_codes


@pytest.fixture(scope="module")
def planted():
    """Labels of which 5 % are flipped, those flips, out-of-fold probabilities; the second attribute is imbalanced."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((1000, 20))
    truth = np.stack([inputs[:, 0] > 0, inputs[:, 1] > 1.3], axis=1)
    flipped = rng.random(truth.shape) < 0.05
    codes = np.where(rng.random(truth.shape) < 0.2, -1, truth ^ flipped)
    labels = from_codes(codes, map(str, range(1000)), ["a", "rare"])
    return labels, flipped & (codes >= 0), out_of_fold(inputs, labels)


def test_top_ranks_are_the_planted_errors(planted):
    labels, flipped, probabilities = planted
    table = label_errors(labels, probabilities)
    for i, attribute in enumerate(labels):
        top = table[(table.attribute == attribute) & (table["rank"] <= 20)]
        hits = flipped[labels.index.get_indexer(top.image), i]
        assert hits.mean() > 0.5, "chance is 0.05"
        assert top.score.is_monotonic_increasing
        errors = table[(table.attribute == attribute) & table.probable_error]
        assert flipped[labels.index.get_indexer(errors.image), i].mean() > 0.3


def test_every_known_cell_is_listed_once_as_given_and_no_unknown_one(planted):
    labels, _, probabilities = planted
    table = label_errors(labels, probabilities)
    assert list(table) == COLUMNS
    for attribute in labels:
        part = table[table.attribute == attribute].set_index("image")
        known = labels[attribute].dropna().astype(int)
        assert part.label.sort_index().equals(known.sort_index().rename("label").astype(part.label.dtype))
        p = probabilities[attribute][part.index]
        np.testing.assert_allclose(part.probability, np.where(part.label == 1, p, 1 - p))
        assert part["rank"].tolist() == list(range(1, len(known) + 1))


def test_suspicion_is_of_probable_errors_alone(planted):
    labels, _, probabilities = planted
    found = suspicion(labels, probabilities)
    table = label_errors(labels, probabilities)
    assert np.isfinite(found).sum() == table.probable_error.sum() > 0
    for row in table[table.probable_error.astype(bool)].itertuples():
        assert found[labels.index.get_loc(row.image), labels.columns.get_loc(row.attribute)] == 1 - row.score


def test_unknown_cells_change_nothing(planted):
    labels, _, probabilities = planted
    known = to_codes(labels)[:, 0] >= 0
    table = label_errors(labels[["a"]], probabilities)
    alone = label_errors(labels.loc[known, ["a"]], probabilities)
    pd.testing.assert_frame_equal(table, alone)


def test_only_so_many_as_asked_for(planted):
    labels, _, probabilities = planted
    table = label_errors(labels, probabilities, most=7)
    assert table.groupby("attribute").size().to_dict() == {"a": 7, "rare": 7}
    pd.testing.assert_frame_equal(table.head(7), label_errors(labels, probabilities).head(7))


def test_attributes_without_two_cells_of_each_class_are_left_out():
    labels = from_codes(np.array([[1, -1, 1], [1, -1, 0], [1, -1, 0]]), "xyz", ["yes", "unknown", "one"])
    table = label_errors(labels, pd.DataFrame(0.5, index=labels.index, columns=labels.columns))
    assert table.empty
    assert list(table) == COLUMNS


def test_cleanlab_is_imported_only_when_needed():
    code = (
        "import sys, mlkit.cli, mlkit.curation.label_errors; print([m for m in ('cleanlab', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
