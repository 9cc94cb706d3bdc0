"""Every figure equals scikit-learn's on the data with the unknown cells removed."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from mlkit.evaluation.metrics import (
    FIGURES,
    chance,
    checked,
    confusion,
    evaluate,
    expected_calibration_error,
    macro,
    micro,
    reliability,
)

NAMES = ["a", "b", "c"]
THRESHOLDS = np.array([0.5, 0.4, 0.6])
PRIOR = np.array([0.7, 0.2, 0.5])


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 2, (200, 3))
    return np.clip(rng.random((200, 3)) * 0.6 + 0.3 * (targets == 1), 0, 1), targets


def reference(y, p, d, prior):
    """scikit-learn's figures of known cells; `prior` is each cell's training prevalence."""
    bins = np.split(np.argsort(p), [-(-len(p) * i // 15) for i in range(1, 15)])
    return {
        "prevalence": y.mean(),
        "chance": chance(int(y.sum()), len(y)),
        "AP": sk.average_precision_score(y, p),
        "ROC_AUC": sk.roc_auc_score(y, p),
        "F1": sk.f1_score(y, d),
        "precision": sk.precision_score(y, d),
        "recall": sk.recall_score(y, d),
        "accuracy": sk.accuracy_score(y, d),
        "majority_accuracy": sk.accuracy_score(y, prior >= 0.5),
        "Brier": sk.brier_score_loss(y, p),
        "prevalence_Brier": sk.brier_score_loss(y, prior),
        "ECE": sum(abs(p[part].sum() - y[part].sum()) for part in bins) / len(p),
    }


def test_figures_equal_scikit_learn_on_known_cells(predictions):
    probabilities, targets = predictions
    table = evaluate(probabilities, targets, NAMES, PRIOR, THRESHOLDS)
    for i, name in enumerate(NAMES):
        known = targets[:, i] >= 0
        y, p = targets[known, i], probabilities[known, i]
        row = table.loc[name]
        assert (row.positives, row.negatives, row.threshold) == (y.sum(), (1 - y).sum(), THRESHOLDS[i])
        assert row[list(FIGURES)].to_dict() == pytest.approx(reference(y, p, p >= THRESHOLDS[i], np.full(len(y), PRIOR[i])))


def test_micro_figures_equal_scikit_learn_on_the_pool_of_known_cells(predictions):
    probabilities, targets = predictions
    known = targets >= 0
    decisions, prior = probabilities >= THRESHOLDS, np.broadcast_to(PRIOR, targets.shape)
    expected = reference(targets[known], probabilities[known], decisions[known], prior[known])
    assert micro(probabilities, targets, PRIOR, THRESHOLDS).to_dict() == pytest.approx(expected)


def test_confusion_equals_scikit_learn_on_known_cells(predictions):
    probabilities, targets = predictions
    table = confusion(probabilities, targets, NAMES, THRESHOLDS)
    for i, name in enumerate(NAMES):
        known = targets[:, i] >= 0
        expected = sk.confusion_matrix(targets[known, i], probabilities[known, i] >= THRESHOLDS[i])
        assert table.loc[name, ["TN", "FP", "FN", "TP"]].tolist() == expected.ravel().tolist()


@pytest.mark.parametrize("fill", [0.0, 1.0, np.nan])
def test_figures_do_not_depend_on_what_is_predicted_for_unknown_cells(predictions, fill):
    probabilities, targets = predictions
    other = np.where(targets < 0, fill, probabilities)
    assert evaluate(probabilities, targets, NAMES, PRIOR).equals(evaluate(other, targets, NAMES, PRIOR))
    assert micro(probabilities, targets, PRIOR).equals(micro(other, targets, PRIOR))
    assert confusion(probabilities, targets, NAMES).equals(confusion(other, targets, NAMES))


def test_attribute_that_lacks_a_class_is_nan_and_left_out_of_the_mean_which_says_so(predictions):
    probabilities, targets = predictions
    targets = targets.copy()
    targets[:, 1] = np.minimum(targets[:, 1], 0)
    targets[:, 2] = -1
    table = evaluate(probabilities, targets, NAMES, PRIOR)
    for figure in ("AP", "chance", "ROC_AUC", "F1", "precision", "recall"):
        assert table[figure].notna().tolist() == [True, False, False]
    for figure in ("accuracy", "majority_accuracy", "Brier", "prevalence_Brier", "ECE", "prevalence"):
        assert table[figure].notna().tolist() == [True, True, False]
    mean = macro(table)
    assert mean.to_dict() == table.loc["a", list(FIGURES)].to_dict()
    assert mean.attrs["left_out"] == ["b", "c"]
    assert mean.attrs["over"] == "1 of 3 attributes"


def test_without_a_positive_decision_precision_and_f1_are_zero(predictions):
    probabilities, targets = predictions
    row = evaluate(probabilities, targets, NAMES, PRIOR, 1.1).loc["a"]
    assert (row.precision, row.recall, row.F1) == (0, 0, 0)


def test_attribute_unknown_in_training_has_the_baselines_of_an_even_chance(predictions):
    probabilities, targets = predictions
    known, unknown = (evaluate(probabilities, targets, NAMES, np.full(3, value)) for value in (0.5, np.nan))
    assert known.equals(unknown)


def test_float32_probability_compares_with_its_threshold_as_in_the_predictor():
    probabilities = np.array([[0.7], [0.2]], np.float32)
    table = confusion(probabilities, np.array([[1], [0]]), ["a"], np.array([0.7]))
    assert table.TP["a"] == (probabilities >= np.array([0.7])).sum()


def test_reliability_bins_hold_equal_shares_and_keep_ties_together():
    rng = np.random.default_rng(0)
    p = rng.random(1500) ** 4
    y = (rng.random(1500) < p).astype(int)
    table = reliability(p, y)
    assert table.cells.tolist() == [100] * 15
    np.testing.assert_allclose(table[["observed", "predicted"]].T, calibration_curve(y, p, n_bins=15, strategy="quantile"))
    order = rng.permutation(1500)
    rounded = reliability(p.round(1), y)
    pd.testing.assert_frame_equal(rounded, reliability(p.round(1)[order], y[order]))
    assert rounded.predicted.is_unique


def test_calibration_error_is_small_for_true_probabilities_and_the_shift_for_shifted_ones():
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 0.7, 20_000)
    y = (rng.random(20_000) < p).astype(int)
    assert expected_calibration_error(p, y) < 0.02
    assert expected_calibration_error(p + 0.3, y) == pytest.approx(0.3, abs=0.02)
    assert np.isnan(expected_calibration_error(p[:2], np.array([-1, -1])))


def test_what_cannot_be_judged_is_refused_with_what_was_expected():
    good, targets = np.full((4, 2), 0.5), np.ones((4, 2), int)
    with pytest.raises(ValueError, match=r"probabilities \(4, 1\) and targets \(4, 2\) must both be \(images, attributes\)"):
        checked(good[:, :1], targets)
    with pytest.raises(ValueError, match="1 attributes named, but the targets have 2 columns"):
        checked(good, targets, ["a"])
    with pytest.raises(ValueError, match="1, 0 or below 0 for unknown"):
        checked(good, 2 * targets)
    for wrong in (-3.0, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            checked(np.full((4, 2), wrong), targets)
