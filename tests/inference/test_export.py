"""A model through every door: PyTorch, and what is exported for runtimes without mlkit."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, TINY, small_run
from PIL import Image
from torch import nn

from mlkit.cli import main
from mlkit.data.images import load_image
from mlkit.evaluation.guarantee import Guarantee
from mlkit.inference import export, exported, quantised
from mlkit.inference.graph import Graph, resize
from mlkit.inference.predictor import Predictor
from mlkit.models.modelfile import load_model, save_model
from mlkit.models.networks import Ensemble, build_model, normalise
from mlkit.runs import Run

README = Path(__file__).parents[2] / "notebooks" / "README.md"
NAMES = ['"quoted"', "<b> & ü", "d\\n", "never seen"]
GUARANTEE = Guarantee(0.95, yes_from={NAMES[0]: 0.9}).facts()


def needs(*packages):
    """Skip where one is not installed; none is imported, as mlkit keeps OpenVINO from reporting before it imports that."""
    if lacking := [package for package in packages if importlib.util.find_spec(package) is None]:
        pytest.skip(f"needs {', '.join(lacking)}")


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """A finished run with an ensemble, odd names, a guarantee, an attribute that was never seen."""
    run = Run(shutil.copytree(small_run(), tmp_path_factory.mktemp("runs") / "both"))
    meta, network = load_model(run / "model.pth")[1], build_model(TINY, 4, "none", 32).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of real images at once: else all get the same answer
    with torch.no_grad():
        photos = sorted(Path(DATA["images"]).glob("*.jpg"))[:16]
        network(normalise(torch.tensor(np.stack([load_image(photo, 32) for photo in photos]))))
    rows = {name: {"slope": 0.2, "bias": 0.1 * i} for i, name in enumerate(NAMES)}
    meta |= {"attributes": NAMES, "never_seen": NAMES[3:], "calibration": rows, "guarantee": GUARANTEE}
    meta |= {"thresholds": dict.fromkeys(NAMES, 0.5), "chosen_on": dict.fromkeys(NAMES, 20), "precision": "bf16"}
    meta["members"] = [{"run": "one", "backbone": TINY, "calibration": rows}]
    save_model(run / "model.pth", Ensemble([network.eval()], [rows]), meta)
    return run


@pytest.fixture
def pictures(tmp_path):
    """Of several sizes, from smaller than the network's input to many times as large."""
    rng, files = np.random.default_rng(0), []
    for i, (width, height) in enumerate([(301, 640), (20, 30), (32, 32), (47, 200), (300, 150)]):
        files.append(tmp_path / f"{i}.{'jpg' if i else 'png'}")
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
    return files


@pytest.mark.parametrize("form", ["onnx", "torch-export", "openvino"])
def test_every_door_gives_the_same_answers_and_says_what_the_model_is(ensemble, pictures, form, capsys):
    needs("onnx", "onnxscript", "onnxruntime", *(["openvino"] if form == "openvino" else []))
    assert main(["export", str(ensemble.path), "--format", form]) == 0
    file = ensemble / f"model{exported.SUFFIXES[form]}"
    assert re.search(r"largest difference from PyTorch on (\d+) of \1 validation images: \d", capsys.readouterr().out)
    facts = json.loads((ensemble / "export.json").read_text(encoding="utf-8"))[file.name]
    assert facts["largest_difference"] <= 1e-4
    assert file.name in ensemble.record()
    assert not list(ensemble.path.glob(".export-*"))
    about = exported.read_about(file)
    assert [about[key] for key in ("attributes", "never_seen", "guarantee")] == [NAMES, NAMES[3:], GUARANTEE]

    door = exported.open_exported(file)
    expected = Predictor.load(ensemble.path, "cpu", "fp32").predict(pictures).probability.to_numpy().reshape(-1, 4)
    assert expected[:, :3].std(axis=0).min() > 1e-4, "answers that are all the same prove nothing"
    assert np.isnan(expected[:, 3]).all()
    small = np.stack([load_image(picture, 32) for picture in pictures])
    np.testing.assert_allclose(door(small), expected, atol=1e-4)
    network, meta = load_model(ensemble / "model.pth")
    for picture in pictures:
        whole = load_image(picture)[None]
        with torch.inference_mode():
            mine = Graph(network, meta)(torch.tensor(whole))
        np.testing.assert_allclose(door(np.concatenate([whole, whole])), np.concatenate([mine, mine]), atol=1e-3)


def test_the_graph_resizes_as_training_does(pictures):
    for picture in pictures:
        whole, expected = load_image(picture), load_image(picture, 32)
        found = resize(torch.tensor(whole)[None], 32)[0].numpy()
        assert np.abs(found - expected).mean() < (1.0 if picture.suffix == ".jpg" else 4.0), picture
    assert np.array_equal(resize(torch.tensor(expected)[None], 32)[0].numpy(), expected)
    assert np.abs(resize(torch.tensor(load_image(pictures[3]))[None], 100)[0].numpy()).max() <= 255


