"""A trained model asked about images."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import compress, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from mlkit.data.cache import cores
from mlkit.data.images import Decoded, notes, read_image
from mlkit.data.levels import Levels
from mlkit.data.reading import Reading
from mlkit.errors import ImageError, ParameterError, RunError
from mlkit.evaluation.calibration import Calibration
from mlkit.evaluation.guarantee import Guarantee
from mlkit.evaluation.thresholds import rests_on_few
from mlkit.files import address, locate, resolve, shown
from mlkit.inference.views import mean_logits, named_views
from mlkit.models.device import Device, choose_device, keep_freed_memory
from mlkit.models.modelfile import load_model
from mlkit.models.networks import folded, place
from mlkit.progress import bar, say
from mlkit.runs import TRAIN_ONE, Run

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
KINDS = {  # of the columns of answers
    "image": "object",
    "attribute": "object",
    "probability": "float32",
    "threshold": "float64",
    "decision": "object",
    "error": "object",
}


class Predictor:
    """A model with what it needs to read an image as in training: size, range of values, normalisation, thresholds.

    Args:
        model: the network.
        meta: what its file says of it.
        device: where to compute.
        source: the run or file that it came from, for people.
        views: what it looks at beside an image itself, see `views.named_views`; each takes as long as the image does.

    Raises:
        ParameterError: if a view is unknown, or the model has a guarantee, which was shown for images alone.
    """

    def __init__(self, model: nn.Module, meta: dict[str, Any], device: Device, source: str = "", views: str = "") -> None:
        self.source = source
        self.model = place(model, device).eval()
        self._network = place(folded(self.model), device)
        self.meta = meta
        self.reading = Reading.of(meta.get("reading", {}))
        self.device = device
        self.views = named_views(views)
        if self.views and "guarantee" in meta:
            raise ParameterError(
                f"{source or 'the model'} has a guarantee, which was shown without views; leave them out, or choose other "
                "thresholds (mlkit thresholds RUN --policy f1)"
            )
        self._calibration = Calibration.from_dict(meta["calibration"])
        self._loaded: tuple[str, str, str, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is where it lies and what was asked for: weights travel by path. Who unpickles it loads it there."""
        if self._loaded is None:
            raise TypeError("a predictor that was not loaded from a file cannot be sent to another process")
        return Predictor.load, (*self._loaded, True)

    @classmethod
    def load(
        cls, source: str | Path = "", device: str = "auto", precision: str = "", views: str = "", quiet: bool = False
    ) -> "Predictor":
        """Load the model of a run (name or folder), a model file, or (empty) the newest finished run.

        A model whose training is not finished, or whose thresholds rest on few cells, says so on screen.

        Args:
            source: run, file or nothing.
            device, precision: as for `choose_device`; the precision of the training unless another is asked for.
            views: as for the class.
            quiet: say nothing, for who asks how fast it is.

        Raises:
            ParameterError: as the class, and if the device or precision cannot be used here.
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
        predictor = cls(model, meta, chosen, shown(path) if run is None else str(run), views)
        predictor._loaded = (str(path), device, precision, views)
        if not predictor.finished and not quiet:
            say(f"{predictor.source} is not finished: its probabilities are not calibrated, its thresholds are all 0.5")
        if (few := rests_on_few(meta.get("chosen_on", {}))) and not quiet:
            say(f"{predictor.source}: {few}")
        return predictor

    def __str__(self) -> str:
        """Which model answers: where it lies, network, epoch, when it was trained."""
        when = self.meta.get("trained", "")[:16].replace("T", " ")
        trained = f", trained {when} UTC" if when else ""
        text = f"{self.source}, {self.meta['backbone']} of epoch {self.meta.get('epoch', '?')}{trained}"
        text += f", views: image, {', '.join(self.views)}" if self.views else ""
        return text if self.finished else f"{text}, not finished"

    @property
    def finished(self) -> bool:
        """Whether its training ended, which calibrates the model and chooses its thresholds."""
        return bool(self.meta.get("metrics"))

    @property
    def attributes(self) -> list[str]:
        return list(self.meta["attributes"])

    @property
    def digest(self) -> str:
        """Of all that decides its answers, but the device."""
        digest = hashlib.blake2b("".join([repr(self.meta), *self.views]).encode(), digest_size=16)
        for tensor in self.model.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def never_seen(self) -> list[str]:
        """Attributes that were unknown in all training images, of which the model knows nothing."""
        return list(self.meta.get("never_seen", []))

    def predict(self, images: str | Path | Sequence[str | Path]) -> pd.DataFrame:
        """Probability and decision for each attribute of one image or several, see `answers`.

        Raises:
            ImageError: for the first file that cannot be decoded.
        """
        paths = [images] if isinstance(images, str | Path) else list(images)
        tables = [self._table([], self._probabilities([]))]
        for table in self.answers(bar(paths, desc="predicting", unit="image")):
            if broken := list(table.error.dropna()):
                raise ImageError(broken[0])
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def answers(self, images: Iterable[str | Path], batch_size: int = 32) -> Iterator[pd.DataFrame]:
        """Probability and decision for each attribute of many images, batch by batch; files are decoded ahead, in threads.

        Yields:
            Columns image, attribute, probability (0..1), threshold, decision ("yes", "no", of a model with a guarantee also
            "unsure"), error; images in the order given. An attribute that was unknown in all training images has no
            probability and no decision (NA). A file that cannot be decoded is one row, with its error and nothing else.
        """
        remarkable: dict[str, tuple[Levels | None, bool]] = {}
        keep_freed_memory()
        with ThreadPoolExecutor(cores() + 4) as executor:  # some wait for the disk
            for batch in _ahead(executor, self._decode, images, batch_size):
                names = [
                    (address(path) or str(path)).encode(errors="backslashreplace").decode() for path, _ in batch
                ]  # it may be no UTF-8
                good = [isinstance(result, Decoded) for _, result in batch]
                decoded = [result for _, result in batch if isinstance(result, Decoded)]
                remarkable |= {
                    shown(name): (one.levels, one.several)
                    for name, one in zip(compress(names, good), decoded, strict=True)
                    if one.levels or one.several
                }
                table = self._table(list(compress(names, good)), self._probabilities([one.pixels for one in decoded]))
                errors = [str(result) for _, result in batch if isinstance(result, ImageError)]
                if errors:
                    table.index = pd.Index(np.repeat(np.flatnonzero(good), len(self.attributes)))
                    rows = pd.DataFrame({"image": list(compress(names, np.invert(good))), "error": errors})
                    rows = rows.reindex(columns=list(KINDS)).astype(KINDS).set_axis(np.flatnonzero(np.invert(good)))
                    table = pd.concat([table, rows]).sort_index(kind="stable").reset_index(drop=True)
                yield table
        for note in notes(remarkable, self.reading):
            say(note)

    @torch.inference_mode()
    def _probabilities(self, pixels: list[np.ndarray]) -> np.ndarray:
        """Calibrated, (images, attributes); NaN for what was never seen in training."""
        if not pixels:
            return np.empty((0, len(self.attributes)), np.float32)
        logits = mean_logits(self._network, torch.from_numpy(np.stack(pixels)), self.device, self.views)
        return self.calibrated(logits.cpu().numpy())

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities (images, attributes) of the network's logits; NaN for what was never seen in training."""
        probabilities = self._calibration.probabilities(logits)
        probabilities[:, np.isin(self.attributes, self.never_seen)] = np.nan
        return probabilities

    def _table(self, images: list[str], probabilities: np.ndarray) -> pd.DataFrame:
        thresholds = np.array([self.meta["thresholds"][name] for name in self.attributes])
        if "guarantee" in self.meta:
            decisions = Guarantee.of(self.meta["guarantee"]).decide(probabilities, self.attributes)
        else:
            decisions = np.where(probabilities >= thresholds, "yes", "no").astype(object)
            decisions[np.isnan(probabilities)] = None
        return pd.DataFrame(
            {
                "image": np.repeat(np.array(images, dtype=object), len(self.attributes)),
                "attribute": np.tile(np.array(self.attributes, dtype=object), len(images)),
                "probability": probabilities.ravel(),
                "threshold": np.tile(thresholds, len(images)),
                "decision": decisions.ravel(),
                "error": None,
            }
        ).astype(KINDS)

    def _decode(self, path: str | Path) -> Decoded | ImageError:
        try:
            return read_image(locate(path), self.meta["image_size"], self.reading)
        except ImageError as error:
            return error


def _ahead(
    executor: Executor, work: Callable[[_Item], _Result], items: Iterable[_Item], size: int
) -> Iterator[list[tuple[_Item, _Result]]]:
    """Batches of items with what `work` makes of each, in order; the next batch is begun while one is in use."""
    waiting: deque[list[tuple[_Item, Future[_Result]]]] = deque()
    left = iter(items)
    while True:
        while len(waiting) < 2 and (batch := list(islice(left, size))):
            waiting.append([(item, executor.submit(work, item)) for item in batch])
        if not waiting:
            return
        yield [(item, future.result()) for item, future in waiting.popleft()]
