"""Calibration recovers what was done to the logits."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from mlkit.evaluation.calibration import Calibration, fit, from_pos_weight, sigmoid
from mlkit.evaluation.metrics import expected_calibration_error


def simulate(images=20_000, seed=0):
    """True logits of three attributes (frequent, even, rare) and targets with unknown cells."""
    rng = np.random.default_rng(seed)
    logits = rng.normal([1, 0, -3], 1.5, (images, 3))
    targets = (rng.random(logits.shape) < sigmoid(logits)).astype(int)
    targets[rng.random(targets.shape) < 0.2] = -1
    return logits, targets


def test_known_slope_and_bias_are_recovered_and_the_error_falls():
    true, targets = simulate()
    slope, bias = np.array([0.5, 2, 1.5]), np.array([-1, 0.5, 2])
    shifted = (true - bias) / slope
    calibration = fit(shifted, targets, list("abc"))
    np.testing.assert_allclose(calibration.slope, slope, rtol=0.06)
    np.testing.assert_allclose(calibration.bias, bias, atol=0.15)
    fresh, truth = simulate(seed=1)
    before = sigmoid((fresh - bias) / slope)
    after = calibration.probabilities((fresh - bias) / slope)
    for i in range(3):
        errors = [expected_calibration_error(p[:, i], truth[:, i]) for p in (before, after)]
        assert errors[1] < 0.025
        assert errors[1] < errors[0] / 3


def test_without_a_penalty_it_is_logistic_regression_on_the_known_cells():
    logits, targets = simulate(2000)
    calibration = fit(logits * 2 + 1, targets, list("abc"), ridge=1e-9)
    for i in range(3):
        known = targets[:, i] >= 0
        model = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[known, i, None] * 2 + 1, targets[known, i])
        found = calibration.slope[i], calibration.bias[i]
        np.testing.assert_allclose(found, (model.coef_[0, 0], model.intercept_[0]), rtol=1e-3, atol=1e-4)


def test_pos_weight_correction_is_exact():
    p = np.array([[0.5, 0.1], [0.01, 0.9]])
    weight = np.array([9.0, 0.25])
    odds = p / (1 - p) * weight  # where the weighted loss is at its minimum
    np.testing.assert_allclose(from_pos_weight(["a", "b"], weight).probabilities(np.log(odds)), p, rtol=1e-12)
    np.testing.assert_array_equal(from_pos_weight(["a", "b"]).apply(np.log(odds)), np.log(odds))
    with pytest.raises(ValueError, match="above 0"):
        from_pos_weight(["a"], 0.0)


def test_fit_starts_from_the_pos_weight_correction():
    true, targets = simulate()
    weighted = true + np.log([0.5, 1, 20])
    calibration = fit(weighted, targets, list("abc"), np.array([0.5, 1, 20]))
    np.testing.assert_allclose(calibration.apply(weighted), true, atol=0.5)
    few = fit(weighted[:60], targets[:60], list("abc"), np.array([0.5, 1, 20]), ridge=1e9)
    np.testing.assert_allclose(few.apply(weighted), true, atol=1e-5)


def test_an_attribute_that_lacks_a_class_keeps_the_correction_alone():
    logits, targets = simulate(200)
    targets[:, 0] = np.minimum(targets[:, 0], 0)
    targets[:, 1] = -1
    calibration = fit(logits, targets, list("abc"), np.array([1, 4, 1]))
    assert calibration.slope[:2].tolist() == [1, 1]
    np.testing.assert_allclose(calibration.bias[:2], [0, -np.log(4)])
    assert calibration.slope[2] != 1


def test_few_and_separable_positives_do_not_blow_up():
    logits = np.concatenate([np.full(100, -4.0), [5, 6]])[:, None]
    targets = (logits > 0).astype(int)
    calibration = fit(logits, targets, ["a"])
    assert 0.8 < calibration.slope[0] < 2
    assert abs(calibration.bias[0]) < 1


def test_ranking_is_kept_even_where_the_model_ranks_backwards():
    logits, targets = simulate(500)
    calibration = fit(-logits, targets, list("abc"))
    assert (calibration.slope > 0).all()
    known = targets[:, 1] >= 0
    scores = [(-logits)[known, 1], calibration.apply(-logits)[known, 1]]
    assert len({average_precision_score(targets[known, 1], score) for score in scores}) == 1


def test_huge_logits_are_fitted():
    logits, targets = simulate(2000)
    calibration = fit(logits * 50, targets, list("abc"))
    np.testing.assert_allclose(calibration.slope, 1 / 50, rtol=0.25)


def test_unknown_cells_do_not_matter():
    logits, targets = simulate(300)
    other = np.where(targets < 0, np.nan, logits)
    assert fit(logits, targets, list("abc")).to_dict() == fit(other, targets, list("abc")).to_dict()


def test_plain_values_survive_json():
    logits, targets = simulate(300)
    calibration = fit(logits, targets, list("abc"))
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again.attributes == calibration.attributes == ("a", "b", "c")
    np.testing.assert_array_equal(again.apply(logits), calibration.apply(logits))


def test_logits_that_cannot_be_fitted_are_refused():
    with pytest.raises(ValueError, match=r"logits \(4, 1\) and targets \(4, 2\) must both be \(images, 1\)"):
        fit(np.zeros((4, 1)), np.zeros((4, 2)), ["a"])
    with pytest.raises(ValueError, match="finite"):
        fit(np.full((4, 1), np.inf), np.ones((4, 1)), ["a"])


def test_sigmoid_is_exact_in_both_tails():
    assert sigmoid(np.array([-800.0, 800.0])).tolist() == [0, 1]
    assert sigmoid(np.array([-40.0]))[0] == pytest.approx(np.exp(-40))
