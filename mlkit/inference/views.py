"""Test-time augmentation: a model is asked about several views of an image, and its logits are averaged.

A view keeps the size, so that every network takes it. Calibration and thresholds stay those of the image alone; whether they
fit the mean, and whether it is worth its passes, `view_gain` measures.
"""

from collections.abc import Callable, Collection

from torch import Tensor, nn
from torch.nn import functional

from mlkit.errors import ParameterError, nearest
from mlkit.models.device import Device
from mlkit.models.networks import compute_logits

_MARGIN = 16  # a zoom moves each edge by a sixteenth of the side


def flip(pixels: Tensor) -> Tensor:
    """Mirrored, left for right."""
    return pixels.flip(2)


def zoom_in(pixels: Tensor) -> Tensor:
    """The middle, seven eighths of each side, as large as the whole."""
    side, margin = pixels.shape[1], _margin(pixels)
    return _resized(pixels[:, margin : side - margin, margin : side - margin], side)


def zoom_out(pixels: Tensor) -> Tensor:
    """The whole on seven eighths of each side, around it what its edge reflects, as in the augmentation of training."""
    margin = _margin(pixels)
    small = _resized(pixels, pixels.shape[1] - 2 * margin).permute(0, 3, 1, 2)
    return functional.pad(small, [margin] * 4, mode="reflect").permute(0, 2, 3, 1)


# Name -> view: pixels (batch, side, side, 3) on 0..255 -> the same shape and scale.
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {view.__name__: view for view in (flip, zoom_in, zoom_out)}


def named_views(text: str) -> tuple[str, ...]:
    """Names of views out of a text such as "flip,zoom_in": each once, in one order however they were given.

    Raises:
        ParameterError: for an unknown one.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in VIEWS:
            raise ParameterError(f"unknown view {name!r}{nearest(name, VIEWS)}")
    return tuple(name for name in VIEWS if name in names)


def mean_logits(model: nn.Module, pixels: Tensor, device: Device, views: Collection[str] = ()) -> Tensor:
    """Float32 logits (batch, attributes) of pixels (batch, side, side, 3), averaged over them and their views."""
    pixels = pixels.to(device.device)
    logits = compute_logits(model, pixels, device)
    for name in views:
        logits = logits + compute_logits(model, VIEWS[name](pixels), device)
    return logits / (1 + len(views))


def _margin(pixels: Tensor) -> int:
    return max(1, pixels.shape[1] // _MARGIN)


def _resized(pixels: Tensor, side: int) -> Tensor:
    planes = pixels.permute(0, 3, 1, 2).float()
    return functional.interpolate(planes, (side, side), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
