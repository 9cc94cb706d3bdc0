import numpy as np
import pytest

from mlkit.errors import ImageError, RunError
from mlkit.model import build_model, save_model
from mlkit.predict import Predictor


@pytest.fixture
def model_file(tmp_path):
    attributes = ["a", "b"]
    meta = {
        "backbone": "resnet18",
        "image_size": 32,
        "attributes": attributes,
        "thresholds": {"a": 0.0, "b": 1.0},
        "calibration": {name: {"slope": 1.0, "bias": 0.0} for name in attributes},
    }
    save_model(tmp_path / "model.pth", build_model("resnet18", 2, "none", 32), meta)
    return tmp_path / "model.pth"


def test_table_has_a_row_per_image_and_attribute_and_decides_by_threshold(model_file, sample):
    images = sorted((sample / "images").iterdir())[:5]
    table = Predictor.load(model_file).predict(images)
    assert table.columns.tolist() == ["image", "attribute", "probability", "threshold", "present"]
    assert table.image.tolist() == [str(image) for image in images for _ in "ab"]
    assert table.present.tolist() == [True, False] * 5
    assert table.probability.between(0, 1).all()


def test_one_image_gets_the_answer_that_it_gets_among_many(model_file, sample):
    images = sorted((sample / "images").iterdir())[:3]
    predictor = Predictor.load(model_file, precision="fp32")
    alone = predictor.predict(images[1]).probability
    np.testing.assert_allclose(alone, predictor.predict(images).probability[2:4], rtol=1e-4)


def test_broken_image_raises_or_is_handed_over_and_left_out(model_file, sample, tmp_path):
    good = sample / "images" / "0000.jpg"
    (tmp_path / "text.jpg").write_text("no image")
    predictor = Predictor.load(model_file)
    with pytest.raises(ImageError, match="not an image"):
        predictor.predict([tmp_path / "text.jpg", good])
    errors = []
    table = predictor.predict([tmp_path / "text.jpg", good, tmp_path / "gone.jpg"], errors.append)
    assert table.image.unique().tolist() == [str(good)]
    assert ["not an image" in str(errors[0]), "no such file" in str(errors[1])] == [True, True]


def test_missing_model_says_how_to_get_one(tmp_path):
    with pytest.raises(RunError, match="no such model; train one"):
        Predictor.load(tmp_path / "none.pth")
    with pytest.raises(RunError, match=r"no run in .* yet; train one"):
        Predictor.load()
