"""What a model takes for alike: the images nearest to one in feature space, that of what it sees just before its head."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.images import digest_content, load_image, read_bytes
from mlkit.errors import MlkitError, ParameterError, nearest
from mlkit.files import locate
from mlkit.inference.predictor import Predictor
from mlkit.models.freezing import PartlyFrozen, features
from mlkit.models.networks import Ensemble, set_statistics, statistics_of
from mlkit.progress import say
from mlkit.runs import Run
from mlkit.training.recipe import data_of

SEARCHED = 1000  # training images at most where a person waits for the features of all


class Features:
    """A model's features as vectors of length 1, whose product is the cosine of the angle between them.

    Those of an ensemble's members stand in a row, so that the product is the mean of theirs.
    """

    def __init__(self, predictor: Predictor) -> None:
        model = self._model = predictor.model
        networks = list(model.members) if isinstance(model, Ensemble) else [model]
        backbones = [part["backbone"] for part in predictor.meta.get("members", [predictor.meta])]
        self._parts = [
            PartlyFrozen(set_statistics(network, *statistics_of(model)), backbone, "backbone", predictor.device)
            for network, backbone in zip(networks, backbones, strict=True)
        ]

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 (images, features) of uint8 (images, size, size, 3)."""
        return self._in_a_row([part.features(pixels) for part in self._parts])

    def of(self, dataset: MultiLabelDataset) -> np.ndarray:
        """Float32 (images, features) of all images; computed once, and kept with the pixel cache for the same layers."""
        return self._in_a_row([features(part, dataset) for part in self._parts])

    def logits(self, dataset: MultiLabelDataset) -> np.ndarray:
        """Float32 (members, images, attributes) of all images, by the same features; of an ensemble, calibrated."""
        logits = [part.logits(torch.from_numpy(features(part, dataset)).to(part.device.device)) for part in self._parts]
        stacked = torch.stack(logits)
        if isinstance(self._model, Ensemble):
            stacked = self._model.slope * stacked + self._model.bias
        return stacked.detach().cpu().numpy()

    def _in_a_row(self, parts: list[np.ndarray]) -> np.ndarray:
        units = [functional.normalize(torch.from_numpy(part), eps=1e-18).numpy() for part in parts]
        return np.concatenate(units, axis=1) / np.float32(len(parts) ** 0.5)


class Neighbours:
    """The images of a data set that are nearest to a picture; exact, by one matrix product.

    Args:
        dataset: images to choose from, of the model's image_size.
        predictor: the model.
        drawn_from: how many images these were drawn from, where they are a part.

    Attributes:
        labels: of the images.
        vectors: their features, see `Features.of`.
    """

    def __init__(self, dataset: MultiLabelDataset, predictor: Predictor, drawn_from: int = 0) -> None:
        self.labels = dataset.labels
        self._drawn_from = max(drawn_from, len(dataset))
        self._dataset, self._predictor, self._features = dataset, predictor, Features(predictor)
        self.vectors = self._features.of(dataset)

    @classmethod
    def of(cls, run: Run, predictor: Predictor, most: int = SEARCHED) -> "Neighbours | None":
        """Among the images that a run was trained on; None, which is said, where the data is gone or another one by now.

        Args:
            run: the run.
            predictor: its model.
            most: of more images, so many are drawn, always the same.
        """
        try:
            dataset = data_of(run)
        except MlkitError as error:
            say(f"no nearest training images: {error}")
            return None
        learned = np.flatnonzero(dataset.labels.index.isin(run.training_images()))
        drawn = np.sort(np.random.default_rng(0).permutation(learned)[:most])
        return cls(dataset.with_labels(dataset.labels.iloc[drawn]), predictor, len(learned))

    def __str__(self) -> str:
        """What was searched."""
        drawn = "" if len(self.labels) == self._drawn_from else f" (drawn from {self._drawn_from:,})"
        return f"{len(self.labels):,} training images{drawn}"

    def nearest(self, image: str | Path, count: int = 5, attribute: str = "") -> pd.Series:
        """Image -> cosine similarity (up to 1), the nearest first; neither the asked image nor a copy of its file.

        Args:
            image: path of the asked image.
            count: how many; of equal files only one counts.
            attribute: only images where this one is known.

        Raises:
            ImageError: if the image cannot be decoded.
            ParameterError: if the attribute is unknown.
        """
        digests = self._dataset.digests.to_numpy()
        same = digests == digest_content(read_bytes(locate(image)))
        similarity = self.vectors @ (self.vectors[same.argmax()] if same.any() else self._asked(image)[0])
        order = np.argsort(-similarity, kind="stable")
        order = order[(self._known(attribute) & ~same)[order]]
        chosen = order[~pd.Series(digests[order]).duplicated().to_numpy()][:count]
        return pd.Series(similarity[chosen], self.labels.index[chosen], name="similarity")

    def pixels(self, images: pd.Index) -> np.ndarray:
        """Some of the images as the network sees them, uint8 (images, size, size, 3)."""
        return self._dataset.batch(self.labels.index.get_indexer(images))[0]

    def _asked(self, image: str | Path) -> np.ndarray:
        pixels = load_image(locate(image), self._predictor.meta["image_size"], self._predictor.reading)
        return self._features.of_pixels(pixels[None])

    def _known(self, attribute: str) -> np.ndarray:
        if not attribute:
            return np.ones(len(self.labels), bool)
        if attribute not in self.labels:
            raise ParameterError(f"unknown attribute {attribute!r}{nearest(attribute, self.labels.columns)}")
        known: np.ndarray = self.labels[attribute].notna().to_numpy()
        return known
