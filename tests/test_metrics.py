"""Every figure equals scikit-learn's on the data with the unknown cells removed."""

import numpy as np
import pytest
from sklearn import metrics as sk

from mlkit.metrics import evaluate, macro


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 2, (200, 3))
    return np.clip(rng.random((200, 3)) * 0.6 + 0.3 * (targets == 1), 0, 1), targets


def test_figures_equal_scikit_learn_on_known_cells(predictions):
    probabilities, targets = predictions
    majority = np.array([1, 0, 1])
    table = evaluate(probabilities, targets, ["a", "b", "c"], majority, np.array([0.5, 0.4, 0.6]))
    for i, (name, threshold) in enumerate(zip("abc", (0.5, 0.4, 0.6), strict=True)):
        known = targets[:, i] >= 0
        y, p = targets[known, i], probabilities[known, i]
        row = table.loc[name]
        assert (row.positives, row.negatives) == (y.sum(), (1 - y).sum())
        assert pytest.approx(sk.average_precision_score(y, p)) == row.AP
        assert pytest.approx(sk.f1_score(y, p >= threshold)) == row.F1
        assert row.accuracy == pytest.approx(sk.accuracy_score(y, p >= threshold))
        assert row.majority_accuracy == pytest.approx(sk.accuracy_score(y, np.full_like(y, majority[i])))
        assert row.prevalence == pytest.approx(y.mean())


def test_figures_do_not_depend_on_what_is_predicted_for_unknown_cells(predictions):
    probabilities, targets = predictions
    other = np.where(targets < 0, 1 - probabilities, probabilities)
    arguments = (targets, ["a", "b", "c"], np.ones(3))
    assert evaluate(probabilities, *arguments).equals(evaluate(other, *arguments))


def test_attribute_that_lacks_a_class_is_nan_and_left_out_of_the_mean(predictions):
    probabilities, targets = predictions
    targets = targets.copy()
    targets[:, 1] = np.minimum(targets[:, 1], 0)
    targets[:, 2] = -1
    table = evaluate(probabilities, targets, ["a", "b", "c"], np.ones(3))
    assert table.AP.notna().tolist() == [True, False, False]
    assert table.AP["a"] == macro(table).AP
