"""Weights of ImageNet as they are published, and files as other trainers leave them, fill all of a network but its head."""

import re
import zlib
from argparse import Namespace
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision import models

from mlkit.errors import ParameterError, WeightsError
from mlkit.models.networks import IMAGENET_MEAN, IMAGENET_STD, build_model, head_name
from mlkit.models.pretrained import _outline, published_statistics

FAMILIES = {  # the smallest of each -> side of the images
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vgg11_bn": 32,
    "vit_b_32": 64,  # its weights are for 224 px
}
OLD_NAMES = (  # of layers in published files, which torchvision renamed since
    (r"(denselayer\d+\.(?:norm|relu|conv))([12])\.", r"\1.\2."),
    (r"\.mlp\.0\.", ".mlp.linear_1."),
    (r"\.mlp\.3\.", ".mlp.linear_2."),
)


@pytest.fixture(autouse=True)
def no_initialisation(monkeypatch):
    """Filling 130 million weights with random numbers, to overwrite them, costs seconds."""
    for name in ("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "trunc_normal_", "normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Torchvision's cache of downloads, empty; nothing can be loaded into it."""

    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def value_of(name):
    """A number for each entry, by which it is recognised: between 1 and 2, exact in float32."""
    return 1 + zlib.crc32(name.encode()) % 4096 / 4096


def published(backbone, old=False):
    """Content of a file of a network: each entry one number, which takes no room; in the older layout if `old`."""
    state = OrderedDict()
    for name, tensor in _outline(backbone).items():
        value = torch.tensor(value_of(name)).to(tensor.dtype).expand(tensor.shape)
        if old and name.endswith("num_batches_tracked"):
            continue
        for pattern, before in OLD_NAMES if old and backbone.startswith(("densenet", "vit")) else ():
            name = re.sub(pattern, before, name)
        state[name] = value
    versions = OrderedDict({"": {"version": 2 if backbone.startswith("mnasnet") else 1}})
    state._metadata = versions
    return state


def check_filled(model, backbone):
    head = head_name(model, backbone)
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{head}.") and tensor.is_floating_point():
            assert tensor.min().item() == pytest.approx(value_of(name), abs=1e-6), name
            assert tensor.max().item() == pytest.approx(value_of(name), abs=1e-6), name
    assert model.get_submodule(head).out_features == 3


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("backbone", FAMILIES)
def test_network_of_every_family_starts_from_its_imagenet_file_and_from_the_same_file_by_path(cache, backbone, old):
    """The newer layout in the cache, the older by its path; one family both ways with both."""
    file = cache / models.get_model_weights(backbone).DEFAULT.url.rsplit("/", 1)[1]
    torch.save(published(backbone, old), file)
    for weights in ("imagenet", str(file)) if backbone == "mnasnet0_5" else (str(file) if old else "imagenet",):
        check_filled(build_model(backbone, 3, weights, FAMILIES[backbone]), backbone)


def test_network_of_a_family_without_a_linear_layer_at_its_end_is_refused():
    with pytest.raises(ParameterError, match="the last layer of squeezenet1_1 is Conv2d"):
        build_model("squeezenet1_1", 3, "none")


def test_every_family_of_torchvision_is_tried():
    names = models.list_models(module=models, exclude="tinynet*")
    modules = {models.get_model_builder(name).__module__ for name in names}
    assert {models.get_model_builder(name).__module__ for name in [*FAMILIES, "squeezenet1_1"]} == modules


def test_weights_that_cannot_be_downloaded_name_the_three_ways_out(cache):
    with pytest.raises(WeightsError, match=r"place https.* at .*resnet18.*weights = \"path.*weights = \"none\""):
        build_model("resnet18", 3, "imagenet")


class Dangerous:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("content", [b"", b"half a file", Dangerous(), {"conv1.weight": torch.zeros(2)}])
def test_file_in_the_cache_that_is_none_is_named_and_never_executed(cache, content, capsys):
    file = cache / models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1]
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(WeightsError, match=r"resnet18-.*\.pth does not hold the ImageNet weights of resnet18.*place https"):
        build_model("resnet18", 3, "imagenet")
    assert capsys.readouterr().out == ""


def prefixed(prefix, backbone="resnet18"):
    return {f"{prefix}{name}": value for name, value in published(backbone).items()}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": prefixed("module."), "epoch": 3, "best": torch.tensor(0.5)}, ["'state_dict'", "module. taken off"]),
        ({"model": prefixed(""), "args": Namespace(lr=0.1)}, ["'model'"]),
        ({"state_dict": prefixed("model.backbone.") | {"loss.weight": torch.ones(2)}}, ["model.backbone.", "loss.weight"]),
        (prefixed("_orig_mod."), ["_orig_mod. taken off"]),
        ({"model": {"state_dict": prefixed("encoder_q.")}}, ["'model'", "'state_dict'", "encoder_q."]),
        (prefixed("") | {"fc.1.weight": torch.ones(2, 2), "epoch": 3}, []),
        ({k: v for k, v in prefixed("").items() if not k.startswith("fc.")}, []),
    ],
)
def test_wrappers_and_prefixes_of_other_trainers_are_taken_off_and_said(tmp_path, capsys, content, said):
    torch.save(content, tmp_path / "theirs.pth")
    check_filled(build_model("resnet18", 3, str(tmp_path / "theirs.pth")), "resnet18")
    printed = capsys.readouterr().out
    assert all(text in printed for text in said)
    assert bool(said) == bool(printed)


def test_network_that_asks_for_versions_is_filled_from_a_file_without_them(tmp_path):
    torch.save(prefixed("module.", "mnasnet0_5"), tmp_path / "plain.pth")
    check_filled(build_model("mnasnet0_5", 3, str(tmp_path / "plain.pth")), "mnasnet0_5")


def grey(state):
    return state | {"conv1.weight": state["conv1.weight"][:, :1]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            published("resnet34"),
            "layer1.2.conv1.weight is unknown; .* and 93 more. It seems to be resnet34; .* or set backbone to resnet34",
        ),
        (prefixed("module.", "mobilenet_v3_small"), "conv1.weight is missing; .*It seems to be mobilenet_v3_small;"),
        (
            grey(published("resnet18")),
            r"conv1.weight is \(64, 1, 7, 7\), not \(64, 3, 7, 7\). It seems to be resnet18 for images of 1 channels",
        ),
        (published("wide_resnet50_2"), "It seems to be wide_resnet50_2"),
        (
            {k: v for k, v in published("resnet18").items() if not k.startswith("layer4.1.conv")},
            "layer4.1.conv1.weight is missing; layer4.1.conv2.weight is missing. It seems to be",
        ),
        ({"x": torch.ones(2)}, "conv1.weight is missing; .*no network of torchvision"),
        ({"weights": [1, 2]}, "holds no state dict; it holds weights; give one"),
        ([1, 2], "holds no state dict; give one"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_differences_and_what_it_seems_to_be(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=message):
        build_model("resnet18", 3, str(tmp_path / "other.pth"))


def test_pixels_are_normalised_as_for_the_weights():
    assert published_statistics("resnet18") == (IMAGENET_MEAN, IMAGENET_STD)
    assert published_statistics("efficientnet_v2_l") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
