"""Why a model says so: where in an image its last feature map speaks for an attribute.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), of whatever network: the map is found by looking, not by name.
Of the libraries, captum's takes no tokens, as transformers have them, and grad-cam's brings OpenCV.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit.data.images import load_image
from mlkit.errors import ParameterError, nearest
from mlkit.files import locate
from mlkit.inference.predictor import Predictor
from mlkit.models.networks import Ensemble, normalise, statistics_of


def heat_maps(
    predictor: Predictor, image: str | Path, attributes: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where an image speaks for each attribute, by the weights that its last feature map has in the attribute's logit.

    A map says where the network looked, not that it was right to; what is far from a yes has a faint reason or none.

    Args:
        predictor: the model; of an ensemble, the mean of its members' maps.
        image: path of the image.
        attributes: which; all by default.

    Returns:
        The image as the network sees it, uint8 (size, size, 3); and the maps, float32 (attributes, size, size), each from 0
        to 1, or 0 throughout where nothing speaks for the attribute.

    Raises:
        ImageError: if the image cannot be decoded.
        ParameterError: if an attribute is unknown, or the network has no feature map with more than one place.
    """
    names = list(attributes) if attributes is not None else predictor.attributes
    for name in names:
        if name not in predictor.attributes:
            raise ParameterError(f"unknown attribute {name!r}{nearest(name, predictor.attributes)}")
    columns = [predictor.attributes.index(name) for name in names]
    size = predictor.meta["image_size"]
    pixels = load_image(locate(image), size, predictor.reading)
    model = predictor.model
    inputs = normalise(torch.from_numpy(pixels.copy())[None].to(predictor.device.device), *statistics_of(model))
    networks = list(model.members) if isinstance(model, Ensemble) else [model]
    maps = torch.stack([_maps(network, inputs, columns) for network in networks]).mean(dim=0)
    large = functional.interpolate(maps[None], (size, size), mode="bilinear")[0]
    return pixels, large.cpu().numpy()


@torch.enable_grad()
def _maps(network: nn.Module, inputs: Tensor, columns: Sequence[int]) -> Tensor:
    """Grad-CAM (attributes, height, width), each scaled to a highest value of 1."""
    seen: list[Tensor] = []

    def look(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and _places(output):
            seen.append(output)

    hooks = [module.register_forward_hook(look) for module in network.modules()]
    try:
        logits = network(inputs.requires_grad_()).float()
    finally:
        for hook in hooks:
            hook.remove()
    for features in reversed(seen):  # the last through which places have a say: of a transformer, not that after attention
        (gradient,) = torch.autograd.grad(logits.sum(), features, retain_graph=True, allow_unused=True)
        if gradient is not None and _as_map(gradient).any():
            break
    else:
        raise ParameterError("the network has no feature map with more than one place; take images of a larger image_size")
    parts = []
    for column in columns:
        (gradient,) = torch.autograd.grad(logits[0, column], features, retain_graph=True)
        weights = _as_map(gradient).mean(dim=(1, 2), keepdim=True)
        parts.append((weights * _as_map(features)).sum(dim=0).relu().detach().float())
    maps = torch.stack(parts)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)


def _places(output: Tensor) -> int:
    """Places along a side: n of feature maps (1, channels, n, n), of tokens (1, 1 + n * n, channels); 0 of anything else."""
    if output.dim() == 4 and output.shape[2] == output.shape[3] > 1:
        return int(output.shape[2])
    side = math.isqrt(output.shape[1] - 1) if output.dim() == 3 and output.shape[1] > 1 else 0
    return side if side > 1 and side**2 == output.shape[1] - 1 else 0


def _as_map(output: Tensor) -> Tensor:
    """(channels, n, n); the first of the tokens stands for no place."""
    if output.dim() == 4:
        return output[0]
    side = _places(output)
    return output[0, 1:].T.reshape(-1, side, side)
