"""A trained model asked about images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from mlkit.device import Device, choose_device
from mlkit.errors import RunError
from mlkit.files import resolve, shown
from mlkit.images import load_image
from mlkit.model import compute_logits, load_model
from mlkit.progress import bar
from mlkit.runs import Run

_BATCH = 64


class Predictor:
    """A model with what it needs to read an image as in training: size, normalisation, thresholds."""

    def __init__(self, model: nn.Module, meta: dict[str, Any], device: Device) -> None:
        self.model = model.to(device.device, memory_format=torch.channels_last).eval()
        self.meta = meta
        self.device = device

    @classmethod
    def load(cls, source: str | Path = "", device: str = "auto", precision: str = "auto") -> "Predictor":
        """Load the model of a run (name or folder), a model file, or (empty) the newest run.

        Raises:
            RunError: if there is no such run or file.
            WeightsError: if the file is no model of mlkit.
        """
        text = str(source)
        path = resolve(text) if text.endswith((".pth", ".pt")) else Run.open(text) / "model.pth"
        if not path.is_file():
            raise RunError(f"{shown(path)}: no such model; train one with notebook 02 or `mlkit train`")
        model, meta = load_model(path)
        return cls(model, meta, choose_device(device, precision))

    @property
    def attributes(self) -> list[str]:
        return list(self.meta["attributes"])

    @torch.inference_mode()
    def predict(self, images: str | Path | Sequence[str | Path]) -> pd.DataFrame:
        """Probability and decision for each attribute of one image or several.

        Returns:
            Columns image, attribute, probability (0..1), threshold, present; images in the order given.

        Raises:
            ImageError: for the first file that cannot be decoded.
        """
        paths = [images] if isinstance(images, str | Path) else list(images)
        size = self.meta["image_size"]
        parts = []
        with ThreadPoolExecutor() as executor, bar(total=len(paths), desc="predicting", unit="image") as progress:
            for start in range(0, len(paths), _BATCH):
                chunk = [resolve(path) for path in paths[start : start + _BATCH]]
                pixels = np.stack(list(executor.map(lambda path: load_image(path, size), chunk)))
                parts.append(torch.sigmoid(compute_logits(self.model, torch.from_numpy(pixels), self.device)).cpu())
                progress.update(len(chunk))
        probabilities = torch.cat(parts).numpy() if parts else np.empty((0, len(self.attributes)))
        thresholds = np.array([self.meta["thresholds"][name] for name in self.attributes])
        return pd.DataFrame(
            {
                "image": np.repeat([str(path) for path in paths], len(self.attributes)),
                "attribute": np.tile(self.attributes, len(paths)),
                "probability": probabilities.ravel(),
                "threshold": np.tile(thresholds, len(paths)),
                "present": (probabilities >= thresholds).ravel(),
            }
        )
