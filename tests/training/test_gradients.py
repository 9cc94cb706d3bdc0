"""Weight gradients by matrix products are those of the usual kernels, and are taken where those are slow."""

import itertools

import pytest
import torch
from torch import nn

from mlkit.models.device import Device
from mlkit.training import gradients
from mlkit.training.gradients import fast_gradients, weight_gradient

CPU = Device(torch.device("cpu"), None, "as asked")


def gradients_of(network, inputs, context):
    network.zero_grad()
    inputs = inputs.clone().requires_grad_()
    with context:
        outputs = network(inputs)
    torch.manual_seed(0)
    (outputs * torch.randn_like(outputs)).sum().backward()
    return [inputs.grad, *(parameter.grad for parameter in network.parameters())]


@pytest.fixture
def avx2(monkeypatch):
    """A processor without AVX-512, and how often it was asked for a product."""
    calls = []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(gradients, "weight_gradient", lambda *given: calls.append(given) or weight_gradient(*given))
    return calls


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("expected", "layer"),
    [
        (1, nn.Conv2d(16, 8, 3, padding=1)),
        (1, nn.Conv2d(16, 8, (3, 2), stride=(2, 1), padding=(0, 1), bias=False)),
        (1, nn.Conv2d(16, 4, 7, stride=2, padding=3)),
        (0, nn.Conv2d(16, 4, 5, padding="same")),
        (0, nn.Conv2d(3, 8, 3)),  # of an image
        (0, nn.Conv2d(16, 8, 1)),  # a product already
        (0, nn.Conv2d(16, 16, 3, groups=16)),
        (0, nn.Conv2d(16, 16, 3, dilation=2)),
        (0, nn.ConvTranspose2d(16, 4, 3)),
    ],
)
def test_gradients_are_those_of_the_usual_kernels(layer, expected, layout, avx2, monkeypatch):
    monkeypatch.setattr(gradients, "_CHUNK", 20_000)  # several chunks, the last smaller
    inputs = torch.randn(5, layer.in_channels, 11, 12).contiguous(memory_format=layout)
    usual = gradients_of(layer, inputs, torch.enable_grad())
    for found, known in zip(gradients_of(layer, inputs, fast_gradients(layer, CPU)), usual, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-4)
    assert len(avx2) == expected


def test_products_are_taken_in_float32_on_processors_without_avx512_alone(avx2, monkeypatch):
    layer, inputs = nn.Conv2d(16, 4, 3), torch.randn(2, 16, 6, 6)
    bf16 = Device(torch.device("cpu"), torch.bfloat16, "as asked")
    for (capability, device), taken in zip(itertools.product(("AVX2", "AVX512"), (CPU, bf16)), (1, 0, 0, 0), strict=True):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        gradients_of(layer, inputs, fast_gradients(layer, device))
        assert len(avx2) == taken
        avx2.clear()


def test_nothing_is_computed_that_nobody_wants(avx2):
    layer = nn.Conv2d(16, 4, 3)
    with fast_gradients(layer, CPU):
        layer(torch.randn(2, 16, 6, 6)).sum().backward()  # no gradient of the inputs
        assert len(avx2) == 1
        layer.weight.requires_grad_(False)
        layer(torch.randn(2, 16, 6, 6, requires_grad=True)).sum().backward()
    assert len(avx2) == 1
