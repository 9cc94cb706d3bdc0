"""Test-time augmentation: the mean of what a model says of views of an image, and what that is worth."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tinynet import TINYNET
from torch import nn

from mlkit.cli import main
from mlkit.data.images import load_image
from mlkit.data.labelfile import read_labels
from mlkit.errors import ParameterError
from mlkit.evaluation.calibration import Calibration
from mlkit.evaluation.guarantee import Guarantee
from mlkit.evaluation.metrics import evaluate, macro
from mlkit.evaluation.predictions import Predictions
from mlkit.inference import answers
from mlkit.inference.predictor import Predictor
from mlkit.inference.view_gain import ALONE, compare_views, conclusion, readable
from mlkit.inference.views import VIEWS
from mlkit.models.device import choose_device
from mlkit.models.modelfile import load_model, save_model
from mlkit.models.networks import build_model, normalise

META = {
    "backbone": TINYNET,
    "image_size": 32,
    "attributes": ["a"],
    "thresholds": {"a": 0.5},
    "calibration": {"a": {"slope": 2.0, "bias": 0.3}},
    "metrics": {"mAP": 0.5},
}
CPU = choose_device("cpu", "fp32")


class LeftHalf(nn.Module):
    """A logit that is the mean of the left half of the pixels, as they are normalised."""

    def forward(self, inputs):
        return inputs[..., : inputs.shape[-1] // 2].mean(dim=(1, 2, 3))[:, None]


@pytest.fixture
def photo(tmp_path):
    """Of the network's size, each half another."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    pixels[:, :16] //= 4
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model.pth", build_model(TINYNET, 1, "none", 32), META)
    return tmp_path / "model.pth"


def test_a_flip_makes_both_halves_count_alike_before_the_calibration(photo):
    predictor = Predictor(LeftHalf(), META, CPU, views="flip")
    normalised = (np.asarray(Image.open(photo)) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = 1 / (1 + np.exp(-(2 * normalised.mean() + 0.3)))
    assert predictor.predict(photo).probability.item() == pytest.approx(expected, rel=1e-5)
    assert Predictor(LeftHalf(), META, CPU).predict(photo).probability.item() != pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("size", [16, 32, 33])
def test_views_keep_size_and_scale_and_what_is_the_same_everywhere(size):
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    even = torch.full_like(pixels, 77)
    for view in VIEWS.values():
        assert view(pixels).shape == pixels.shape
        assert 0 <= view(pixels).min() <= view(pixels).max() <= 255
        torch.testing.assert_close(view(even).float(), even.float())
        torch.testing.assert_close(view(pixels.flip(2)).float(), view(pixels).flip(2).float(), rtol=1e-4, atol=1e-3)


def test_zooms_show_the_middle_larger_and_the_whole_smaller():
    pixels = torch.zeros(1, 32, 32, 3)
    pixels[:, 8:24, 8:24] = 255  # a quarter of the area
    assert VIEWS["zoom_in"](pixels).mean() / 255 == pytest.approx((16 / 28) ** 2, rel=0.01)
    assert VIEWS["zoom_out"](pixels).mean() / 255 == pytest.approx((14 / 32) ** 2, rel=0.01)


def test_views_count_once_and_their_order_not_at_all(model, photo):
    one, two = (Predictor.load(model, "cpu", views=text) for text in ("zoom_out,flip", " flip, zoom_out,flip"))
    assert one.digest == two.digest
    assert str(one).endswith(", views: image, flip, zoom_out")
    pd.testing.assert_frame_equal(one.predict(photo), two.predict(photo))


def test_unknown_view_is_named_with_the_nearest_known_one(model, photo, capsys):
    assert main(["predict", str(photo), "--model", str(model), "--views", "flip,zoom_inn"]) == 2
    assert "unknown view 'zoom_inn'; did you mean 'zoom_in'?" in capsys.readouterr().err


def test_a_guarantee_is_not_claimed_for_what_it_was_not_shown_for():
    meta = META | {"guarantee": Guarantee(0.9).facts()}
    assert Predictor(LeftHalf(), meta, CPU).views == ()
    with pytest.raises(ParameterError, match="r has a guarantee, which was shown without views; leave them out"):
        Predictor(LeftHalf(), meta, CPU, "r", views="flip")


def test_resume_takes_no_answers_of_other_views(model, photo, tmp_path, monkeypatch):
    real, out = answers._join, tmp_path / "table.csv"
    words = ["predict", str(photo), "--model", str(model), "--out"]
    assert main([*words, str(tmp_path / "plain.csv")]) == 0
    assert main([*words, str(tmp_path / "flip.csv"), "--views", "flip"]) == 0
    monkeypatch.setattr(answers, "_join", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*words, str(out), "--views", "flip"])
    monkeypatch.setattr(answers, "_join", real)
    assert main([*words, str(out), "--resume"]) == 0
    assert out.read_bytes() == (tmp_path / "plain.csv").read_bytes() != (tmp_path / "flip.csv").read_bytes()