@pytest.fixture
def ask(tmp_path):
    """What the lines of the README say of a photo by an exported file: name, probability, decision a line."""
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len([line for line in block.splitlines() if line]) <= 10
    (tmp_path / "ask.py").write_text(block + "assert not {'mlkit', 'torch'} & set(sys.modules)\n", encoding="utf-8")

    def ask(file, photo):
        arguments = [sys.executable, str(tmp_path / "ask.py"), str(file), str(photo)]
        environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
        answer = subprocess.run(arguments, check=True, capture_output=True, encoding="utf-8", cwd=tmp_path, env=environment)
        return [line.rsplit(maxsplit=2) for line in answer.stdout.splitlines()]

    return ask


def test_ten_lines_of_the_readme_classify_a_photo_without_mlkit_and_torch(finished, ask):
    needs("onnx", "onnxscript", "onnxruntime")
    assert main(["export", "small"]) == 0
    photo = sorted(Path(DATA["images"]).glob("*.jpg"))[0]
    table = Predictor.load("small", "cpu", "fp32").predict(photo)
    words = ask(finished / "model.onnx", photo)
    assert [name for name, _, _ in words] == table.attribute.tolist()
    np.testing.assert_allclose([float(p) for _, p, _ in words], table.probability, atol=0.03)
    assert {word for _, _, word in words} <= {"yes", "no"}


def test_ten_lines_of_the_readme_are_unsure_where_a_guarantee_is(ensemble, pictures, ask):
    needs("onnx", "onnxscript", "onnxruntime")
    run = Run(shutil.copytree(ensemble.path, pictures[2].parent / "sure"))
    network, meta = load_model(run / "model.pth")
    sure = dict(zip(NAMES, Predictor.load(run.path, "cpu", "fp32").predict(pictures[2]).probability.tolist(), strict=True))
    yes_from, no_to = {NAMES[0]: sure[NAMES[0]] - 0.01}, {NAMES[1]: sure[NAMES[1]] + 0.01, NAMES[2]: sure[NAMES[2]] - 0.01}
    save_model(run / "model.pth", network, meta | {"guarantee": Guarantee(0.95, yes_from=yes_from, no_to=no_to).facts()})
    assert main(["export", str(run.path)]) == 0
    assert [word for _, _, word in ask(run / "model.onnx", pictures[2])] == ["yes", "no", "unsure", "unsure"]
    table = Predictor.load(run.path, "cpu", "fp32").predict(pictures[2])
    assert table.decision.fillna("unsure").tolist() == ["yes", "no", "unsure", "unsure"]


def test_answers_that_are_not_those_of_pytorch_are_refused_and_nothing_is_kept(finished, monkeypatch, capsys):
    monkeypatch.setattr(export, "write_exported", lambda graph, about, path: torch.save(graph, path))
    monkeypatch.setattr(export, "open_exported", lambda path: lambda pixels: np.full((len(pixels), 4), 2.0))
    before = sorted(path.name for path in finished.path.iterdir())
    assert main(["export", "small", "--format", "torch-export"]) == 1
    error = capsys.readouterr().err
    assert re.search(r"small/model.pt2: probabilities differ from PyTorch's by up to [\d.]+ on \d+ validation images", error)
    assert sorted(path.name for path in finished.path.iterdir()) == before
    monkeypatch.setattr(export, "open_exported", lambda path: lambda pixels: np.full((len(pixels), 4), np.nan))
    assert main(["export", "small", "--format", "torch-export"]) == 1, "NaN is no agreement"


def test_int8_is_smaller_and_kept_only_if_it_costs_little(finished, monkeypatch, capsys):
    needs("onnx", "onnxscript", "openvino", "nncf")
    monkeypatch.setattr(quantised, "_SHOWN", 8)
    assert main(["export", "small", "--int8", "--most", "-1"]) == 1
    assert re.search(
        r"INT8 costs -?\d\.\d+ of mAP \[.*\] on \d+ test images, more than --most -1.0", capsys.readouterr().err
    )
    assert (finished / "model.xml").is_file()
    assert not (finished / "model-int8.xml").exists()
    file, facts = quantised.quantise(finished, most=1.0)
    assert file == finished / "model-int8.xml"
    assert facts == finished.read_json("export.json")["model-int8.xml"]
    assert facts["size_ratio"] < 1
    assert facts["mAP_low"] <= facts["mAP_difference"] <= facts["mAP_high"]
    assert exported.read_about(file) == exported.read_about(finished / "model.xml")
    assert sys.modules["openvino_telemetry"] is None, "nothing is sent"


def test_what_cannot_be_exported_is_said_in_a_line(finished, monkeypatch, capsys):
    assert main(["export", "small", "--int8", "--format", "onnx"]) == 2
    assert capsys.readouterr().err == "mlkit: --int8 is for OpenVINO; leave out --format onnx\n"
    real = importlib.util.find_spec
    lacking = ("onnxruntime", "onnxscript", "nncf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in lacking else object())
    assert main(["export", "small"]) == 2
    said = 'mlkit: onnxscript and onnxruntime are not installed; run: pip install -e ".[export]"\n'
    assert capsys.readouterr().err == said
    assert main(["export", "small", "--int8"]) == 2
    assert capsys.readouterr().err == 'mlkit: NNCF is not installed; run: pip install -e ".[int8]"\n'
    monkeypatch.setattr(importlib.util, "find_spec", real)
    (finished / "metrics.json").unlink()
    assert main(["export", "small", "--format", "torch-export"]) == 2
    assert "small is not finished; go on with its training" in capsys.readouterr().err
