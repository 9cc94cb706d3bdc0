import re
import shutil
from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from tinynet import TINYNET
from torch import nn

from mlkit.cli import main
from mlkit.data.labelfile import read_labels
from mlkit.data.source import DataSource
from mlkit.errors import ImageError, ParameterError, RunError
from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.predictions import Predictions, summary
from mlkit.experiments.ensemble import build_ensemble
from mlkit.inference.plots import prediction
from mlkit.inference.predictor import Predictor
from mlkit.models.device import choose_device
from mlkit.models.modelfile import load_model, save_model
from mlkit.models.networks import build_model, normalise, set_statistics, statistics_of
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.loop import train
from mlkit.training.prior import model_logits


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


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """A run of labels with an attribute that is always unknown, from weights with a normalisation of their own."""
    folder = tmp_path_factory.mktemp("trained")
    labels = read_labels(sample / "labels.csv").assign(ghost=pd.NA)
    labels.to_csv(folder / "labels.csv", na_rep="NA")
    data = {"images": str(sample / "images"), "labels": str(folder / "labels.csv")}
    dataset = DataSource(data["images"], data["labels"]).open(32)
    network = set_statistics(build_model(TINYNET, 2, "none"), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    for module in network.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of these images at once: else all images get the same logits
    with torch.no_grad():
        network(normalise(torch.from_numpy(dataset.batch(np.arange(32))[0]), *statistics_of(network)))
    meta = {"backbone": TINYNET, "image_size": 32, "attributes": ["a", "b"]}
    save_model(folder / "start.pth", network, meta | dict(zip(("mean", "std"), statistics_of(network), strict=True)))
    config = TrainConfig(backbone=TINYNET, weights=str(folder / "start.pth"), image_size=32, epochs=2, test_fraction=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_OUTPUTS", str(folder))
        run = Run.create("t", asdict(config) | data, dataset.fingerprint)
        train(dataset, config, run)
    return run


def test_answer_of_predict_is_that_of_the_run_to_rounding(trained, sample, tmp_path):
    predictions = trained.read_table("predictions.csv")
    images = [str(sample / "images" / name) for name in predictions.image.unique()]
    options = ["--model", str(trained.path), "--device", "cpu", "--csv", str(tmp_path / "table.csv")]
    assert main(["predict", *images, *options]) == 0
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.attribute.tolist() == predictions.attribute.tolist()
    np.testing.assert_allclose(table.probability, predictions.probability, rtol=2e-5)
    assert predictions.groupby("attribute").probability.std().max() > 1e-3, "answers that are all the same prove nothing"


def test_all_go_one_way_from_pixels_to_logits(trained, sample):
    network, meta = load_model(trained / "model.pth")
    assert statistics_of(network) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)) == (tuple(meta["mean"]), tuple(meta["std"]))
    labels = trained.config()["parameters"]["labels"]
    dataset = DataSource(str(sample / "images"), labels).open(32)
    predictions = trained.read_table("predictions.csv")
    rows = dataset.labels.index.get_indexer(predictions.image.unique())
    logits = model_logits(trained / "model.pth", dataset, rows, choose_device("cpu", "fp32"))
    np.testing.assert_allclose(logits.numpy().ravel(), predictions.logit, rtol=1e-4, atol=1e-5)


def test_precision_is_that_of_the_training_unless_another_is_asked_for(model_file, tmp_path):
    network, meta = load_model(model_file)
    save_model(tmp_path / "bf16.pth", network, meta | {"precision": "bf16"})
    assert Predictor.load(tmp_path / "bf16.pth", "cpu").device.dtype == torch.bfloat16
    assert Predictor.load(tmp_path / "bf16.pth", "cpu", "fp32").device.dtype is None
    with pytest.raises(ParameterError, match="device 'nonsense' cannot be used here"):
        Predictor.load(model_file, "nonsense")


