"""What learns from the answers: logistic heads on the features of a frozen network, or a whole network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mlkit.curation.probe import probe
from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.labels import from_codes
from mlkit.evaluation.calibration import Calibration
from mlkit.experiments.trainings import train_quietly
from mlkit.models.device import choose_device
from mlkit.models.modelfile import load_model
from mlkit.training.config import TrainConfig
from mlkit.training.prior import model_logits

FOLDS = 5


class Learner(Protocol):
    """Learns from codes (images, attributes) of 1, 0 and -1 for what is unknown, as all of a test image is.

    Attributes:
        folds: (images,), from 0 to FOLDS - 1.
    """

    folds: np.ndarray

    def learn(self, codes: np.ndarray) -> np.ndarray:
        """Probabilities (images, attributes), of all images."""
        ...

    def members(self, codes: np.ndarray) -> np.ndarray:
        """Probabilities (FOLDS, images, attributes), each of a model that has not seen the images of a fold."""
        ...


@dataclass
class Heads:
    """Logistic regressions on `inputs` (images, components); `strength` as of `probe`."""

    inputs: np.ndarray
    strength: float
    folds: np.ndarray

    def learn(self, codes: np.ndarray) -> np.ndarray:
        return self._probe(codes, np.ones(len(codes), bool))

    def members(self, codes: np.ndarray) -> np.ndarray:
        return np.stack([self._probe(codes, self.folds != fold) for fold in range(FOLDS)])

    def _probe(self, codes: np.ndarray, training: np.ndarray) -> np.ndarray:
        images, attributes = (list(map(str, range(size))) for size in codes.shape)
        labels = from_codes(codes, images, attributes)
        return probe(self.inputs, labels, training, self.strength, standardise=False)


@dataclass
class Network:
    """A network that is trained anew, in a folder of its own, on the images of which something may be known."""

    dataset: MultiLabelDataset
    config: TrainConfig
    test: np.ndarray
    folds: np.ndarray
    folder: Path

    def learn(self, codes: np.ndarray) -> np.ndarray:
        return self._train(codes, ~self.test)

    def members(self, codes: np.ndarray) -> np.ndarray:
        return np.stack([self._train(codes, ~self.test & (self.folds != fold)) for fold in range(FOLDS)])

    def _train(self, codes: np.ndarray, training: np.ndarray) -> np.ndarray:
        table = self.dataset.labels
        labels = from_codes(codes, table.index, table.columns)[training]
        run = train_quietly(self.dataset.with_labels(labels), self.config, self.folder)
        device = choose_device(self.config.device, self.config.precision, self.config.image_size)
        logits = model_logits(run / "model.pth", self.dataset, np.arange(len(table)), device).numpy()
        return Calibration.from_dict(load_model(run / "model.pth")[1]["calibration"]).probabilities(logits)


def principal(features: np.ndarray, training: np.ndarray, components: int) -> np.ndarray:
    """Principal components (images, components) of standardised features, both fitted to the training images alone."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # the same bytes whatever the machine
        scaler = StandardScaler().fit(features[training])
        most = min(components, int(training.sum()), features.shape[1])
        reduced = PCA(most, svd_solver="covariance_eigh").fit(scaler.transform(features[training]))
        return np.asarray(reduced.transform(scaler.transform(features)), np.float64)
