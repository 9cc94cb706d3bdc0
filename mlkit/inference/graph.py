"""A model as one graph for runtimes without mlkit: pixels of any size in, calibrated probabilities out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlkit.evaluation.calibration import Calibration
from mlkit.models.networks import normalise, statistics_of


class Graph(nn.Module):
    """Resize, normalisation, network, calibration and sigmoid.

    Args:
        network: of a model file, an ensemble too.
        meta: what the file says of it.
    """

    def __init__(self, network: nn.Module, meta: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.size = network, int(meta["image_size"])
        calibration = Calibration.from_dict(meta["calibration"])
        unseen = np.isin(meta["attributes"], meta.get("never_seen", []))
        self.slope = nn.Buffer(torch.tensor(calibration.slope, dtype=torch.float32))
        self.bias = nn.Buffer(torch.tensor(np.where(unseen, np.nan, calibration.bias), dtype=torch.float32))

    def forward(self, pixels: Tensor) -> Tensor:
        """Float32 probabilities (batch, attributes) of uint8 RGB (batch, height, width, 3).

        An attribute that was unknown in all training images has none (NaN), as in `Predictor`.
        """
        logits = self.network(normalise(resize(pixels, self.size), *statistics_of(self.network)))
        return torch.sigmoid(self.slope * logits + self.bias)


def resize(pixels: Tensor, size: int) -> Tensor:
    """Uint8 (batch, height, width, 3) -> float32 (batch, size, size, 3), whole numbers as near as can be to `load_image`'s.

    In training Pillow's JPEG decoder halves a photo as often as it stays large enough, and Pillow's filter does the rest,
    in whole numbers after each axis; that filter is a matrix product an axis here. Images of that size stay as they are.
    Not by the operation that runtimes have for this: OpenVINO 2026.4 reads ONNX's `Resize` without its antialiasing.
    """
    rows, columns = (torch.arange(pixels.shape[axis]) for axis in (1, 2))
    larger = torch.minimum(rows[-1] + 1, columns[-1] + 1) // size
    halved = 1 + (larger >= 2).long() + 2 * (larger >= 4).long() + 4 * (larger >= 8).long()  # 1, 2, 4 or 8 pixels are one
    planes = pixels.permute(0, 3, 1, 2).float()
    planes = torch.floor(planes @ _weights(columns, halved, size).T + 0.5)
    planes = torch.floor(_weights(rows, halved, size) @ planes + 0.5)
    return planes.permute(0, 2, 3, 1)


def _weights(places: Tensor, halved: Tensor, size: int) -> Tensor:
    """(size, length) how much each pixel of an axis counts, 0, 1 ... in `places`, in each of the resized one.

    A triangle over what is left of `halved` pixels taken as one, and of still more where much is left: Pillow's bilinear
    filter with a `reducing_gap` of 2.
    """
    length = (places[-1] + halved) // halved
    reduced = torch.clamp(length // (2 * size), min=1)
    step = length / reduced / size
    distance = torch.floor(places / (halved * reduced)) + 0.5 - (torch.arange(size)[:, None] + 0.5) * step
    weights = torch.clamp(1 - distance.abs() / torch.clamp(step, min=1), min=0)
    return weights / weights.sum(dim=1, keepdim=True)
