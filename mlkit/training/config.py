"""The configuration of a training: all that decides its result, data aside."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import yaml

from mlkit.data.labels import POS_WEIGHT_POLICIES
from mlkit.errors import ParameterError, nearest
from mlkit.evaluation.thresholds import parse_policy
from mlkit.losses import LOSSES, get_loss
from mlkit.parameters import Between, OneOf, check_fields, check_parameters, load_yaml

_EVEN = 8  # pixels, of which the sides of images are multiples that are smaller than image_size
_SMALLEST = 64  # of these sides: maps of 2 x 2 are left of it; of 32 px drawings next to nothing was learned


@dataclass(frozen=True)
class Strengths:
    """Strengths of the augmentation, each 0 for off.

    Raises:
        ParameterError: if a strength is outside of its range.
    """

    flip: Annotated[float, Between(0, 1), "probability that an image is mirrored"] = 0.0
    rotation: Annotated[float, Between(0, 180), "degrees, up to this to either side"] = 0.0
    scale: Annotated[float, Between(0, 1), "up to 1 + scale times larger or smaller"] = 0.0
    translation: Annotated[float, Between(0, 1), "shifted by up to this share of the side, in x and in y"] = 0.0
    brightness: Annotated[float, Between(0, 1), "multiplied by 1 - brightness to 1 + brightness"] = 0.0
    contrast: Annotated[float, Between(0, 1), "the same, around the image's mean grey"] = 0.0
    saturation: Annotated[float, Between(0, 1), "the same, around each pixel's grey"] = 0.0
    mixup: Annotated[float, Between(0, 100), "alpha of mixup, which blends pairs of images and their labels"] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def augments(self) -> bool:
        """Whether any is on."""
        return any(getattr(self, field.name) for field in fields(Strengths))


@dataclass(frozen=True)
class TrainConfig(Strengths):
    """Settings of one training, with their types, bounds, choices and meanings: the one place that has them.

    The defaults are the recipe of `notebooks/parameters/seed.yaml`.

    Raises:
        ParameterError: if a value is outside of what is possible.
    """

    # the network
    image_size: Annotated[int, Between(1, 10_000), "side in pixels that images are resized to"] = 224
    backbone: Annotated[str, "any classification network of torchvision"] = "resnet18"
    weights: Annotated[str, '"imagenet", "none" (from scratch) or a file'] = "imagenet"
    freeze: Annotated[
        str, '"none", "lower" (train the last stage and the head), "backbone" (the head alone) or "until:<layer>"'
    ] = "none"
    # the start
    first_size: Annotated[
        float,
        Between(0.1, 1),
        "of image_size, in half of the epochs from scratch, 64 px at least; in the others midway; 1: none",
    ] = 1.0
    # the loss
    loss: Annotated[str, OneOf(LOSSES), "what it makes of unknown cells: notebook 06"] = "masked_bce"
    loss_settings: Annotated[str, 'of that loss, "gamma_neg: 2, clip: 0" say'] = ""
    prior_run: Annotated[str, "for csl: a finished run that estimates how frequent each attribute is"] = ""
    label_smoothing: Annotated[float, Between(0, 0.5), "known targets move by half of it towards 0.5"] = 0.0
    suggestion_weight: Annotated[float, Between(0, 1, open=True), "of a suggested cell in the loss; a known one has 1"] = 0.5
    # the optimisation
    epochs: Annotated[int, Between(1, 1_000_000), "times that every training image is seen"] = 10
    batch_size: Annotated[int | str, Between(2), OneOf(("auto",)), "images; auto: as many as fit on the GPU"] = 32
    accumulate: Annotated[int, Between(1, 1_000_000), "parts that a batch is computed in, where memory is short"] = 1
    optimizer: Annotated[
        str, OneOf(("adam", "adamw", "lbfgs")), "Adam, AdamW for weight decay, or L-BFGS: a frozen backbone's head, solved"
    ] = "adam"
    learning_rate: Annotated[float, Between(0, open=True), "of the optimizer"] = 1e-3
    weight_decay: Annotated[float, Between(0, 1), "0.05 is usual with adamw"] = 0.0
    schedule: Annotated[str, OneOf(("constant", "cosine")), "of the learning rate"] = "constant"
    warmup_epochs: Annotated[float, Between(0, 1_000_000), "over which the learning rate rises from zero"] = 0.0
    clip_norm: Annotated[float, Between(0, 1e9), "largest norm of the gradient; 0: no limit"] = 0.0
    ema_decay: Annotated[float, Between(0, 0.999999), "of the weights' moving average, kept as the model; 0: none"] = 0.0
    patience: Annotated[int, Between(0, 1_000_000), "epochs without a better validation mAP that end it; 0: never"] = 0
    # the imbalance
    pos_weight: Annotated[
        str,
        OneOf(("auto", *POS_WEIGHT_POLICIES)),
        "of positives; balanced: negatives / positives; auto: that, or none where the loss balances itself",
    ] = "auto"
    pos_weight_cap: Annotated[float, Between(0, open=True), "largest weight of a positive cell"] = 100.0
    sampler: Annotated[str, OneOf(("uniform", "balanced")), "balanced: images with rare positives more often"] = "uniform"
    sampler_cap: Annotated[float, Between(1, 1e9), "how much more often at most"] = 4.0
    # the experiment
    validation_fraction: Annotated[
        float, Between(0, 1, open=True), "of the images: choose the best epoch, the calibration and the thresholds"
    ] = 0.15
    test_fraction: Annotated[float, Between(0, 0.9), "of the images: judge; 0: the validation images do, and flatter"] = 0.15
    folds: Annotated[int, Between(0, 1000), "k of k-fold cross-validation; 0: none"] = 0
    fold: Annotated[int, Between(0), "number of the fold whose images are the test set"] = 0
    threshold: Annotated[str, '"f1", "precision:0.9", "recall:0.9", "fixed:0.5", or "guarantee:0.95": else unsure'] = "f1"
    calibrate: Annotated[bool, "turn scores into probabilities that mean what they say"] = True
    near_duplicates: Annotated[bool, "search for them and keep them on one side of the split; false: identical files"] = True
    split_seed: Annotated[int, Between(0, 2**32 - 1), "of the split: runs that share it are judged on the same images"] = 0
    seed: Annotated[int, Between(0, 2**63 - 1), "of all else: first weights, order of the images, augmentation"] = 0
    device: Annotated[str, '"auto", "cpu", "cuda"'] = "auto"
    precision: Annotated[str, OneOf(("auto", "fp32", "bf16")), "auto: bf16 where the hardware multiplies it"] = "auto"
    compile: Annotated[bool, "torch.compile: minutes at the start, faster steps after; for long runs on a GPU"] = False
    deterministic: Annotated[bool, "the same results on a GPU every time, at some cost; a CPU gives them at none"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frozen != "none" and self.weights == "none":
            raise ParameterError(
                f"freeze is {self.freeze!r} and weights is 'none': frozen layers must have learned something; "
                "give weights, or freeze none"
            )
        moving = self.freeze != "backbone" or self.augments or self.sampler != "uniform"
        if self.optimizer == "lbfgs" and (moving or self.weight_decay or self.ema_decay):
            raise ParameterError(
                "optimizer is 'lbfgs', which solves the head on features that stand still, with penalties of its own: set "
                "freeze to backbone, sampler to uniform, and leave augmentation, weight_decay and ema_decay out"
            )
        if self.folds == 1 or not 0 <= self.fold < max(self.folds, 1):
            raise ParameterError(f"fold is {self.fold}, folds {self.folds}; folds must be 0 or from 2, fold below folds")
        parse_policy(self.threshold)
        _ = self.loss_arguments  # checked by that

    def side(self, epoch: int) -> int:
        """Side in pixels of the training images in an epoch, counted from 1.

        Small images are seen fast while there is only the coarse to be learned (progressive resizing; Howard et al. 2018):
        half of the epochs see the smallest, the others those midway to `image_size`, as networks may be asked at a somewhat
        larger size than they were trained at (Touvron et al. 2019). Pretrained weights know none so small.
        """
        if self.weights != "none" or self.first_size == 1:
            return self.image_size
        share = self.first_size if epoch <= max(1, self.epochs / 2) else (self.first_size + 1) / 2
        return min(self.image_size, max(_SMALLEST, round(share * self.image_size / _EVEN) * _EVEN))

    @property
    def frozen(self) -> str:
        """What `freeze` comes to: from scratch "lower" freezes nothing, so that one recipe serves both beginnings."""
        return "none" if self.freeze == "lower" and self.weights == "none" else self.freeze

    @property
    def loss_arguments(self) -> dict[str, Any]:
        """What the loss is called with out of `loss_settings`, checked against its signature."""
        if not self.loss_settings:  # whose signature would take torch
            return {}
        try:
            given = load_yaml(f"{{{self.loss_settings}}}")
        except yaml.YAMLError:
            given = None
        if not isinstance(given, dict) or None in given.values():
            raise ParameterError(f'loss_settings is {self.loss_settings!r}; it must look like "gamma_neg: 2, clip: 0"')
        known = get_loss(self.loss).defaults
        for name in given:
            if name not in known:
                raise ParameterError(f"loss_settings: {self.loss} has no setting {name!r}{nearest(str(name), known)}")
        try:
            return check_parameters(given, known)
        except ParameterError as error:
            raise ParameterError(f"loss_settings: {error}") from None

    @property
    def pos_weight_policy(self) -> str:
        """The policy that "auto" stands for."""
        if self.pos_weight != "auto":
            return self.pos_weight
        return "none" if get_loss(self.loss).balances else "balanced"
