"""Gradients of convolutions' weights by matrix products, where the processor's own kernels for them are slow."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mlkit.models.device import Device

_CHUNK = 2**22  # elements of unfolded inputs, which the caches hold
_FEW = 16  # channels of images and the like: products gain nothing


def fast_gradients(network: nn.Module, device: Device) -> AbstractContextManager[object]:
    """Context for a network's forward pass, whose backward pass then has the fastest weight gradients that are known.

    For processors without AVX-512, oneDNN has no kernel for channels_last weight gradients on a par with its others: 31 to
    41 GFLOP/s a core in a ResNet18 at 224 px, where the products here reach 45 to 73 (AMD EPYC, AVX2).
    """
    slow = device.device.type == "cpu" and device.dtype is None and torch.backends.cpu.get_cpu_capability() == "AVX2"
    layers = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    gains = slow and any(_suits(layer.weight, layer.padding, layer.dilation, layer.groups) for layer in layers)
    return _ByMatrixProducts() if gains else nullcontext()


class _ByMatrixProducts(TorchFunctionMode):
    """Within: the convolutions of modules are `_Convolution` where that gains something."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and len(args) == 7 and args[0].ndim == 4 and _suits(args[1], *args[4:]):
            return _Convolution.apply(*args[:5])
        return func(*args, **(kwargs or {}))


def _suits(weight: Tensor, padding: Any, dilation: Sequence[int], groups: int) -> bool:
    """Whether a convolution is a usual one, of more than a pixel (which is a product already)."""
    usual = groups == 1 and set(dilation) == {1} and not isinstance(padding, str)
    return usual and weight.requires_grad and weight.shape[1] >= _FEW and weight[0, 0].numel() > 1


class _Convolution(torch.autograd.Function):
    """A convolution whose weight gradient is `weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(inputs, weight, bias, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs = None
        if ctx.needs_input_grad[0]:
            usual = [1, 1], False, [0, 0], 1, [True, False, False]  # not dilated, not transposed, one group; of inputs alone
            of_inputs = torch.ops.aten.convolution_backward(gradient, inputs, weight, None, ctx.stride, ctx.padding, *usual)[
                0
            ]
        of_weight = weight_gradient(gradient, inputs, weight.shape, ctx.stride, ctx.padding)
        of_bias = gradient.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_inputs, of_weight, of_bias, None, None


def weight_gradient(
    gradient: Tensor, inputs: Tensor, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Gradient of a convolution's weight: inputs unfolded, as many images at a time as caches hold, times the output's.

    Args:
        gradient: of the output, (batch, out channels, H', W').
        inputs: (batch, in channels, H, W).
        shape: of the weight, (out channels, in channels, kernel height, kernel width).
        stride: along height and width.
        padding: likewise.
    """
    outward, inward, *kernel = shape
    images, _, *size = gradient.shape
    rows, columns = padding
    padded = F.pad(inputs.permute(0, 2, 3, 1), (0, 0, columns, columns, rows, rows))
    image, row, column, channel = padded.stride()
    windows = padded.as_strided(
        (images, *size, *kernel, inward), (image, row * stride[0], column * stride[1], row, column, channel)
    )
    length = inward * kernel[0] * kernel[1]
    chunk = max(1, _CHUNK // (length * size[0] * size[1]))
    total = torch.zeros(length, outward)
    for unfolded, part in zip(torch.split(windows, chunk), torch.split(gradient.permute(0, 2, 3, 1), chunk), strict=True):
        total.addmm_(unfolded.reshape(-1, length).t(), part.reshape(-1, outward))
    return total.view(*kernel, inward, outward).permute(3, 2, 0, 1)