@pytest.fixture
def decided(tiny):
    """The run with a network that tells its images apart: answers that are all the same prove nothing."""
    table, (_, meta) = tiny.read_table("predictions.csv"), load_model(tiny / "model.pth")
    network = build_model(TINYNET, 4, "none", 32).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of these images at once
    pixels = torch.tensor(np.stack([load_image(tiny.images / image, 32) for image in table.image.unique()]))
    with torch.no_grad():
        network(normalise(pixels))
        logits = network.eval()(normalise(pixels)).numpy()
    save_model(tiny / "model.pth", network, meta | {"backbone": TINYNET})
    probabilities = Calibration.from_dict(meta["calibration"]).probabilities(logits)
    tiny.write_table("predictions.csv", table.assign(logit=logits.ravel(), probability=probabilities.ravel()))
    return tiny


def test_gain_of_views_is_the_paired_difference_of_what_the_predictor_says(decided, monkeypatch):
    monkeypatch.setattr("mlkit.inference.views._BATCH", 10)
    table = compare_views(decided, "zoom_in,flip")
    assert table.index.tolist() == [ALONE, "flip", "zoom_in", "flip,zoom_in"]
    assert table.passes.tolist() == [1, 2, 2, 3]
    predicted = Predictions.read(decided, "validation")
    assert table.mAP[ALONE] == macro(predicted.evaluate())["AP"]
    images = [decided.images / image for image in predicted.images]
    for views, row in table.iloc[1:].iterrows():
        probabilities = Predictor.load(decided.path, views=str(views)).predict(images).probability.to_numpy().reshape(-1, 4)
        figures = macro(evaluate(probabilities, predicted.targets, predicted.attributes, predicted.prevalence, 0.5))
        assert row.mAP == pytest.approx(figures["AP"], abs=1e-6)
        assert row.mAP_difference == pytest.approx(row.mAP - table.mAP[ALONE])
        assert row.Brier_difference == pytest.approx(figures["Brier"] - macro(predicted.evaluate())["Brier"], abs=1e-6)
        assert 0 < row.speed < 1
    assert readable(table).loc["flip", "mAP difference"].startswith(f"{table.mAP_difference['flip']:+.3f} [")
    again = compare_views(decided, "flip", 0.99)
    assert again.mAP_low["flip"] < table.mAP_low["flip"], "two rows share the level"
    assert again.mAP_difference["flip"] == table.mAP_difference["flip"]


def test_a_difference_whose_interval_covers_zero_shows_nothing(tiny):
    table = compare_views(tiny, "flip")
    said = "More views of an image: {}; flip changes mAP on 17 validation images by "
    for low, high, what in [(-0.1, 0.1, "nothing shown"), (0.1, 0.2, "they help"), (-0.2, -0.1, "they do harm")]:
        assert conclusion(table.assign(mAP_low=low, mAP_high=high)).startswith(said.format(what))
    few = conclusion(table.assign(mAP_low=np.nan, mAP_high=np.nan))
    assert "nothing shown" in few
    assert "(too few images)" in few
    assert conclusion(compare_views(tiny, "")) == "More views of an image: not compared."


def test_views_are_not_compared_on_data_that_changed_since(tiny, tmp_path, capsys):
    config = tiny.read_json("config.json")
    labels = read_labels(config["parameters"]["labels"])
    labels.iloc[0, 0] = 1 - labels.iloc[:, 0].mode()[0]
    labels.to_csv(tmp_path / "labels.csv", na_rep="NA")
    config["parameters"]["labels"] = str(tmp_path / "labels.csv")
    tiny.write_json("config.json", config)
    assert compare_views(tiny, "flip").empty
    assert "views were not compared: labels or images are others than" in capsys.readouterr().out
    (tmp_path / "labels.csv").unlink()
    assert compare_views(tiny, "flip").empty
    assert re.search("views were not compared: .*labels.csv: no such", capsys.readouterr().out)
    tiny.write_json("config.json", config | {"parameters": config["parameters"] | {"members": ["a", "b"]}})
    (tiny / "split.csv").unlink()
    assert compare_views(tiny, "flip").empty
    assert "were split each in its way" in capsys.readouterr().out
