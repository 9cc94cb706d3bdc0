"""The nearest images are those whose features point the same way; neither the asked file nor a copy of it is among them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, TINY
from PIL import Image
from torch import nn

from mlkit.cli import main
from mlkit.data.source import DataSource
from mlkit.errors import ParameterError
from mlkit.inference.neighbours import Features, Neighbours
from mlkit.inference.plots import nearest
from mlkit.inference.predictor import Predictor
from mlkit.models.device import choose_device
from mlkit.models.freezing import PartlyFrozen
from mlkit.models.networks import Ensemble, build_model, set_statistics
from mlkit.plots import image_grids
from mlkit.runs import Run

COLOURS = {"red": "f00", "copy": "f00", "orange": "f80", "yellow": "ff0", "too": "ff0", "green": "0f0", "blue": "00f"}
NAMES = ["warm", "pure"]
PLAIN = {name: {"slope": 1.0, "bias": 0.0} for name in NAMES}


def predictor(network, size=16, **meta):
    known = {"attributes": NAMES, "image_size": size, "thresholds": dict.fromkeys(NAMES, 0.5), "calibration": PLAIN}
    return Predictor(network, known | {"backbone": "of the test"} | meta, choose_device("cpu", "fp32", size))


def mean_colour(matrix=None):
    """A network whose features are the mean red, green and blue, or what a matrix makes of them."""
    convolution = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_((torch.eye(3) if matrix is None else matrix)[:, :, None, None])
    network = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    return set_statistics(network, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def folder(tmp_path):
    """Images of one colour each; nobody knows whether orange is pure."""
    for name, colour in COLOURS.items():
        Image.new("RGB", (20, 20), f"#{colour}").save(tmp_path / f"{name}.png")
    rows = [f"{name}.png,{int('f' in code[0])},{'NA' if name == 'orange' else 1}" for name, code in COLOURS.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["image,warm,pure", *rows, ""]))
    return tmp_path


def opened(folder, size=16):
    return DataSource(str(folder), str(folder / "labels.csv")).open(size)


@pytest.fixture
def computed(monkeypatch):
    """Numbers of images whose features were computed."""
    numbers, real = [], PartlyFrozen.activations

    def counted(part, pixels):
        numbers.append(len(pixels))
        return real(part, pixels)

    monkeypatch.setattr(PartlyFrozen, "activations", counted)
    return numbers


def test_nearest_are_those_whose_features_point_the_same_way(folder):
    neighbours = Neighbours(opened(folder), predictor(mean_colour()))
    found = neighbours.nearest(folder / "red.png", 3)
    assert list(found.index) == ["orange.png", "yellow.png", "green.png"], "not itself, its copy, another copy of yellow"
    assert found.to_numpy() == pytest.approx([1 / np.hypot(1, 136 / 255), 0.5**0.5, 0], abs=1e-3)
    assert list(neighbours.nearest(folder / "green.png").index) == ["yellow.png", "orange.png", "red.png", "blue.png"]
    assert neighbours.pixels(found.index)[1, 0, 0].tolist() == [255, 255, 0]
    assert str(neighbours) == "7 training images"


def test_a_picture_from_elsewhere_is_read_as_in_training(folder, tmp_path):
    neighbours = Neighbours(opened(folder), predictor(mean_colour()))
    shutil.copyfile(folder / "red.png", tmp_path / "under another name")
    assert list(neighbours.nearest(tmp_path / "under another name", 1).index) == ["orange.png"]
    Image.new("RGB", (50, 40), "#0080ff").save(tmp_path / "other.png")
    found = neighbours.nearest(tmp_path / "other.png")
    assert list(found.index[:2]) == ["blue.png", "green.png"]
    assert found.iloc[0] == pytest.approx(1 / np.hypot(1, 128 / 255), abs=1e-3)


def test_only_images_of_which_an_attribute_is_known(folder):
    neighbours = Neighbours(opened(folder), predictor(mean_colour()))
    assert list(neighbours.nearest(folder / "red.png", 2, "pure").index) == ["yellow.png", "green.png"]
    assert list(neighbours.nearest(folder / "red.png", 1, "warm").index) == ["orange.png"]
    with pytest.raises(ParameterError, match="unknown attribute 'pur'; did you mean 'pure'"):
        neighbours.nearest(folder / "red.png", attribute="pur")


def test_features_are_kept_by_content_for_the_layers_that_made_them(folder, computed, outputs):
    first = Neighbours(opened(folder), predictor(mean_colour()))
    assert computed == [len(COLOURS)]
    other_head = mean_colour()  # drawn anew
    again = Neighbours(opened(folder), predictor(other_head))
    np.testing.assert_array_equal(again.vectors, first.vectors)
    again.nearest(folder / "copy.png")
    assert computed == [len(COLOURS)]
    Image.new("RGB", (20, 20), "#00f8f0").save(folder / "blue.png")
    Neighbours(opened(folder), predictor(other_head))
    assert computed[1:] == [1]
    turned = Neighbours(opened(folder), predictor(mean_colour(torch.eye(3).roll(1, 0))))
    assert computed[2:] == [len(COLOURS)]
    np.testing.assert_allclose(turned.vectors[0], [0, 1, 0])
    for kept in outputs.rglob("features-*.npz"):
        kept.write_bytes(kept.read_bytes()[:300])
    Neighbours(opened(folder), predictor(other_head))
    assert computed[3:] == [len(COLOURS)]


def test_similarity_of_an_ensemble_is_the_mean_of_its_members(folder):
    networks = [mean_colour(), mean_colour(torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]]))]
    members = [{"backbone": "of the test"}] * 2
    together = predictor(set_statistics(Ensemble(networks, [PLAIN] * 2), (0.0,) * 3, (1.0,) * 3), members=members)
    of_all, *of_each = [Features(one).of(opened(folder)) for one in (together, *map(predictor, networks))]
    np.testing.assert_allclose(of_all @ of_all.T, np.mean([each @ each.T for each in of_each], axis=0), atol=1e-3)
    assert np.linalg.norm(of_all, axis=1) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("backbone", [TINY, "efficientnet_b0", "vit_b_16"])
def test_a_network_of_any_kind_has_features(backbone, folder):
    one = predictor(build_model(backbone, 2, "none", 32), 32, backbone=backbone)
    dataset = opened(folder, 32)
    vectors = Features(one).of(dataset)
    np.testing.assert_allclose(Features(one).of_pixels(dataset.batch(np.array([3]))[0])[0], vectors[3], atol=1e-3)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-2)
    assert one.predict(folder / "red.png").probability.notna().all(), "the model answers as before"


def test_a_run_shows_what_it_was_trained_on(tiny, capsys):
    predictor = Predictor.load(tiny.path, "cpu")
    neighbours = Neighbours.of(tiny, predictor)
    split = tiny.read_table("split.csv").set_index("image").split
    assert list(neighbours.labels.index) == list(split.index[split == "train"])
    part = Neighbours.of(tiny, predictor, most=10)
    assert (len(part.labels), str(part)) == (10, f"10 training images (drawn from {(split == 'train').sum()})")
    assert part.labels.index.equals(Neighbours.of(tiny, predictor, most=10).labels.index)
    asked = Path(DATA["images"], split.index[split == "validation"][0])
    found = neighbours.nearest(asked)
    assert set(split[found.index]) == {"train"}
    assert (found <= 1.001).all()
    assert (found.diff().dropna() <= 0).all()
    grid = nearest(np.zeros((32, 32, 3), np.uint8), predictor.predict(asked), neighbours, found)
    figure = image_grids(grid)
    captions = [ax.get_xlabel() for ax in figure.axes]
    assert captions[0].startswith("the model:")
    assert captions[1].startswith(f"{found.iloc[0]:.2f}: ")


def test_where_the_data_is_another_one_or_gone_it_is_said_and_left_out(tiny, tmp_path, capsys):
    predictor, config = Predictor.load(tiny.path, "cpu"), tiny.config()
    tiny.write_json("config.json", config | {"data": "other"})
    assert Neighbours.of(tiny, predictor) is None
    assert "no nearest training images: labels or images are others than" in capsys.readouterr().out
    tiny.write_json("config.json", config | {"data": "one, other"})
    assert Neighbours.of(tiny, predictor) is None
    assert "no nearest training images: the members of" in capsys.readouterr().out
    gone = config["parameters"] | {"images": str(tmp_path / "gone")}
    tiny.write_json("config.json", config | {"parameters": gone})
    assert Neighbours.of(Run.open("small"), predictor) is None
    assert "no nearest training images: " in capsys.readouterr().out


def test_explain_draws_them_below_the_maps(tiny, tmp_path, capsys):
    image = str(tiny.validation_images()[0])
    heights = {}
    for count in ("0", "2", "9"):
        out = tmp_path / f"{count}.png"
        assert main(["explain", image, "--model", "small", "--nearest", count, "--out", str(out)]) == 0
        heights[count] = Image.open(out).height
    assert heights["0"] < heights["2"] < heights["9"], "a row of maps, one of neighbours, two of neighbours"
    capsys.readouterr()
    assert main(["explain", image, "--model", "small", "--nearest", "-1", "--out", str(tmp_path / "x.png")]) == 2
    assert "--nearest is -1; it must be 0 or more" in capsys.readouterr().err
