"""A model file from a stranger gives a model or one line, at once: nothing in it is executed, nothing huge is made of it."""

import copy
import pickle
import zipfile

import pytest
import torch
from tinynet import TINYNET

from mlkit.errors import MlkitError, WeightsError
from mlkit.models.modelfile import load_model, save_model
from mlkit.models.networks import build_model
from mlkit.models.torchfile import load_torch, save_torch

NAMES = ["sea", "sky"]


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """What a good model file holds."""
    meta = {
        "attributes": NAMES,
        "image_size": 32,
        "backbone": TINYNET,
        "calibration": {name: {"slope": 1.0, "bias": 0.0} for name in NAMES},
        "thresholds": dict.fromkeys(NAMES, 0.5),
        "metrics": {"mAP": float("nan")},
        "never_seen": [],
    }
    path = tmp_path_factory.mktemp("model") / "model.pth"
    save_model(path, build_model(TINYNET, 2, "none", 32), meta)
    return load_torch(path)


def test_good_file_is_loaded(content, tmp_path):
    save_torch(tmp_path / "model.pth", content)
    network, meta = load_model(tmp_path / "model.pth")
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    assert meta["attributes"] == NAMES


DAG: list = ["a"]
for _ in range(40):  # a small file, and 2^40 values
    DAG = [DAG, DAG]
NESTED: dict = {}
for _ in range(60):  # 2^60 values in a few bytes
    NESTED = {"a": NESTED, "b": NESTED}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("attributes", [], "attributes must be 1 to 100,000 names"),
        ("attributes", ["a"] * 2, "attributes must be different texts"),
        ("attributes", 10**9, "attributes must be 1 to 100,000 names"),
        ("attributes", ["a", "b", "c"], "calibration must be a row an attribute"),
        ("image_size", 10**6, "image_size must be 1 to 4096 pixels"),
        ("image_size", -1, "image_size must be 1 to 4096 pixels"),
        ("image_size", True, "image_size must be 1 to 4096 pixels"),
        ("image_size", "32", "image_size must be 1 to 4096 pixels"),
        ("backbone", "os.system", "no classification network 'os.system'"),
        ("backbone", "resnet18", "state_dict lacks"),
        ("backbone", ["resnet18"], "backbone must be the name of a network"),
        ("thresholds", {"sea": 0.5}, "thresholds must be a number an attribute"),
        ("thresholds", {"sea": 0.5, "sky": float("nan")}, "thresholds must be finite numbers"),
        ("thresholds", None, "thresholds must be a number an attribute"),
        ("calibration", {"sea": {}, "sky": {}}, "calibration must be slopes and biases"),
        ("calibration", {key: {"slope": float("inf"), "bias": 0.0} for key in NAMES}, "calibration must be finite numbers"),
        ("metrics", NESTED, "meta must be at most 3,000,000 values"),
        ("mean", [0.5], "mean must be three numbers"),
        ("std", [0.0, 1.0, 1.0], "std must be above 0, as those of pixels are"),
        ("members", [], "members must be 1 to 1000 networks"),
        ("members", [{}] * 2000, "members must be 1 to 1000 networks"),
        ("mean", [1e308] * 3, "mean must be means of pixels"),
        ("trained", 5, "trained must be a text"),
        ("epoch", DAG, "meta must be at most 3,000,000 values"),
        ("thresholds", {"sea": "x", "sky": 0.5}, "thresholds must be finite numbers"),
        ("thresholds", {"sea": {"z": 1}, "sky": 0.5}, "thresholds must be finite numbers"),
        ("calibration", {key: {"slope": "x", "bias": 0.0} for key in NAMES}, "calibration must be finite numbers"),
        ("calibration", {key: {"slope": {"a": 1}, "bias": 0.0} for key in NAMES}, "calibration must be finite numbers"),
        ("chosen_on", {"moon": 3}, "chosen_on must be a number an attribute"),
        ("never_seen", ["moon"], "never_seen must be attributes"),
        ("never_seen", [["sea"]], "unhashable"),
    ],
)
def test_what_a_file_says_of_itself_is_checked_before_anything_is_built(content, tmp_path, field, value, message):
    changed = copy.copy(content) | {"meta": content["meta"] | {field: value}}
    save_torch(tmp_path / "model.pth", changed)
    with pytest.raises(WeightsError, match=f"model.pth is no model that mlkit can have written: .*{message}"):
        load_model(tmp_path / "model.pth")


def test_tensors_must_be_those_of_the_network(content, tmp_path):
    state = content["state_dict"]
    head = next(name for name in state if name.endswith("fc.weight"))
    huge = torch.zeros(1, 1).expand(10**5, 10**6)  # 400 GB by its shape, 4 bytes in the file
    for name, tensor, message in [
        (head, huge, "the network has"),
        (head, "text", "state_dict must be tensors"),
        (head, torch.full_like(state[head], float("nan")), "not finite|NaN|finite"),
        ("another", state[head], "state_dict lacks another, or has it too much"),
    ]:
        save_torch(tmp_path / "model.pth", content | {"state_dict": {**state, name: tensor}})
        with pytest.raises(WeightsError, match=message):
            load_model(tmp_path / "model.pth")


class Evil:
    """What pickle would execute."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def test_code_in_a_file_is_not_executed(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    torch.save(content | {"meta": Evil()}, tmp_path / "torch.pth")
    for name in ("plain.pth", "torch.pth"):
        with pytest.raises(WeightsError, match="is not a file of plain weights"):
            load_model(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_packed_file_is_refused_before_it_is_unpacked(content, tmp_path):
    save_torch(tmp_path / "model.pth", content)
    with zipfile.ZipFile(tmp_path / "model.pth") as archive, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for number, entry in enumerate(archive.infolist()):
            bomb.writestr(entry.filename, b"" if number else bytes(1 << 24), zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"bomb.pth would unpack to [\d,]+ bytes, more than the file has"):
        load_model(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    "value", [None, 3, [], {"format": 99, "meta": {}, "state_dict": {}}, {"format": 1, "meta": 3, "state_dict": 4}]
)
def test_other_torch_files_are_named(tmp_path, value):
    torch.save(value, tmp_path / "model.pth")
    with pytest.raises(MlkitError, match=r"model.pth (holds no mlkit model|has format 99, this mlkit reads 1|is no model)"):
        load_model(tmp_path / "model.pth")
