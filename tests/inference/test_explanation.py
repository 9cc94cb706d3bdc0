import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from torch import nn

from mlkit.cli import main
from mlkit.errors import ParameterError
from mlkit.inference.explanation import heat_maps
from mlkit.inference.plots import reasons
from mlkit.inference.predictor import Predictor
from mlkit.models.device import choose_device
from mlkit.models.modelfile import save_model
from mlkit.models.networks import Ensemble, build_model
from mlkit.plots import image_grids

NAMES = ["red", "green"]
PLAIN = {name: {"slope": 1.0, "bias": 0.0} for name in NAMES}


def predictor(network, size=64):
    meta = {"attributes": NAMES, "image_size": size, "thresholds": dict.fromkeys(NAMES, 0.5), "calibration": PLAIN}
    return Predictor(network, meta | {"backbone": TINY}, choose_device("cpu", "fp32", size))


@pytest.fixture
def image(tmp_path):
    """Black, red in the corner above on the left, green in the one below on the right."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:16, :16, 0] = pixels[-16:, -16:, 1] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def colours(sign=1.0):
    """A network whose first logit is the mean of what is red, its second of what is green."""
    convolution = nn.Conv2d(3, 3, 8, stride=8)
    head = nn.Linear(3, 2)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8) / 64)
        convolution.bias.fill_(2.0)  # of black, after normalisation
        head.weight.copy_(sign * torch.eye(3)[:2])
    return nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def test_an_attribute_is_where_it_is(image):
    pixels, maps = heat_maps(predictor(colours()), image)
    assert (pixels.shape, maps.shape) == ((64, 64, 3), (2, 64, 64))
    assert np.unravel_index(maps[0].argmax(), (64, 64)) < (16, 16)
    assert min(np.unravel_index(maps[1].argmax(), (64, 64))) >= 48
    assert maps.max(axis=(1, 2)) == pytest.approx([1, 1], abs=0.05)
    _, alone = heat_maps(predictor(colours()), image, ["green"])
    np.testing.assert_array_equal(alone[0], maps[1])


def test_what_speaks_against_an_attribute_is_no_reason_for_it(image):
    assert not heat_maps(predictor(colours(sign=-1)), image)[1].any()


def test_an_ensemble_has_the_mean_of_its_members_maps(image):
    together = Ensemble([colours(), colours(-1)], [PLAIN, PLAIN])
    np.testing.assert_allclose(heat_maps(predictor(together), image)[1], heat_maps(predictor(colours()), image)[1] / 2)


@pytest.mark.parametrize(("backbone", "size"), [("resnet18", 64), ("resnet18", 32), ("vit_b_16", 64), (TINY, 64)])
def test_a_network_of_any_kind_has_maps(backbone, size, image):
    torch.manual_seed(0)
    network = build_model(backbone, 2, "none", size).eval()
    for parameter in network.parameters():
        if not parameter.any():  # vit begins with a head of zeros, in which no place has a say
            nn.init.normal_(parameter)
    _, maps = heat_maps(predictor(network, size), image)
    assert maps.shape == (2, size, size)
    assert np.isfinite(maps).all()
    assert all(one.std() > 0 or not one.any() for one in maps)


def test_what_cannot_be_explained_is_said(image):
    with pytest.raises(ParameterError, match="unknown attribute 'gren'; did you mean 'green'"):
        heat_maps(predictor(colours()), image, ["gren"])
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2))
    with pytest.raises(ParameterError, match="no feature map with more than one place; take images of a larger image_size"):
        heat_maps(predictor(flat), image)


def test_command_draws_a_figure_with_a_panel_an_attribute(image, tmp_path, capsys):
    one = predictor(build_model(TINY, 2, "none", 64))
    save_model(tmp_path / "model.pth", one.model, one.meta)
    assert main(["explain", str(image), "--model", str(tmp_path / "model.pth"), "--out", str(tmp_path / "why.png")]) == 0
    printed = capsys.readouterr().out
    assert "why.png" in printed
    assert "no nearest training images: a model file does not say which they are; name its run" in printed
    assert Image.open(tmp_path / "why.png").width > 300
    figure = image_grids(reasons(*heat_maps(one, image), one.predict(image)))
    assert [ax.get_xlabel().split(":")[0] for ax in figure.axes if ax.images] == NAMES
