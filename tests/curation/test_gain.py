import numpy as np
import pytest

from mlkit.curation import gain as room
from mlkit.curation.gain import gain
from mlkit.curation.review import Review
from mlkit.data.answers import Answer
from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.predictions import Predictions


@pytest.fixture
def review(tiny, monkeypatch):
    """A review whose trainings without answers never learn the first attribute, and are worse in no other."""

    def trained(review, recipe, config, dataset, cut):
        made = Predictions.read(review.run)
        if not cut:
            made.probabilities[:, 0] = np.nan
        return made

    monkeypatch.setattr(room, "_trained", trained)
    return Review.of(tiny)


def answer(review, count, **more):
    for row in review.queue("random", count).itertuples():
        review.file.append([Answer(row.image, row.attribute, "yes", digest=row.digest, **more)])


def test_the_mean_is_over_what_all_trainings_have_learned(review):
    answer(review, 6, seconds=3.0)
    worth = gain(review, seeds=2)
    assert worth.attributes.difference.iloc[1:].tolist() == pytest.approx([0] * len(worth.attributes.iloc[1:]))
    assert worth.attributes.difference[MEAN] == pytest.approx(0)
    assert np.isnan(worth.attributes["with"].iloc[0])
    assert worth.curve.answers.tolist() == [0, 2, 4, 6]
    assert worth.hours == pytest.approx(6 * 3 / 3600)
    assert "nothing is shown" in str(worth)


def test_an_answer_makes_one_point_and_others_of_unknown_length_no_hours(review):
    answer(review, 1)
    review.file.append([Answer("of another data set.png", "red", "yes", seconds=3.0)])
    worth = gain(review, seeds=2)
    assert worth.curve.answers.tolist() == [0, 1]
    assert worth.answers == 1
    assert np.isnan(worth.hours)
