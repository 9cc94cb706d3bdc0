import json

import numpy as np
import pandas as pd
import pytest
import torch

from mlkit import train as train_module
from mlkit.dataset import MultiLabelDataset, split_images
from mlkit.errors import ParameterError
from mlkit.labelfile import read_labels
from mlkit.labels import pos_weight, to_codes
from mlkit.losses import masked_bce
from mlkit.metrics import evaluate
from mlkit.model import load_model
from mlkit.predict import Predictor
from mlkit.runs import Run
from mlkit.train import TrainConfig, run_parameters, train

CONFIG = TrainConfig(image_size=32, weights="none", epochs=3, batch_size=16, precision="fp32")


@pytest.fixture
def dataset(sample):
    return MultiLabelDataset.from_files(str(sample / "images"), str(sample / "labels.csv"), 32)


def start(name, config, dataset, sample, **options):
    settings = run_parameters(config, images=str(sample / "images"), labels=str(sample / "labels.csv"))
    run = Run.create(name, settings, dataset.fingerprint, **options)
    return run, train(dataset, config, run)


def test_run_folder_holds_what_the_contract_names(dataset, sample):
    run, table = start("a", CONFIG, dataset, sample)
    history, epochs = run.read_table("history.csv"), run.read_table("epochs.csv")
    assert list(history.columns) == ["iteration", "epoch", "loss", "lr", "img_per_s"]
    assert history.iteration.tolist() == list(range(1, len(history) + 1))
    assert epochs.epoch.tolist() == [1, 2, 3]
    assert epochs.iteration.tolist() == [len(history) // 3 * e for e in (1, 2, 3)]
    assert np.isfinite(history.loss).all()
    metrics = run.read_json("metrics.json")
    assert metrics["attributes"].keys() == set(table.index)
    assert run.config()["parameters"]["epochs"] == 3
    assert not (run / "last.pt").exists()
    assert run.finished


def test_kept_model_is_that_of_the_best_epoch_and_predictions_are_its_own(dataset, sample):
    run, table = start("a", CONFIG, dataset, sample)
    epochs = run.read_table("epochs.csv").set_index("epoch")
    _, meta = load_model(run / "model.pth")
    assert epochs.mAP[meta["epoch"]] == epochs.mAP.max()
    assert meta["attributes"] == dataset.attributes
    # from the files alone: predictions.csv judged by hand gives the same table
    predictions = run.read_table("predictions.csv")
    wide = predictions.pivot(index="image", columns="attribute", values="probability")[dataset.attributes]
    targets = to_codes(read_labels(sample / "labels.csv").loc[wide.index])
    again = evaluate(wide.to_numpy(), targets, dataset.attributes, np.ones(4))
    np.testing.assert_allclose(again.AP, table.AP)
    # and the predictor, which reads the image file, agrees with the training, which read the cache
    first = predictions[predictions.image == predictions.image[0]].set_index("attribute").probability
    asked = Predictor.load("a", precision="fp32").predict(sample / "images" / predictions.image[0])
    np.testing.assert_allclose(asked.set_index("attribute").probability[first.index], first, atol=1e-5)


def test_first_loss_is_the_masked_loss_with_weights_of_the_training_cells(dataset, sample):
    from mlkit.dataset import batches
    from mlkit.model import build_model, normalise

    run, _ = start("a", CONFIG, dataset, sample)
    split = split_images(dataset.labels, CONFIG.validation_fraction, CONFIG.seed, dataset.digests)
    training = np.flatnonzero(split == "train")
    pixels, targets = dataset.batch(next(batches(training, 16, CONFIG.seed, epoch=1)))
    torch.manual_seed(CONFIG.seed)
    logits = build_model("resnet18", 4, "none", 32).train()(normalise(pixels))
    weight = torch.tensor(pos_weight(dataset.labels.iloc[training]).to_numpy(), dtype=torch.float32)
    assert run.read_table("history.csv").loss[0] == pytest.approx(masked_bce(logits, targets, weight).item(), rel=1e-4)


def test_same_seed_gives_the_same_history_and_another_seed_another(dataset, sample):
    losses = [
        start(name, TrainConfig(**{**vars(CONFIG), "epochs": 1, "seed": seed}), dataset, sample)[0]
        .read_table("history.csv")
        .loss
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert losses[0].equals(losses[1])
    assert not losses[0].equals(losses[2])


def test_interrupted_training_goes_on_and_ends_as_if_uninterrupted(dataset, sample, monkeypatch):
    config = TrainConfig(**{**vars(CONFIG), "schedule": "cosine"})
    whole, _ = start("whole", config, dataset, sample)
    monkeypatch.setattr(train_module, "_CHECKPOINT_SECONDS", 0.0)
    evaluations = []

    def interrupt(*arguments, **options):
        evaluations.append(1)
        if len(evaluations) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(train_module, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start("cut", config, dataset, sample)
    monkeypatch.setattr(train_module, "evaluate", evaluate)
    cut = Run.open("cut")
    assert not cut.finished
    assert cut.read_table("epochs.csv").epoch.tolist() == [1, 2]
    start("cut", config, dataset, sample)
    columns = ["iteration", "epoch", "loss", "lr"]
    pd.testing.assert_frame_equal(cut.read_table("history.csv")[columns], whole.read_table("history.csv")[columns])
    pd.testing.assert_frame_equal(cut.read_table("epochs.csv"), whole.read_table("epochs.csv"))


def test_unknown_labels_have_no_influence_on_training(dataset, sample):
    """Cells hidden as NA and cells that never existed give the same training."""
    run, _ = start("a", TrainConfig(**{**vars(CONFIG), "epochs": 1}), dataset, sample)
    dataset.targets[dataset.targets < 0] = -7  # any negative value is unknown
    other, _ = start("b", TrainConfig(**{**vars(CONFIG), "epochs": 1}), dataset, sample)
    assert run.read_table("history.csv").loss.equals(other.read_table("history.csv").loss)


def test_cosine_schedule_falls_from_the_learning_rate_towards_zero(dataset, sample):
    run, _ = start("a", TrainConfig(**{**vars(CONFIG), "schedule": "cosine"}), dataset, sample)
    lr = run.read_table("history.csv").lr
    assert lr[0] == CONFIG.learning_rate
    assert lr.is_monotonic_decreasing
    assert 0 < lr.iloc[-1] < 0.1 * CONFIG.learning_rate


def test_attribute_without_positives_trains_and_is_reported_as_undefined(dataset, sample):
    dataset.labels["bag"] = dataset.labels["bag"].where(dataset.labels["bag"] != 1, 0)
    dataset.targets[:, 3].clamp_(max=0)
    run, table = start("a", TrainConfig(**{**vars(CONFIG), "epochs": 1}), dataset, sample)
    assert np.isnan(table.AP["bag"])
    assert json.loads((run / "metrics.json").read_text())["attributes"]["bag"]["AP"] is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"schedule": "cosin"}, "one of constant, cosine"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ParameterError, match=message):
        TrainConfig(**setting)
