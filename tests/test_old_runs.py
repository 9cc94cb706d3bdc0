"""Run folders and model files of mlkit 0.1, stored as that version wrote them, still serve every command."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlkit.cli import main
from mlkit.evaluation.predictions import Predictions
from mlkit.inference.predictor import Predictor
from mlkit.runs import Run, list_runs

HERE = Path(__file__).parent
PHOTOS = HERE / "photos" / "images"


@pytest.fixture
def old(outputs):
    """Outputs with the runs `old0` and `old1`, two trainings on tests/photos that differ in their seed."""
    with zipfile.ZipFile(HERE / "runs_0.1.zip") as file:
        file.extractall(outputs)
    return outputs


def test_old_runs_are_listed_and_read(old, capsys):
    assert main(["runs"]) == 0
    assert "old0" in capsys.readouterr().out
    assert [run.name for run in list_runs()] == ["old0", "old1"]
    predicted = Predictions.read(Run.open("old0"))
    assert predicted.attributes == ["sleeves", "plain", "long", "bag"]
    mean = Run.open("old0").read_json("metrics.json")["mean"]["AP"]
    assert predicted.evaluate().AP.mean() == pytest.approx(mean)


def test_old_model_says_what_it_said(old):
    expected = pd.read_csv(old / "old0" / "expected_prediction.csv")
    images = list(expected.image.unique())
    table = Predictor.load("old0", device="cpu", precision="fp32").predict([PHOTOS / image for image in images])
    np.testing.assert_allclose(table.probability, expected.probability, atol=1e-4)
    assert list(table.threshold) == pytest.approx(list(expected.threshold))


def test_old_runs_are_combined_and_answer(old, capsys):
    assert main(["ensemble", "old0", "old1", "--name", "both"]) == 0
    assert main(["predict", str(PHOTOS / "02.jpg"), "--model", "both"]) == 0
    assert "sleeves" in capsys.readouterr().out
