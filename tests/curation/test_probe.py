"""The probe learns from known training cells alone, and out-of-fold predictions have not seen their image or its copy."""

import re
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mlkit.curation.probe import features, linear_head, out_of_fold, probe
from mlkit.data.labelfile import write_labels
from mlkit.data.labels import from_codes, to_codes
from mlkit.data.source import DataSource
from mlkit.data.split import fold_images
from mlkit.evaluation.metrics import evaluate
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.loop import train


def planted(count=400, seed=0, unknown=0.2):
    """Features, and labels of two attributes that depend on them linearly."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((count, 20)).astype(np.float32)
    codes = np.stack([inputs[:, 0] > 0, inputs[:, 1] + inputs[:, 2] > 1], axis=1).astype(int)
    codes[rng.random(codes.shape) < unknown] = -1
    return inputs, from_codes(codes, map(str, range(count)), ["a", "b"])


@pytest.fixture(scope="module")
def dataset(sample, tmp_path_factory):
    return DataSource(str(sample / "images"), str(sample / "labels.csv")).open(32)


def test_features_are_those_before_the_head_and_depend_on_the_seed_alone(dataset):
    state = torch.get_rng_state()
    values = features(dataset, weights="none")
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's randomness is touched
    assert (values.dtype, values.shape) == (np.float32, (60, 512))
    np.testing.assert_allclose(values, features(dataset, weights="none"), rtol=1e-5)
    assert not np.allclose(values, features(dataset, weights="none", seed=1), rtol=1e-3)
    np.testing.assert_allclose(values[58], values[59], rtol=1e-4)  # a copy has the same
    assert values.std(axis=0).mean() > 0.01 * np.abs(values).mean()


def test_unknown_cells_do_not_count():
    inputs, labels = planted()
    training = np.arange(400) < 300
    probabilities = probe(inputs, labels, training)
    for i, column in enumerate(to_codes(labels).T):
        known = column >= 0  # the same with unknown cells physically removed
        alone = probe(inputs[known], labels[known].iloc[:, [i]], training[known])
        np.testing.assert_allclose(probabilities[known, i], alone[:, 0], rtol=1e-4)
        assert roc_auc_score(column[known & ~training], probabilities[known & ~training, i]) > 0.9


def test_labels_outside_of_training_do_not_count():
    inputs, labels = planted()
    training = np.arange(400) < 300
    codes = to_codes(labels).copy()
    codes[~training] = np.random.default_rng(1).integers(-1, 2, (100, 2))
    other = from_codes(codes, labels.index, labels.columns)
    np.testing.assert_array_equal(probe(inputs, labels, training), probe(inputs, other, training))
    np.testing.assert_allclose(probe(inputs, labels, training)[~training], probe(inputs, labels, training, rows=~training))


def test_attributes_with_one_class_or_none_get_a_constant():
    inputs, labels = planted()
    labels["yes"] = from_codes(np.ones((400, 1)), labels.index, ["x"])["x"]
    labels["unknown"] = from_codes(np.full((400, 1), -1), labels.index, ["x"])["x"]
    probabilities = probe(inputs, labels, np.arange(400) < 300)
    assert (probabilities[:, 2] == 1).all()
    assert (probabilities[:, 3] == 0.5).all()


def test_out_of_fold_prediction_is_that_of_a_probe_without_the_fold():
    inputs, labels = planted()
    groups = pd.Series((np.arange(400) // 2).astype(str), index=labels.index)
    probabilities = out_of_fold(inputs, labels, groups, folds=4, seed=2)
    fold = fold_images(labels, 4, 2, groups).to_numpy()
    for number in range(4):
        expected = probe(inputs, labels, fold != number)[fold == number]
        np.testing.assert_allclose(probabilities[fold == number], expected, rtol=1e-6)
    assert probabilities.index.equals(labels.index)
    assert list(probabilities) == ["a", "b"]


def test_fewer_groups_than_folds_are_a_fold_each():
    inputs, labels = planted(count=4)
    assert np.isfinite(out_of_fold(inputs, labels)).all(axis=None)


def test_out_of_fold_predictions_of_noise_are_worth_nothing():
    """With each image twice, only the groups keep a probe from knowing the answers."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((100, 150)).repeat(2, axis=0)
    labels = from_codes(rng.integers(0, 2, (100, 1)).repeat(2, axis=0), map(str, range(200)), ["a"])
    groups = pd.Series((np.arange(200) // 2).astype(str), index=labels.index)
    truth = to_codes(labels)[:, 0]
    assert roc_auc_score(truth, out_of_fold(inputs, labels)["a"]) > 0.85
    assert roc_auc_score(truth, out_of_fold(inputs, labels, groups)["a"]) < 0.65


def test_linear_head_of_a_run_learns_from_its_training_images_and_is_judged_like_it(sample, tmp_path, capsys):
    config = TrainConfig(image_size=32, weights="none", epochs=1, validation_fraction=0.2, test_fraction=0.3)
    labels = tmp_path / "labels.csv"
    labels.write_text((sample / "labels.csv").read_text(encoding="utf-8"))
    data = {"images": str(sample / "images"), "labels": str(labels), "strict": False}
    dataset = DataSource(**data).open(32)
    run = Run.create("a", asdict(config) | data, dataset.fingerprint)
    figures = train(dataset, config, run)
    table = linear_head(run)
    assert table.positives.tolist() == figures.positives.tolist()
    split = run.read_table("split.csv").set_index("image").split.reindex(dataset.labels.index)
    inputs = features(dataset, "resnet18", "none", seed=config.seed)
    again = probe(inputs, dataset.labels, (split == "train").to_numpy(), rows=(split == "test").to_numpy())
    targets = dataset.targets[(split == "test").to_numpy()]
    np.testing.assert_allclose(evaluate(again, targets, dataset.attributes, np.full(4, 0.5)).AP, table.AP, atol=1e-6)
    kept = run.read_table("linear_head.csv")
    pd.testing.assert_frame_equal(linear_head(run), table)
    run.write_table("linear_head.csv", kept.assign(AP=0.0, config="another training in this folder"))
    pd.testing.assert_frame_equal(linear_head(run), table)
    capsys.readouterr()
    write_labels(from_codes(1 - np.abs(to_codes(dataset.labels)), dataset.labels.index, dataset.attributes), labels)
    assert linear_head(run).AP.isna().all(), "neither the old baseline nor one of labels that the run does not know"
    assert "no linear head: labels or images are others than" in capsys.readouterr().out
    labels.unlink()
    assert linear_head(run).AP.isna().all()
    assert re.search(r"no linear head: .*labels.csv", capsys.readouterr().out)
