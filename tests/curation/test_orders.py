"""The orders: what each asks first, that only open cells are asked, each once, and that chance is the seed's alone."""

from dataclasses import replace

import numpy as np
import pytest

from mlkit.curation.orders import BY, DEFAULT_ORDER, NEEDS, ORDERS, Pool, ask, meaning
from mlkit.errors import ParameterError

NAN = np.nan


def pool(images=40, attributes=5, seed=0):
    """A pool of unknown and known cells, some closed, with all that any order may look at."""
    rng = np.random.default_rng(seed)
    probabilities = rng.random((images, attributes))
    codes = rng.integers(-1, 2, probabilities.shape)
    suspicion = np.where((codes >= 0) & (rng.random(codes.shape) < 0.5), rng.random(codes.shape), NAN)
    features, members = rng.standard_normal((images, 8)), rng.random((3, *codes.shape))
    return Pool(probabilities, codes, rng.random(codes.shape) < 0.7, features, members, suspicion)


def cells(*answer):
    return list(zip(*(part.tolist() for part in answer[:2]), strict=True))


UNKNOWN = Pool(
    probabilities=np.array([[0.9, 0.5], [0.6, NAN], [0.02, 0.97]]),
    codes=np.full((3, 2), -1),
    open=np.ones((3, 2), bool),
    features=np.eye(3),
)


def test_uncertain_asks_what_is_near_a_half_and_first_what_nothing_is_known_of():
    rows, columns, scores = ask(UNKNOWN, "uncertain", 6)
    assert set(cells(rows, columns)[:2]) == {(0, 1), (1, 1)}
    assert cells(rows, columns)[2:] == [(1, 0), (0, 0), (2, 1), (2, 0)]
    assert scores[0] == pytest.approx(1)
    assert scores[3] == pytest.approx(-0.9 * np.log2(0.9) - 0.1 * np.log2(0.1))
    assert (np.diff(scores) <= 0).all()


def test_disagreement_asks_where_models_differ_and_not_where_all_doubt():
    doubted, disputed, plain = [0.5, 0.5, 0.5], [0.05, 0.95, 0.5], [0.1, 0.2, 0.1]
    members = np.array([doubted, disputed, plain]).T[:, None, :]
    three = Pool(members.mean(axis=0), np.full((1, 3), -1), np.ones((1, 3), bool), np.ones((1, 1)), members)
    _, columns, scores = ask(three, "disagreement", 3)
    assert columns.tolist() == [1, 2, 0]
    assert scores[2] == pytest.approx(0)
    # mutual information of answer and model
    h = [-p * np.log2(p) - (1 - p) * np.log2(1 - p) for p in (0.05, 0.95, 0.5)]
    assert scores[0] == pytest.approx(1 - np.mean(h))


def test_rare_asks_attributes_with_few_known_positives_first():
    codes = np.array([[1, 0], [1, 0], [1, 1], [-1, -1], [-1, -1]])
    probabilities = np.where(codes < 0, 0.4, NAN)
    probabilities[4] = 0.02
    asked = ask(Pool(probabilities, codes, np.ones((5, 2), bool), np.ones((5, 1))), "rare", 4)
    assert cells(*asked)[0] == (3, 1)
    assert cells(*asked)[1] == (3, 0)


def test_balanced_asks_above_the_share_of_a_rare_attribute():
    codes = np.concatenate([np.zeros((99, 1), int), np.full((4, 1), -1)])
    codes[:3] = 1  # odds 4 to 97, the one more of each counted
    probabilities = np.full((103, 1), NAN)
    middle = np.sqrt(4 / 97) / (1 + np.sqrt(4 / 97))
    probabilities[99:, 0] = [0.5, middle, 0.02, 0.9]
    rare = Pool(probabilities, codes, np.ones((103, 1), bool), np.ones((103, 1)))
    rows, _, scores = ask(rare, "balanced", 4)
    assert rows.tolist() == [100, 99, 101, 102]
    assert scores[0] == pytest.approx(1)
    assert ask(rare, "uncertain", 4)[0].tolist() == [99, 100, 102, 101]


