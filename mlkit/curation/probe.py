"""A linear probe: logistic regression on the features of a frozen network, the least that a fine-tuned model must beat.

It costs one pass over the images and seconds on a CPU. With ImageNet weights it is a strong baseline; with `weights="none"`
the features are those of a random network: an honest but weak one, which sees little more than colours and edges.
"""

import numpy as np
import pandas as pd

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.labels import label_counts, to_codes
from mlkit.data.split import fold_images
from mlkit.errors import MlkitError, WeightsError
from mlkit.evaluation.metrics import evaluate
from mlkit.files import digest_file
from mlkit.progress import say
from mlkit.runs import Run, contents
from mlkit.training.recipe import data_of

STRENGTH = 0.01  # inverse of the L2 penalty; features are many and correlated


def features(
    dataset: MultiLabelDataset,
    backbone: str = "resnet18",
    weights: str = "imagenet",
    device: str = "auto",
    seed: int = 0,
) -> np.ndarray:
    """What the head of a network would see of each image, float32 (images, features).

    Args:
        dataset: images.
        backbone, weights: as for `build_model`; "none" gives the features of a random network.
        device: as for `choose_device`.
        seed: of random weights.

    Raises:
        ParameterError, WeightsError: if there is no such network, or its weights cannot be had.
    """
    import torch  # here, with what takes it: what is probed may be kept already

    from mlkit.models import freezing
    from mlkit.models.device import choose_device
    from mlkit.models.networks import build_model, place

    chosen = choose_device(device, "fp32")  # random features differ by so little that bf16 would blur them
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = place(build_model(backbone, 1, weights, dataset.image_size), chosen)
    return freezing.features(freezing.PartlyFrozen(network, backbone, "backbone", chosen), dataset)


def probe(
    inputs: np.ndarray,
    labels: pd.DataFrame,
    training: np.ndarray,
    strength: float = STRENGTH,
    rows: np.ndarray | None = None,
    standardise: bool = True,
) -> np.ndarray:
    """Probabilities (rows, attributes) of one L2-regularised logistic regression per attribute.

    Args:
        inputs: (images, features).
        labels: label table of all images; each attribute learns from its known training cells alone.
        training: boolean (images,), those to learn from.
        strength: inverse of the penalty, scikit-learn's C.
        rows: boolean (images,), those to predict; all by default.
        standardise: the inputs, by the images that an attribute learns from; false where their scales mean something, as
            those of principal components do.

    Returns:
        An attribute with a single class among the known training cells gets that class's share, 0 or 1; one without any
        gets 0.5.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    codes = to_codes(labels)
    asked = np.ones(len(codes), bool) if rows is None else rows
    result = np.full((int(asked.sum()), codes.shape[1]), 0.5)
    with threadpool_limits(1):  # the products are small; threads of BLAS cost far more than they save
        for i, column in enumerate(codes.T):
            known = training & (column >= 0)
            if not known.any():
                continue
            if len(np.unique(column[known])) == 1:
                result[:, i] = column[known][0]
                continue
            model = make_pipeline(
                StandardScaler() if standardise else "passthrough", LogisticRegression(C=strength, max_iter=300)
            )
            result[:, i] = model.fit(inputs[known], column[known]).predict_proba(inputs[asked])[:, 1]
    return result


def linear_head(run: Run) -> pd.DataFrame:
    """What a linear head on the frozen features of a run's starting weights is worth, on the images that judge the run.

    Computed once and kept in the run folder as `linear_head.csv`. It learns from the run's training images. Where labels,
    images or weights are gone, or not what the run was made from any more, there is none, and that is said: the run's own
    figures are those of the old ones.

    Returns:
        See `metrics.evaluate`, by attribute. Where there is none, its AP is NaN; an ensemble has no starting weights of its
        own, look at its members'.

    Raises:
        RunError: if the run is not finished. WeightsError: if its weights cannot be had here.
    """
    facts, made = run.read_json("metrics.json"), run.config()
    parameters, evaluated_on = made["parameters"], facts["judged_on"]
    none = pd.DataFrame({"AP": np.nan}, pd.Index(facts["attributes"], name="attribute"))
    if run.members:
        return none
    try:
        dataset = data_of(run)
        if made.get("contents", {}).get("weights") != contents(parameters).get("weights"):
            raise WeightsError(f"{parameters['weights']} is gone, or another file than {run} began with")
    except MlkitError as error:
        say(f"no linear head: {error}; train again to compare")
        return none
    identity = digest_file(run / "config.json")
    if (run / "linear_head.csv").exists():
        kept = run.read_table("linear_head.csv").set_index("attribute")
        if "config" in kept and (kept.pop("config") == identity).all():
            return kept
    split = run.read_table("split.csv").set_index("image").split.reindex(dataset.labels.index)
    training, evaluated = (split == "train").to_numpy(), (split == evaluated_on).to_numpy()
    inputs = features(dataset, **{name: parameters[name] for name in ("backbone", "weights", "device", "seed")})
    probabilities = probe(inputs, dataset.labels, training, rows=evaluated)
    prevalence = label_counts(dataset.labels[training]).prevalence.to_numpy()
    table = evaluate(probabilities, dataset.targets[evaluated], dataset.attributes, prevalence)
    run.write_table("linear_head.csv", table.assign(config=identity).reset_index())
    return table


def out_of_fold(
    inputs: np.ndarray,
    labels: pd.DataFrame,
    groups: pd.Series | None = None,
    folds: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Probabilities (images, attributes), each from a probe that has seen neither the image nor a duplicate of it.

    Args:
        inputs, labels: as for `probe`.
        groups: image -> group that stays in one fold, of `duplicate_groups` say.
        folds, seed: of `fold_images`, which also says the errors; where there are fewer groups, each is a fold.
    """
    folds = max(2, min(folds, len(labels) if groups is None else groups.nunique()))
    fold = fold_images(labels, folds, seed, groups).to_numpy()
    result = np.empty(labels.shape)
    for number in np.unique(fold):
        held_out = fold == number
        result[held_out] = probe(inputs, labels, ~held_out, rows=held_out)
    return pd.DataFrame(result, index=labels.index, columns=labels.columns)
