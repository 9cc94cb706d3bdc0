"""Thresholds by hand-made cases."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mlkit.errors import ParameterError
from mlkit.evaluation.thresholds import choose_thresholds, parse_policy

# decisions from the top:  yes  yes  no   yes  no   yes  no
P = np.array([0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1])
Y = np.array([1, 1, 0, 1, 0, 1, 0])


def own(policy, p=P, y=Y):
    """The threshold of a single attribute, which is also the pooled one."""
    return choose_thresholds(p[:, None], y[:, None], ["a"], policy).threshold["a"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("f1", 0.2),  # precision 4/6, recall 4/4: F1 0.8; after the third yes 0.75
        ("precision:0.9", 0.85),  # the two on top
        ("precision:0.75", 0.6),  # 3 of 4, all the way to the third yes
        ("recall:0.5", 0.85),
        ("recall:0.6", 0.6),  # 3 of 4 found; the next lower threshold finds no more and is less precise
        ("recall:1", 0.2),
        ("fixed", 0.5),
        ("fixed:0.3", 0.3),
        ("0.3", 0.3),
        (0.3, 0.3),
        (1, 1.0),
    ],
)
def test_policy_on_a_hand_made_ranking(policy, expected):
    assert own(policy) == pytest.approx(expected)


def test_precision_out_of_reach_gives_the_highest_there_is():
    assert own("precision:0.9", P, np.array([0, 1, 1, 1, 0, 0, 0])) == pytest.approx(0.6)  # 3 of 4


def test_f1_is_the_highest_of_all_thresholds_and_ties_are_never_split():
    rng = np.random.default_rng(0)
    y = (rng.random(400) < 0.4).astype(int)
    p = np.clip(rng.normal(0.4 + 0.2 * y, 0.2), 0, 1).round(2)
    best = max(f1_score(y, p >= t) for t in np.unique(p))
    chosen = own("f1", p, y)
    assert f1_score(y, p >= chosen) == pytest.approx(best)
    assert chosen not in p


def test_unknown_cells_do_not_matter():
    p = np.concatenate([P, [0.99, np.nan]])
    assert own("f1", p, np.concatenate([Y, [-1, -1]])) == own("f1")


def test_few_positives_share_with_the_pool_and_enough_stand_alone():
    rng = np.random.default_rng(0)
    y = np.zeros((1000, 3), int)
    y[:50, 0], y[:49, 1], y[:5, 2] = 1, 1, 1
    p = np.clip(rng.normal([0.2, 0.5, 0.7] + 0.2 * y, 0.05), 0, 1)
    table = choose_thresholds(p, y, ["enough", "fewer", "few"])
    assert table.positives.tolist() == [50, 49, 5]
    np.testing.assert_allclose(table.own_weight, [1, 49 / 54, 0.5])
    np.testing.assert_allclose(table.threshold, table.own_weight * table.own + (1 - table.own_weight) * table.pooled)
    for i, name in enumerate(table.index):
        assert table.own[name] == own("f1", np.tile(p[:, i], 50), np.tile(y[:, i], 50)), name
    assert table.pooled["few"] == own("f1", np.tile(p.ravel(), 50), np.tile(y.ravel(), 50))


def test_one_class_gets_the_pooled_threshold_and_nothing_known_the_middle():
    p = np.stack([P, P, P], axis=1)
    y = np.stack([Y, np.zeros(7, int), np.full(7, -1)], axis=1)
    table = choose_thresholds(p, y, ["both", "no only", "unknown"])
    assert table.own.isna().tolist() == [False, True, True]
    assert (table.threshold[["no only", "unknown"]] == table.pooled.iloc[0]).all()
    assert choose_thresholds(p, np.full_like(y, -1), list("abc")).threshold.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("precison:0.9", "did you mean 'precision:0.9'"),
        ("best", "is unknown"),
        ("precision", "precision needs a number between 0 and 1, as in precision:0.9"),
        ("recall:x", "recall needs a number between 0 and 1"),
        ("recall:90", "recall needs a number between 0 and 1"),
        ("fixed:nan", "fixed needs a number between 0 and 1"),
        (7, "fixed needs a number between 0 and 1"),
        ("f1:0.5", "is unknown"),
    ],
)
def test_policies_that_cannot_be_followed_say_what_is_expected(policy, message):
    with pytest.raises(ParameterError, match=message):
        parse_policy(policy)
