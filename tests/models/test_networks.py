import pytest
import tinynet  # noqa: F401
import torch
from torch import nn

from mlkit.errors import ParameterError, WeightsError, WriteError
from mlkit.evaluation.calibration import from_pos_weight
from mlkit.models.device import choose_device
from mlkit.models.modelfile import load_model, save_model
from mlkit.models.networks import (
    Ensemble,
    build_model,
    check_first_size,
    compute_logits,
    folded,
    normalise,
    place,
    set_statistics,
)
from mlkit.models.torchfile import save_torch

META = {
    "backbone": "resnet18",
    "image_size": 32,
    "attributes": ["a", "b", "c"],
    "calibration": from_pos_weight(["a", "b", "c"], 1.0).to_dict(),
    "thresholds": dict.fromkeys("abc", 0.5),
}


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0", "mobilenet_v3_small", "vit_b_16", "shufflenet_v2_x0_5"])
def test_any_network_gets_a_head_of_one_logit_per_attribute(backbone):
    model = build_model(backbone, 3, "none", image_size=64).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_unknown_network_names_the_nearest():
    with pytest.raises(ParameterError, match="did you mean 'resnet18'"):
        build_model("resnet_18", 3, "none")


@pytest.mark.parametrize(("backbone", "layer"), [("mnasnet0_5", "layers.0"), ("regnet_y_400mf", "stem.0")])
def test_network_that_asks_for_the_version_of_its_layers_or_computes_their_widths_comes_back(tmp_path, backbone, layer):
    donor = build_model(backbone, 3, "none")
    save_model(tmp_path / "model.pth", donor, META | {"backbone": backbone})
    for model in (load_model(tmp_path / "model.pth")[0], build_model(backbone, 3, str(tmp_path / "model.pth"))):
        torch.testing.assert_close(model.get_submodule(layer).weight, donor.get_submodule(layer).weight)


def test_weights_from_a_file_fill_the_backbone_and_leave_the_head_fresh(tmp_path):
    donor = build_model("resnet18", 5, "none")
    torch.save(donor.state_dict(), tmp_path / "weights.pth")
    model = build_model("resnet18", 3, str(tmp_path / "weights.pth"))
    torch.testing.assert_close(model.layer4[1].conv2.weight, donor.layer4[1].conv2.weight)
    assert model.fc.out_features == 3


def test_model_file_gives_the_same_network_and_metadata_back(tmp_path):
    model = build_model("resnet18", 3, "none", 32).eval()
    save_model(tmp_path / "model.pth", model, META)
    loaded, meta = load_model(tmp_path / "model.pth")
    images = torch.randn(2, 3, 32, 32)
    assert meta == META
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_file_of_an_ensemble_rebuilds_networks_of_different_kinds(tmp_path):
    names = ["resnet18", "mobilenet_v3_small"]
    networks = [build_model(name, 3, "none", 32) for name in names]
    calibrations = [from_pos_weight(META["attributes"], weight).to_dict() for weight in (2.0, 5.0)]
    members = [{"backbone": name, "calibration": one} for name, one in zip(names, calibrations, strict=True)]
    model = Ensemble(networks, calibrations).eval()
    save_model(tmp_path / "model.pth", model, META | {"backbone": "ensemble", "members": members})
    loaded, _ = load_model(tmp_path / "model.pth")
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        first, second = (network(images) for network in networks)
        assert torch.equal(loaded(images), model(images))
        torch.testing.assert_close(model(images), (first + second) / 2 - torch.tensor([2.0, 5.0]).log().mean())


def test_file_that_would_execute_code_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pth")
    with pytest.raises(WeightsError, match="not a file of plain weights"):
        load_model(tmp_path / "pickled.pth")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"junk", "plain weights"), (b"", "plain weights")]
)
def test_missing_and_broken_model_files_are_one_clear_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_model(tmp_path / "model.pth")


def test_normalised_pixels_equal_torchvisions_and_are_channels_last():
    from torchvision.transforms.v2.functional import normalize, to_dtype

    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    expected = normalize(
        to_dtype(pixels.permute(0, 3, 1, 2), torch.float32, scale=True), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    result = normalise(pixels)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_bf16_agrees_with_float32_and_gives_float32_logits():
    model = build_model("resnet18", 3, "none", 32).eval()
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        exact, fast = (
            compute_logits(place(model, d), pixels, d) for d in (choose_device("cpu", p) for p in ("fp32", "bf16"))
        )
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, exact, atol=0.05, rtol=0.05)


def test_a_full_disk_is_said_as_such(tmp_path):
    resource = pytest.importorskip("resource")  # POSIX
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # as a disk that takes no more
    try:
        with pytest.raises(WriteError, match=r"model\.pth cannot be written \(File too large; free some space"):
            save_torch(tmp_path / "model.pth", {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_refused_as_such(tmp_path):
    state = build_model("resnet18", 5, "none", image_size=32).state_dict()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match=r"nan\.pth is damaged: layer1\.0\.conv1\.weight hold NaN"):
        build_model("resnet18", 3, str(tmp_path / "nan.pth"))


def test_images_too_small_for_a_network_are_refused_before_the_training():
    with pytest.raises(ParameterError, match=r"image_size is 32, too small for alexnet \(.*\); 224 fits all networks"):
        build_model("alexnet", 3, "none", image_size=32)


@pytest.mark.parametrize("backbone", ["vit_b_32", "maxvit_t"])
def test_networks_of_a_fixed_size_do_not_take_images_that_grow(backbone):
    network = build_model(backbone, 3, "none", 224)
    with pytest.raises(ParameterError, match=rf"first_size: {backbone} takes no images of 192 px \(.*\); raise it, or set"):
        check_first_size(network, backbone, 192)


def with_statistics(backbone):
    """A network whose batch normalisations have seen something."""
    network = build_model(backbone, 3, "none", 32).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return network


@torch.inference_mode()
@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "tinynet", "an ensemble"])
def test_folded_batch_normalisation_gives_the_same_logits_and_leaves_the_network_alone(backbone):
    calibration = from_pos_weight(["a", "b", "c"]).to_dict()
    parts = [with_statistics(name) for name in ("tinynet", "shufflenet_v2_x0_5")]
    network = Ensemble(parts, [calibration] * 2).eval() if backbone == "an ensemble" else with_statistics(backbone)
    set_statistics(network, [0.4] * 3, [0.3] * 3)
    before, device = {name: value.clone() for name, value in network.state_dict().items()}, choose_device("cpu", "fp32")
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    copy = folded(network)
    assert not any(isinstance(module, nn.BatchNorm2d) and module is not None for module in copy.modules())
    torch.testing.assert_close(compute_logits(copy, pixels, device), compute_logits(network, pixels, device))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_that_cannot_be_traced_is_asked_as_it_is():
    class Branching(nn.Module):
        def forward(self, inputs):
            return inputs.mean((2, 3)) if inputs.sum() > 0 else inputs.amax((2, 3))

    network = Branching()
    assert folded(network) is network
