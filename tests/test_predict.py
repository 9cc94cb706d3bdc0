import shutil

import numpy as np
import pytest

from mlkit.cli import main
from mlkit.ensemble import build_ensemble
from mlkit.errors import ImageError, RunError
from mlkit.model import build_model, load_model, save_model
from mlkit.predict import Predictor
from mlkit.runs import Run


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


def put(model_file, name, **meta):
    """A run of that model; its metadata changed."""
    run = Run.create(name, {}, "data")
    network, its = load_model(model_file)
    save_model(run / "model.pth", network, its | meta)
    return run


def test_model_that_answers_says_who_it_is_and_the_newest_is_a_finished_one(model_file, sample, capsys):
    image = str(sample / "images" / "0000.jpg")
    done = put(model_file, "done", metrics={"mAP": 0.5}, epoch=3, trained="2030-01-02T03:04:05+00:00")
    done.write_json("metrics.json", {})
    put(model_file, "begun", metrics={}, epoch=1)
    assert main(["predict", image]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"model: {Run.open('done')}, resnet18 of epoch 3, trained 2030-01-02 03:04 UTC"
    assert len(lines) == 4


@pytest.mark.parametrize("by_file", [False, True])
def test_unfinished_model_says_so_on_every_door(model_file, sample, capsys, by_file):
    image, run = str(sample / "images" / "0000.jpg"), put(model_file, "begun", metrics={}, epoch=1)
    source = str(run / "model.pth") if by_file else "begun"
    said = "is not finished: its probabilities are not calibrated, its thresholds are all 0.5"
    assert main(["predict", image, "--model", source]) == 0
    out = capsys.readouterr().out
    assert said in out
    assert "of epoch 1, not finished" in out
    assert not Predictor.load(source).finished
    assert said in capsys.readouterr().out
    shutil.copytree(run.path, run.path.with_name("other"))
    with pytest.raises(RunError, match="begun is not finished"):
        build_ensemble([run, Run.open("other")])


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
    with pytest.raises(RunError, match=r"no finished run in .* yet; train one"):
        Predictor.load()
