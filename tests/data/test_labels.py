"""Label tables are counted over their known cells."""

import numpy as np
import pandas as pd
import pytest

from mlkit.data.labels import captions, cooccurrence, from_codes, label_counts, na_patterns, pos_weight, to_codes
from mlkit.errors import LabelError


@pytest.fixture
def labels():
    codes = [[1, -1, 0], [0, 1, 0], [1, 1, -1], [-1, 1, 0]]
    return from_codes(codes, ["a.jpg", "b.jpg", "sub/c.jpg", "d.jpg"], ["sea", "sky", "sun"])


def test_codes_and_table_are_each_others_inverse(labels):
    codes = to_codes(labels)
    assert codes.dtype == np.int8
    pd.testing.assert_frame_equal(from_codes(codes, labels.index, labels.columns), labels)
    assert from_codes(np.empty((0, 2)), [], ["sea", "sky"]).shape == (0, 2)


def test_captions_name_what_is_there_and_what_is_unknown(labels):
    labels.loc["none.jpg"] = [0, 0, 0]
    assert captions(labels) == ["sea, sky?", "sky", "sea, sky, sun?", "sky, sea?", "none"]


def test_label_counts_count_known_cells_only(labels):
    counts = label_counts(labels)
    assert counts.loc["sea"].to_dict() == pytest.approx(
        {"positives": 2, "negatives": 1, "unknown": 1, "prevalence": 2 / 3, "imbalance": 2}
    )
    assert counts.loc["sky", ["positives", "negatives", "unknown", "prevalence"]].tolist() == [3, 0, 1, 1]
    assert counts.loc["sun", ["positives", "negatives", "unknown", "prevalence"]].tolist() == [0, 3, 1, 0]
    assert counts.imbalance[["sky", "sun"]].isna().all()


def test_attribute_that_nobody_knows_has_no_prevalence():
    counts = label_counts(from_codes([[-1], [-1]], ["a", "b"], ["sea"]))
    assert counts.loc["sea", ["positives", "negatives", "unknown"]].tolist() == [0, 0, 2]
    assert counts.loc["sea", ["prevalence", "imbalance"]].isna().all()


def test_cooccurrence_equals_the_share_counted_by_hand():
    codes = np.random.default_rng(0).integers(-1, 2, (60, 4))
    codes[:, 3] = 0
    share = cooccurrence(from_codes(codes, [f"{i}.jpg" for i in range(60)], list("abcd")))
    for i, row in enumerate("abcd"):
        for j, column in enumerate("abcd"):
            cells = codes[(codes[:, i] == 1) & (codes[:, j] >= 0), j]
            expected = (cells == 1).mean() if len(cells) else np.nan
            assert share.loc[row, column] == pytest.approx(expected, nan_ok=True)
    assert share.loc["d"].isna().all()


def test_na_patterns_count_what_is_unknown_together():
    table = from_codes([[1, -1], [0, -1], [1, 0], [-1, -1], [1, -1]], list("abcde"), ["sea", "sky"])
    patterns = na_patterns(table)
    assert list(patterns.columns) == ["sea", "sky"]
    assert patterns.index.tolist() == [3, 1, 1]
    assert patterns.iloc[0].tolist() == [False, True]
    assert sorted(patterns.iloc[1:].to_numpy().tolist()) == [[False, False], [True, True]]


def test_pos_weight_is_negatives_over_positives_of_the_known_cells():
    codes = np.array([[1, 0], [0, 1], [0, 1], [0, 1], [-1, -1]])
    weights = pos_weight(from_codes(codes, list("abcde"), ["rare", "common"]))
    assert weights.to_dict() == pytest.approx({"rare": 3, "common": 1 / 3})


@pytest.mark.parametrize("code", [1, 0, -1])
def test_pos_weight_of_an_attribute_with_one_class_or_none_is_one(code):
    weights = pos_weight(from_codes([[code], [code], [-1]], list("abc"), ["sea"]))
    assert weights.to_dict() == {"sea": 1}


def test_pos_weight_is_capped():
    codes = np.zeros((1001, 2))
    codes[0] = 1
    table = from_codes(codes, [str(i) for i in range(1001)], ["sea", "sky"])
    assert pos_weight(table).tolist() == [100, 100]
    assert pos_weight(table, cap=7.5).tolist() == [7.5, 7.5]
    assert pos_weight(table, cap=np.inf).tolist() == [1000, 1000]


@pytest.mark.parametrize("cap", [0, -1, np.nan])
def test_cap_that_would_switch_positives_off_is_refused(labels, cap):
    with pytest.raises(LabelError, match=r"cap of pos_weight is .*; it must be above 0"):
        pos_weight(labels, cap=cap)
