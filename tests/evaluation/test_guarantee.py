import numpy as np
import pytest

from mlkit.evaluation.guarantee import Guarantee, certify, decided, fewest_cells


def draw(rng, shape, share, distance):
    """Calibrated probabilities, and the truth: scores of two normal distributions so far apart."""
    y = (rng.random(shape) < share).astype(np.int8)
    z = rng.normal(size=shape) + distance * y
    return 1 / (1 + np.exp(-(distance * z - distance**2 / 2 + np.log(share / (1 - share))))), y


@pytest.mark.parametrize(("share", "distance"), [(0.5, 2.5), (0.94, 0.0)])
def test_it_is_broken_in_at_most_its_share_of_draws(share, distance):
    rng, draws = np.random.default_rng(0), 1000
    few, truth = draw(rng, (400, draws), share, distance)
    if distance == 0:  # scores of noise, where a yes is right with 0.94, wherever one begins
        few = rng.random(few.shape)
    found = certify(few, truth, [str(number) for number in range(draws)], 0.95).yes_from
    p, y = (part.ravel()[::-1] for part in draw(rng, 400_000, share, distance))
    order = np.argsort(p, kind="stable")
    beyond = np.cumsum(y[order][::-1])[::-1] / np.arange(len(y), 0, -1)  # precision from each score on
    true = [0.94 if distance == 0 else beyond[np.searchsorted(p[order], lowest)] for lowest in found.values()]
    assert (np.array(true) < 0.95).sum() <= 0.1 * draws
    assert len(found) > (0 if distance == 0 else 0.3 * draws)


def test_a_no_is_the_twin_of_a_yes():
    rng = np.random.default_rng(1)
    p, y = draw(rng, (500, 1), 0.5, 3)
    one, other = certify(p, y, ["a"], 0.95), certify(1 - p, 1 - y, ["a"], 0.95)
    assert one.yes_from["a"] == pytest.approx(1 - other.no_to["a"])
    assert one.no_to["a"] == pytest.approx(1 - other.yes_from["a"])
    assert one.no_to["a"] < one.yes_from["a"]


def test_it_takes_cells_nearly_all_of_them_right():
    assert [fewest_cells(0.95), fewest_cells(0.9), fewest_cells(0.8, 0.95)] == [45, 22, 14]
    p, y = np.linspace(0.99, 0.6, 44)[:, None], np.ones((44, 1), np.int8)
    assert certify(p, y, ["a"], 0.95).yes_from == {}
    one_more = np.vstack([p, [[0.55]]]), np.vstack([y, [[1]]])
    assert certify(*one_more, ["a"], 0.95).yes_from == {"a": pytest.approx(0.55)}
    one_more[1][-1] = 0
    assert certify(*one_more, ["a"], 0.95).yes_from == {}
    assert certify(*one_more, ["a"], 0.9).yes_from == {"a": pytest.approx(0.55)}


def test_equal_probabilities_are_decided_alike_and_unknown_cells_have_no_say():
    p, y = np.repeat([0.9, 0.8], [50, 50])[:, None], np.repeat([1, 0], [50, 50])[:, None].astype(np.int8)
    assert certify(p, y, ["a"], 0.95).yes_from == {"a": 0.9}
    rng = np.random.default_rng(2)
    p, y = draw(rng, (300, 1), 0.6, 2.5)
    unknown = rng.random(y.shape) < 0.4
    kept = ~unknown[:, 0]
    assert certify(p, np.where(unknown, -1, y), ["a"], 0.9) == certify(p[kept], y[kept], ["a"], 0.9)


def test_nothing_is_promised_of_what_is_not_missing_at_random_nor_decided():
    rng = np.random.default_rng(3)
    p, y = (np.repeat(part, 2, axis=1) for part in draw(rng, (400, 1), 0.5, 3))
    guarantee = certify(p, y, ["a", "b"], 0.95, odd=["b"])
    assert Guarantee.of(guarantee.facts()) == guarantee
    assert guarantee.notes(["a", "b"]) == [
        "of what is decided, at least 95% is right, with 90% confidence",
        "not missing at random, so nothing is promised of: b",
    ]
    few = certify(p[:30], y[:30], ["a", "b"], 0.95).notes(["a", "b"])
    assert few[1:] == [
        f"no {what} can be promised (it takes 45 cells or more, nearly all of them right) of: a, b" for what in ("yes", "no")
    ]
    asked = np.array([[0.999, 0.999], [0.001, 0.001], [0.5, 0.5], [np.nan, 0.5]])
    assert guarantee.decide(asked, ["a", "b"]).tolist() == [
        ["yes", "unsure"],
        ["no", "unsure"],
        ["unsure"] * 2,
        [None, "unsure"],
    ]


def test_what_it_comes_to_counts_known_cells_alone():
    p = np.array([[0.99], [0.98], [0.97], [0.5], [0.01], [0.02]])
    y = np.array([[1], [0], [-1], [1], [0], [-1]])
    row = decided(p, y, ["a"], Guarantee(0.5, 0.9, {"a": 0.9}, {"a": 0.1})).loc["a"]
    assert row[["yes_from", "no_to", "decided"]].tolist() == [0.9, 0.1, pytest.approx(5 / 6)]
    assert row[["said_yes", "yes_right", "said_no", "no_right"]].tolist() == [2, 0.5, 1, 1]
