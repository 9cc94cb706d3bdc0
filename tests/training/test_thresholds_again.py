import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA

from mlkit.cli import main
from mlkit.evaluation.predictions import Predictions
from mlkit.evaluation.thresholds import choose_thresholds
from mlkit.inference.predictor import Predictor
from mlkit.models.modelfile import load_model
from mlkit.notebooks import CHAIN
from mlkit.notebooks.manifest import Manifest
from mlkit.training import finish


def choose(policy):
    return main(["thresholds", "small", "--policy", policy])


def test_thresholds_are_chosen_again_by_another_policy_and_back_and_all_else_stays(tiny, capsys):
    predictions, (network, _) = (tiny / "predictions.csv").read_bytes(), load_model(tiny / "model.pth")
    metrics = tiny.read_json("metrics.json")
    manifest = Manifest(tiny)
    for notebook in CHAIN:
        manifest.set(notebook, "digest", done=True)
    tiny.write_json("export.json", {})
    assert choose("recall:0.9") == 0
    assert "what was exported has the thresholds of before; again: mlkit export small" in (
        printed := capsys.readouterr().out
    )
    assert re.search(r"on the \d+ test images of .*small:\n +threshold  precision  recall +F1\n", printed)
    validated = Predictions.read(tiny, "validation")
    expected = choose_thresholds(validated.probabilities, validated.targets, validated.attributes, "recall:0.9").threshold
    again, meta = load_model(tiny / "model.pth")
    assert meta["thresholds"] == pytest.approx(expected.to_dict(), abs=1e-6)
    assert tiny.read_json("metrics.json")["policy"] == "recall:0.9"
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), again.parameters(), strict=True))
    assert (tiny / "predictions.csv").read_bytes() == predictions
    assert list(json.loads((tiny / "manifest.json").read_text(encoding="utf-8"))["notebooks"]) == list(CHAIN[:2])
    assert choose("f1") == 0
    assert tiny.read_json("metrics.json") == metrics


def test_a_guarantee_is_in_model_and_run_and_decides(tiny, capsys, monkeypatch):
    monkeypatch.setattr(finish, "not_at_random", lambda dataset: [dataset.attributes[0]])
    assert choose("guarantee:0.6") == 0
    printed = capsys.readouterr().out
    assert "of what is decided, at least 60% is right, with 90% confidence" in printed
    assert f"not missing at random, so nothing is promised of: {Predictions.read(tiny).attributes[0]}" in printed
    predicted, predictor = Predictions.read(tiny), Predictor.load(tiny.path)
    assert predictor.meta["guarantee"] == tiny.read_json("metrics.json")["guarantee"] == predicted.guarantee.facts()
    images = [str(Path(DATA["images"], image)) for image in predicted.images]
    decisions = predictor.predict(images).decision.to_numpy().reshape(len(images), -1)
    assert set(decisions[:, 0]) == {"unsure"}
    assert np.isin(decisions, ["yes", "no"]).mean(axis=0) == pytest.approx(predicted.decided().decided, abs=0.06)
    assert np.isin(decisions, ["yes", "no"]).any()
    assert choose("f1") == 0
    assert "guarantee" not in load_model(tiny / "model.pth")[1]
    assert Predictions.read(tiny).decided().empty


def test_a_guarantee_needs_the_data_that_the_run_knows(tiny, capsys):
    config = tiny.config()
    tiny.write_json("config.json", config | {"data": "other"})
    assert choose("guarantee:0.9") == 2
    assert "labels or images are others than" in capsys.readouterr().err
    assert choose("precision:0.9") == 0


@pytest.mark.parametrize(
    ("policy", "message"),
    [("guarantee:1", "what is promised must be from 0.5 to below 1"), ("garantee:0.9", "did you mean 'guarantee:0.95'?")],
)
def test_policies_that_cannot_be_followed_change_nothing(tiny, policy, message, capsys):
    before = (tiny / "model.pth").read_bytes()
    assert choose(policy) == 2
    assert message in capsys.readouterr().err
    assert (tiny / "model.pth").read_bytes() == before