@pytest.mark.parametrize("by", BY)
def test_representative_begins_with_one_of_each_cluster(by):
    rng = np.random.default_rng(0)
    centres = np.eye(4, 16) * 10
    cluster = np.arange(200) % 4
    many = Pool(
        probabilities=0.5 + 0.02 * rng.random((200, 1)) + 0.05 * (cluster == 0)[:, None] * -1,
        codes=np.full((200, 1), -1),
        open=np.ones((200, 1), bool),
        features=centres[cluster] + 0.1 * rng.standard_normal((200, 16)),
    )
    rows, _, _ = ask(many, "representative", 4, by)
    assert sorted(cluster[rows]) == [0, 1, 2, 3]
    plain, _, _ = ask(many, "uncertain", 4, by)
    assert len(set(cluster[plain])) < 4


def test_errors_asks_known_cells_under_suspicion_alone():
    suspicion = np.array([[NAN, 0.3], [0.9, NAN]])
    asked = ask(
        Pool(np.full((2, 2), 0.5), np.array([[-1, 1], [0, 1]]), np.ones((2, 2), bool), np.eye(2), None, suspicion),
        "errors",
        9,
    )
    assert cells(*asked) == [(1, 0), (0, 1)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("by", BY)
def test_asks_open_cells_of_its_kind_once_and_the_same_for_the_same_seed(order, by):
    given = pool()
    rows, columns, scores = ask(given, order, 1000, by)
    found = cells(rows, columns)
    eligible = given.open & (np.isfinite(given.suspicion) if order == "errors" else given.codes < 0)
    assert len(found) == len(set(found)) == len(scores) == eligible.sum()
    assert eligible[rows, columns].all()
    assert np.isfinite(scores).all()
    fewer = ask(given, order, 7, by)
    assert cells(*fewer) == found[: len(fewer[0])]
    assert 7 <= len(fewer[0]) < 12
    if by == "image":
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        assert len(starts) == len(set(rows.tolist())), "the cells of an image come together"
        assert rows[len(fewer[0])] != fewer[0][-1], "the last is whole"
    tied = replace(given, probabilities=np.full((40, 5), 0.5), members=None if order != "disagreement" else given.members)
    first, same, other = (cells(*ask(replace(tied, seed=seed), order, 20, by)) for seed in (1, 1, 2))
    assert first == same
    assert (first == other) == (order in NEEDS), "equal scores are dealt by the seed"


def test_by_image_takes_the_mean_of_what_is_open():
    given = replace(UNKNOWN, open=np.array([[False, True], [True, False], [True, True]]))
    rows, columns, scores = ask(given, "uncertain", 3, "image")
    assert cells(rows, columns) == [(0, 1), (1, 0), (2, 0), (2, 1)], "the last image is whole"
    assert scores[2] == scores[3] == pytest.approx(ask(given, "uncertain", 9)[2][2:].mean())


def test_says_what_an_order_lacks_and_what_there_is():
    for order, lacking in (("disagreement", "several models: an ensemble"), ("errors", "runs of folds")):
        with pytest.raises(ParameterError, match=f"order {order} needs .*{lacking}.*; give these, or another order"):
            ask(UNKNOWN, order, 3)
    with pytest.raises(ParameterError, match="order is 'uncertian'; did you mean 'uncertain'"):
        ask(UNKNOWN, "uncertian", 3)
    with pytest.raises(ParameterError, match="by is 'cel'; did you mean 'cell'"):
        ask(UNKNOWN, "random", 3, by="cel")
    assert DEFAULT_ORDER in ORDERS
    assert all(meaning(order).endswith((".", ").")) for order in ORDERS)


def test_nothing_open_is_nothing_asked():
    for order in ("uncertain", "representative"):
        for by in BY:
            assert [len(part) for part in ask(replace(UNKNOWN, open=np.zeros((3, 2), bool)), order, 5, by)] == [0, 0, 0]
