"""The policies of pos_weight: how much a positive cell of each attribute weighs."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlkit.data.labels import POS_WEIGHT_POLICIES, from_codes, pos_weight
from mlkit.errors import LabelError, ParameterError

REFERENCE = json.loads((Path(__file__).parents[1] / "losses" / "reference_losses.json").read_text(encoding="utf-8"))[
    "class_balanced_weights"
]


def table(*counts):
    """Label table whose attributes have these (positives, negatives), the rest unknown."""
    rows = max(positives + negatives for positives, negatives in counts) + 1
    columns = [np.repeat([1, 0, -1], [p, n, rows - p - n]) for p, n in counts]
    return from_codes(np.stack(columns, axis=1), [str(i) for i in range(rows)], [f"a{i}" for i in range(len(counts))])


def test_balanced_is_negatives_over_positives_and_the_default():
    labels = table((1, 3), (3, 1), (2, 2))
    assert pos_weight(labels).tolist() == pytest.approx([3, 1 / 3, 1])
    assert pos_weight(labels, policy="balanced").equals(pos_weight(labels))


def test_sqrt_is_the_square_root_of_balanced():
    labels = table((1, 9), (9, 1), (2, 2))
    assert pos_weight(labels, policy="sqrt").tolist() == pytest.approx([3, 1 / 3, 1])


def test_none_is_one_for_every_attribute():
    assert pos_weight(table((1, 9), (9, 1), (0, 3)), policy="none").tolist() == [1, 1, 1]


@pytest.mark.parametrize("beta", REFERENCE["derived_pos_weight"]["by_beta"])
def test_effective_equals_the_published_effective_numbers(beta):
    derived = REFERENCE["derived_pos_weight"]
    labels = table(*zip(derived["pos"], derived["neg"], strict=True))
    weights = pos_weight(labels, cap=np.inf, policy="effective", beta=float(beta))
    np.testing.assert_allclose(weights, derived["by_beta"][beta], rtol=1e-9)
    np.testing.assert_allclose(pos_weight(labels, cap=np.inf), derived["plain_neg_over_pos"], rtol=1e-9)


def test_effective_goes_from_no_weights_at_beta_zero_to_balanced_near_one():
    labels = table((3, 997), (300, 700))
    assert pos_weight(labels, policy="effective", beta=0).tolist() == [1, 1]
    near = pos_weight(labels, cap=np.inf, policy="effective", beta=1 - 1e-9)
    np.testing.assert_allclose(near, pos_weight(labels, cap=np.inf), rtol=1e-5)


@pytest.mark.parametrize("policy", POS_WEIGHT_POLICIES)
def test_attribute_with_one_class_or_none_gets_one_and_unknown_cells_do_not_count(policy):
    weights = pos_weight(table((0, 5), (5, 0), (0, 0), (2, 2)), policy=policy)
    assert weights.tolist() == [1, 1, 1, 1]
    assert weights.name == "pos_weight"
    assert list(weights.index) == ["a0", "a1", "a2", "a3"]


@pytest.mark.parametrize(("policy", "uncapped"), [("balanced", 900), ("sqrt", 30), ("effective", 593.7)])
def test_cap_applies_to_what_the_policy_gives(policy, uncapped):
    labels = table((1, 900))
    assert pos_weight(labels, cap=np.inf, policy=policy).item() == pytest.approx(uncapped, rel=1e-3)
    assert pos_weight(labels, policy=policy).item() == pytest.approx(min(uncapped, 100))
    assert pos_weight(labels, cap=7.5, policy=policy).item() == 7.5


def test_settings_that_make_no_sense_are_refused():
    labels = table((1, 3))
    with pytest.raises(ParameterError, match="no pos_weight policy 'balance'; did you mean 'balanced'"):
        pos_weight(labels, policy="balance")
    for beta in (-0.1, 1, np.nan):
        with pytest.raises(ParameterError, match="at least 0 and below 1"):
            pos_weight(labels, policy="effective", beta=beta)
    with pytest.raises(LabelError, match="must be above 0"):
        pos_weight(labels, cap=0)
