"""What a trained model says of the images of a training: how frequent each attribute is."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlkit.data.dataset import MultiLabelDataset
from mlkit.errors import ParameterError, RunError
from mlkit.evaluation.calibration import Calibration
from mlkit.losses import LOSSES
from mlkit.models.device import Device
from mlkit.models.modelfile import load_model
from mlkit.models.networks import compute_logits, place
from mlkit.progress import say
from mlkit.runs import Run
from mlkit.training.feed import Feed

EVALUATION_BATCH = 64  # images


def estimate_prior(name: str, dataset: MultiLabelDataset, images: np.ndarray, device: Device) -> Tensor:
    """Share of images that have each attribute, for `csl`: the mean of a run's calibrated probabilities.

    The paper (see `losses.csl`) takes what a network says that was trained with the unknown cells left out. A pos_weight in
    that training moves what it says, and calibration takes that back.

    Args:
        name: of the run.
        dataset: images, known or not.
        images: indices of those to look at, the training images.
        device: where to compute.

    Returns:
        float32 (attributes,).

    Raises:
        RunError: if there is no such run, or it is not finished.
        ParameterError: if it is uncalibrated, or was made for other attributes or another size of images.
    """
    run = Run.open(name)
    if not run.finished:
        raise RunError(f"prior_run {name!r}: {run} is not finished, so not calibrated; go on with its training")
    if not run.config()["parameters"].get("calibrate", True):
        raise ParameterError(
            f"prior_run {name!r} has calibrate false, so that its probabilities are no frequencies; train it with true"
        )
    _, meta = load_model(run / "model.pth")
    fitting = [name for name, loss in LOSSES.items() if loss.leaves_out]
    if wrong := [part["loss"] for part in meta.get("members", [meta]) if part["loss"] not in fitting]:
        say(
            f"warning: prior_run {name!r} was trained with {wrong[0]}, which takes unknown cells for a no; the paper of csl "
            f"estimates the prior by a loss that leaves them out: {', '.join(fitting)}"
        )
    try:
        logits = model_logits(run / "model.pth", dataset, images, device).numpy()
    except ParameterError as error:
        raise ParameterError(f"prior_run {name!r}: {error}") from None
    probabilities = Calibration.from_dict(meta["calibration"]).probabilities(logits)
    return torch.from_numpy(probabilities.mean(axis=0)).float()


@torch.inference_mode()
def model_logits(model: Path, dataset: MultiLabelDataset, indices: np.ndarray, device: Device) -> Tensor:
    """Float32 logits (len(indices), attributes) of a model file for images of a data set.

    Raises:
        ParameterError: if the model was made for other attributes or another size of images.
    """
    network, meta = load_model(model)
    if meta["attributes"] != dataset.attributes or meta["image_size"] != dataset.image_size:
        raise ParameterError("the model has other attributes or another image_size than the data")
    place(network, device)
    order = np.array_split(indices, -(-len(indices) // EVALUATION_BATCH))
    batches = Feed(dataset, device.device).batches(order)
    return torch.cat([compute_logits(network, pixels, device) for _, pixels, _ in batches])
