"""A partly frozen network computes what the whole one does, and only the layers above learn."""

import numpy as np
import pytest
import torch
from torch import nn

from mlkit.data.source import DataSource
from mlkit.errors import MlkitError, ParameterError
from mlkit.models.device import choose_device
from mlkit.models.freezing import Activations, PartlyFrozen, features
from mlkit.models.networks import build_model, compute_logits, place

DEVICE = choose_device("cpu", "fp32")


def network(backbone="resnet18"):
    torch.manual_seed(0)
    return place(build_model(backbone, 3, "none", 64), DEVICE).eval()


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("backbone", "freeze"),
    [
        ("resnet18", "none"),
        ("resnet18", "backbone"),
        ("resnet18", "until:layer3"),
        ("resnet18", "lower"),
        ("efficientnet_b0", "until:features.4"),
        ("vit_b_16", "until:encoder.layers.encoder_layer_5"),
    ],
)
def test_stages_compute_what_the_network_does(backbone, freeze, pixels):
    model = network(backbone)
    partly_frozen = PartlyFrozen(model, backbone, freeze, DEVICE)
    with torch.inference_mode():
        torch.testing.assert_close(
            partly_frozen.logits(partly_frozen.activations(pixels)), compute_logits(model, pixels, DEVICE)
        )


def test_only_the_upper_stage_learns_and_frozen_batch_normalisation_stands_still(pixels):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    partly_frozen = PartlyFrozen(model, "resnet18", "until:layer3", DEVICE)
    partly_frozen.train()
    optimizer = torch.optim.SGD(partly_frozen.parameters(), lr=0.1)
    partly_frozen.logits(partly_frozen.activations(pixels)).square().sum().backward()
    optimizer.step()
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"layer4", "fc"}


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("until:layer9", "did you mean 'until:layer"),
        ("backbon", "did you mean 'backbone'"),
        ("until:fc", "freeze is 'until:fc'"),
        ("layer3", "freeze is 'layer3'"),
    ],
)
def test_unknown_border_names_the_nearest(freeze, message):
    with pytest.raises(ParameterError, match=message):
        PartlyFrozen(network(), "resnet18", freeze, DEVICE)


@pytest.mark.parametrize(
    ("backbone", "border"),
    [
        ("resnet18", "layer3"),
        ("mobilenet_v2", "features.13"),
        ("inception_v3", "Mixed_6e"),  # whose next block shrinks the maps in branches, which no border can part
    ],
)
def test_lower_freezes_all_but_the_last_stage(backbone, border):
    model = build_model(backbone, 3, "none", 224)
    statistics = [value.clone() for value in model.state_dict().values()]
    trained = {id(parameter) for parameter in PartlyFrozen(model, backbone, "lower", DEVICE).parameters()}
    assert all(map(torch.equal, statistics, model.state_dict().values())), "looking at the maps teaches nothing"
    other = PartlyFrozen(model, backbone, f"until:{border}", DEVICE)
    assert {id(parameter) for parameter in other.parameters()} == trained


def test_lower_of_a_network_whose_maps_do_not_shrink_is_refused():
    flat = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ParameterError, match="maps of flat are all of one size; name a layer, until:<layer>"):
        PartlyFrozen(flat, "flat", "lower", DEVICE)


def test_lower_of_a_network_that_takes_images_of_one_size_is_refused():
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(4 * 16 * 16, 3))
    with pytest.raises(ParameterError, match=r"fixed takes no images of 224 px \(.*\); name a layer, until:<layer>"):
        PartlyFrozen(fixed, "fixed", "lower", DEVICE)


def test_border_that_a_skip_connection_crosses_is_refused():
    with pytest.raises(ParameterError, match="2 tensors leave that layer of resnet18; choose another"):
        PartlyFrozen(network(), "resnet18", "until:layer4.0.conv1", DEVICE)


@pytest.mark.parametrize("freeze", ["backbone", "until:layer3"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_of_all_images_are_those_of_the_lower_stage(sample, tmp_path, freeze, precision):
    dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(32)
    device = choose_device("cpu", precision)
    partly_frozen = PartlyFrozen(network(), "resnet18", freeze, device)
    activations = Activations(dataset, partly_frozen, tmp_path)
    chosen = np.array([3, 0, 41])
    served, targets = activations.batch(chosen)
    with torch.inference_mode():
        expected = partly_frozen.activations(torch.from_numpy(dataset.batch(chosen)[0]))
    assert served.stride() == expected.stride()
    torch.testing.assert_close(served, expected.to(served.dtype), atol=1e-2 if precision == "bf16" else 1e-5, rtol=1e-2)
    np.testing.assert_array_equal(targets, dataset.targets[chosen])
    assert len(activations) == len(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]  # the pixel cache


def test_activations_that_do_not_fit_on_the_disk_are_refused(sample, tmp_path, monkeypatch):
    dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(32)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(MlkitError, match=r"the activations need .* GB in .* free some, or freeze more layers"):
        Activations(dataset, PartlyFrozen(network(), "resnet18", "until:layer3", DEVICE), tmp_path)


def test_features_of_a_frozen_backbone_are_computed_once_for_all_that_ask(sample, monkeypatch):
    dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(32)
    first, second = (PartlyFrozen(network(), "resnet18", "backbone", DEVICE) for _ in range(2))
    before = features(first, dataset)
    monkeypatch.setattr(second, "activations", None)
    assert np.array_equal(features(second, dataset), before)
    second.network.layer1[0].conv1.weight.data += 1
    with pytest.raises(TypeError):  # other layers: asked anew
        features(second, dataset)