def test_attribute_that_was_never_seen_in_training_is_na_and_that_is_said(trained, sample, capsys):
    image = str(sample / "images" / "0000.jpg")
    assert main(["predict", image, "--model", str(trained.path)]) == 0
    assert re.search(r"ghost +NA  never seen in training\n", capsys.readouterr().out)
    table = Predictor.load(trained.path).predict(image)
    assert table[table.decision.isna()].attribute.tolist() == table[table.probability.isna()].attribute.tolist() == ["ghost"]
    predictions = trained.read_table("predictions.csv").set_index("attribute").probability
    assert predictions["ghost"].isna().all()
    assert predictions.drop("ghost").notna().all()
    prediction(table, plt.figure().subplots())
    plt.close()


def test_what_is_known_of_an_attribute_that_was_never_seen_judges_nobody(trained):
    predictions = trained.read_table("predictions.csv")
    predictions["target"] = predictions.target.astype(float).mask(predictions.attribute == "ghost", 1.0)
    run = Run(trained.path.with_name("known"))
    shutil.copytree(trained.path, run.path)
    run.write_table("predictions.csv", predictions)
    predicted = Predictions.read(run)
    assert (predicted.targets[:, predicted.attributes.index("ghost")] == -1).all()
    table = summary(predicted, predicted.bounds())
    assert table.loc["ghost"].filter(regex="AP|F1|ROC").isna().all()
    assert table.AP[MEAN] == pytest.approx(table.AP.drop(["ghost", MEAN]).mean())


def test_thresholds_that_rest_on_few_cells_say_so_on_every_door(model_file, trained, sample, capsys):
    run = put(model_file, "few", chosen_on={"a": 9, "b": 10}, metrics={"mAP": 0.5})
    few = "rest on fewer than 10 known yes, or known no, of the validation images: a (9)"
    Predictor.load(run.path)
    assert f"few: threshold and calibration {few}\n" in capsys.readouterr().out
    rows = trained.read_table("predictions.csv").query("split == 'validation' and target.notna()")
    cells = rows.groupby(["attribute", "target"]).size().unstack(fill_value=0).min(axis=1)
    assert load_model(trained / "model.pth")[1]["chosen_on"] == trained.read_json("metrics.json")["chosen_on"] == dict(cells)
    assert ("rest on fewer" in str(Predictions.read(trained))) == (cells < 10).any()


def test_table_has_a_row_per_image_and_attribute_and_decides_by_threshold(model_file, sample):
    images = sorted((sample / "images").iterdir())[:5]
    table = Predictor.load(model_file).predict(images)
    assert table.columns.tolist() == ["image", "attribute", "probability", "threshold", "decision", "error"]
    assert table.image.tolist() == [str(image) for image in images for _ in "ab"]
    assert table.decision.tolist() == ["yes", "no"] * 5
    assert table.probability.between(0, 1).all()


def test_one_image_gets_the_answer_that_it_gets_among_many(model_file, sample):
    images = sorted((sample / "images").iterdir())[:3]
    predictor = Predictor.load(model_file, precision="fp32")
    alone = predictor.predict(images[1]).probability
    np.testing.assert_allclose(alone, predictor.predict(images).probability[2:4], rtol=1e-4)


def test_broken_image_raises_or_is_a_row_with_its_error(model_file, sample, tmp_path):
    good = sample / "images" / "0000.jpg"
    (tmp_path / "text.jpg").write_text("no image")
    predictor = Predictor.load(model_file)
    with pytest.raises(ImageError, match="not an image"):
        predictor.predict([tmp_path / "text.jpg", good])
    (table,) = predictor.answers([tmp_path / "text.jpg", good, tmp_path / "gone.jpg"])
    assert table.image.tolist() == [str(tmp_path / "text.jpg"), str(good), str(good), str(tmp_path / "gone.jpg")]
    assert ["not an image" in table.error[0], "no such file" in table.error[3]] == [True, True]
    assert table[table.error.notna()].drop(columns=["image", "error"]).isna().all(axis=None)


def test_missing_model_says_how_to_get_one(tmp_path):
    with pytest.raises(RunError, match="no such model; train one"):
        Predictor.load(tmp_path / "none.pth")
    with pytest.raises(RunError, match=r"no finished run in .* yet; train one"):
        Predictor.load()
