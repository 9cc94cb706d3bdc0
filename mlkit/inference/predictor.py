"""A trained model asked about images."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from mlkit.data.images import Decoded, notes, read_image
from mlkit.data.levels import Levels
from mlkit.data.reading import Reading
from mlkit.errors import ImageError, RunError
from mlkit.evaluation.calibration import Calibration
from mlkit.evaluation.thresholds import rests_on_few
from mlkit.files import resolve, shown
from mlkit.models.device import Device, choose_device
from mlkit.models.modelfile import load_model
from mlkit.models.networks import compute_logits, place
from mlkit.progress import bar, say
from mlkit.runs import TRAIN_ONE, Run

_BATCH = 64


class Predictor:
    """A model with what it needs to read an image as in training: size, range of values, normalisation, thresholds.

    Args:
        model: the network.
        meta: what its file says of it.
        device: where to compute.
        source: the run or file that it came from, for people.
    """

    def __init__(self, model: nn.Module, meta: dict[str, Any], device: Device, source: str = "") -> None:
        self.source = source
        self.model = place(model, device).eval()
        self.meta = meta
        self.reading = Reading.of(meta.get("reading", {}))
        self.device = device
        self._calibration = Calibration.from_dict(meta["calibration"])

    @classmethod
    def load(cls, source: str | Path = "", device: str = "auto", precision: str = "") -> "Predictor":
        """Load the model of a run (name or folder), a model file, or (empty) the newest finished run.

        A model whose training is not finished, or whose thresholds rest on few cells, says so on screen.

        Args:
            source: run, file or nothing.
            device, precision: as for `choose_device`; the precision of the training unless another is asked for.

        Raises:
            RunError: if there is no such run or file.
            WeightsError: if the file is no model of mlkit.
        """
        text = str(source)
        run = None if text.endswith((".pth", ".pt")) else Run.open(text)
        path = resolve(text) if run is None else run / "model.pth"
        if not path.is_file():
            raise RunError(f"{path}: no such model; {TRAIN_ONE}")
        model, meta = load_model(path)
        chosen = choose_device(device, precision or meta.get("precision", "auto"), meta["image_size"])
        predictor = cls(model, meta, chosen, shown(path) if run is None else str(run))
        if not predictor.finished:
            say(f"{predictor.source} is not finished: its probabilities are not calibrated, its thresholds are all 0.5")
        if few := rests_on_few(meta.get("chosen_on", {})):
            say(f"{predictor.source}: {few}")
        return predictor

    def __str__(self) -> str:
        """Which model answers: where it lies, network, epoch, when it was trained."""
        when = self.meta.get("trained", "")[:16].replace("T", " ")
        trained = f", trained {when} UTC" if when else ""
        text = f"{self.source}, {self.meta['backbone']} of epoch {self.meta.get('epoch', '?')}{trained}"
        return text if self.finished else f"{text}, not finished"

    @property
    def finished(self) -> bool:
        """Whether its training ended, which calibrates the model and chooses its thresholds."""
        return bool(self.meta.get("metrics"))

    @property
    def attributes(self) -> list[str]:
        return list(self.meta["attributes"])

    @property
    def never_seen(self) -> list[str]:
        """Attributes that were unknown in all training images, of which the model knows nothing."""
        return list(self.meta.get("never_seen", []))

    @torch.inference_mode()
    def predict(
        self, images: str | Path | Sequence[str | Path], on_error: Callable[[ImageError], Any] | None = None
    ) -> pd.DataFrame:
        """Probability and decision for each attribute of one image or several.

        Args:
            images: a path, or many.
            on_error: called for each file that cannot be decoded, which is then left out; None raises for the first one.

        Returns:
            Columns image, attribute, probability (0..1), threshold, present; images in the order given. An attribute that
            was unknown in all training images has no probability (NaN), and present is NA.

        Raises:
            ImageError: for a file that cannot be decoded.
        """
        paths = [images] if isinstance(images, str | Path) else list(images)
        good: list[str] = []
        parts: list[np.ndarray] = []
        facts: dict[str, tuple[Levels | None, bool]] = {}
        with ThreadPoolExecutor() as executor, bar(total=len(paths), desc="predicting", unit="image") as progress:
            for start in range(0, len(paths), _BATCH):
                chunk = paths[start : start + _BATCH]
                decoded = []
                for path, result in zip(chunk, executor.map(self._decode, chunk), strict=True):
                    if isinstance(result, Decoded):
                        good.append(str(path).encode(errors="backslashreplace").decode())  # a name may be no UTF-8
                        facts[shown(good[-1])] = result.levels, result.several
                        decoded.append(result.pixels)
                    elif on_error is None:
                        raise result
                    else:
                        on_error(result)
                if decoded:
                    logits = compute_logits(self.model, torch.from_numpy(np.stack(decoded)), self.device)
                    parts.append(self._calibration.probabilities(logits.cpu().numpy()))
                progress.update(len(chunk))
        for note in notes(facts, self.reading):
            say(note)
        probabilities = np.concatenate(parts) if parts else np.empty((0, len(self.attributes)), np.float32)
        unseen = np.isin(self.attributes, self.never_seen)
        probabilities[:, unseen] = np.nan
        thresholds = np.array([self.meta["thresholds"][name] for name in self.attributes])
        return pd.DataFrame(
            {
                "image": np.repeat(np.array(good, dtype=object), len(self.attributes)),
                "attribute": np.tile(np.array(self.attributes, dtype=object), len(good)),
                "probability": probabilities.ravel(),
                "threshold": np.tile(thresholds, len(good)),
                "present": pd.arrays.BooleanArray((probabilities >= thresholds).ravel(), np.tile(unseen, len(good))),
            }
        )

    def _decode(self, path: str | Path) -> Decoded | ImageError:
        try:
            return read_image(resolve(path), self.meta["image_size"], self.reading)
        except ImageError as error:
            return error
