"""The configuration of a training: all that decides its result, data aside."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import yaml

from mlkit.augment import Augmentation
from mlkit.errors import ParameterError, nearest
from mlkit.labels import POS_WEIGHT_POLICIES
from mlkit.losses import LOSSES, get_loss
from mlkit.parameters import Between, OneOf, check_fields, check_parameters
from mlkit.thresholds import parse_policy

_TINY = 32  # pixels; the networks of torchvision shrink an image 32 times


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; the defaults are the recipe of `notebooks/parameters/seed.yaml`.

    Raises:
        ParameterError: if a value is outside of what is possible.
    """

    # the network
    image_size: Annotated[int, Between(1, 10_000)] = 224  # side in pixels
    backbone: str = "resnet18"  # any classification network of torchvision
    weights: str = "imagenet"  # "imagenet", "none" or a file
    freeze: str = "none"  # "none", "backbone" or "until:<layer>"
    # the loss
    loss: Annotated[str, OneOf(*LOSSES)] = "masked_bce"  # see `mlkit.losses`
    loss_settings: str = ""  # of that loss, "gamma_neg: 2, clip: 0" say
    prior_run: str = ""  # for csl: the run that the prior is estimated with
    label_smoothing: Annotated[float, Between(0, 0.5)] = 0.0  # share by which known targets move towards 0.5, times two
    # the optimisation
    epochs: Annotated[int, Between(1, 1_000_000)] = 10
    batch_size: Annotated[int | str, Between(2), OneOf("auto")] = 32  # "auto" takes the largest that fits on a GPU
    accumulate: Annotated[int, Between(1, 1_000_000)] = 1  # parts that a batch is computed in, one after the other
    optimizer: Annotated[str, OneOf("adam", "adamw")] = "adam"
    learning_rate: Annotated[float, Between(0, open=True)] = 1e-3
    weight_decay: Annotated[float, Between(0, 1)] = 0.0
    schedule: Annotated[str, OneOf("constant", "cosine")] = "constant"  # of the learning rate
    warmup_epochs: Annotated[float, Between(0, 1_000_000)] = 0.0  # epochs over which the learning rate rises from zero
    clip_norm: Annotated[float, Between(0, 1e9)] = 0.0  # largest norm of the gradient; 0: no limit
    ema_decay: Annotated[float, Between(0, 0.999999)] = 0.0  # of the weights' moving average, kept as the model; 0: none
    patience: Annotated[int, Between(0, 1_000_000)] = 0  # epochs without a better validation mAP that end it; 0: never
    # the imbalance
    # policy, see `labels.pos_weight`; "auto": balanced, or none where the loss balances itself
    pos_weight: Annotated[str, OneOf("auto", *POS_WEIGHT_POLICIES)] = "auto"
    pos_weight_cap: Annotated[float, Between(0, open=True)] = 100.0
    sampler: Annotated[str, OneOf("uniform", "balanced")] = "uniform"  # "balanced": images with rare positives more often
    sampler_cap: Annotated[float, Between(1, 1e9)] = 4.0  # how much more often at most
    # augmentation, see `Augmentation`, which has the bounds; all off
    flip: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    translation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    mixup: float = 0.0
    # the experiment
    # chooses the best epoch, the calibration and the thresholds
    validation_fraction: Annotated[float, Between(0, 1, open=True)] = 0.15
    test_fraction: Annotated[float, Between(0, 0.9)] = 0.15  # judges; 0: the validation images do, and flatter
    folds: Annotated[int, Between(0, 1000)] = 0  # k of k-fold cross-validation, fold number `fold` the test set; 0: none
    fold: int = 0
    threshold: str = "f1"  # policy, see `thresholds.choose_thresholds`
    calibrate: bool = True  # turn scores into probabilities that mean what they say
    split_seed: Annotated[int, Between(0, 2**32 - 1)] = 0  # of the split: runs that share it are judged on the same images
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0  # of all else: first weights, order of the images, augmentation
    device: str = "auto"
    precision: Annotated[str, OneOf("auto", "fp32", "bf16")] = "auto"
    compile: bool = False  # torch.compile: minutes at the start, faster steps after
    deterministic: bool = False  # the same results on a GPU every time, at some cost; a CPU gives them at none

    def __post_init__(self) -> None:
        check_fields(self)
        if self.freeze != "none" and self.weights == "none":
            raise ParameterError(
                f"freeze is {self.freeze!r} and weights is 'none': frozen layers must have learned something; "
                "give weights, or freeze none"
            )
        if self.folds == 1 or not 0 <= self.fold < max(self.folds, 1):
            raise ParameterError(f"fold is {self.fold}, folds {self.folds}; folds must be 0 or from 2, fold below folds")
        parse_policy(self.threshold)
        _ = self.augmentation, self.settings  # check theirs

    @property
    def safe_precision(self) -> str:
        """The precision, where "auto" is "fp32" for tiny images.

        On maps of a single pixel, oneDNN's bf16 gradient of a strided convolution reads memory that it was not given, and
        gives a NaN now and then (ResNet18 at 16 px, torch 2.14 on a CPU with AMX).
        """
        return "fp32" if self.precision == "auto" and self.image_size < _TINY else self.precision

    @property
    def augmentation(self) -> Augmentation:
        """The settings of the augmentation."""
        return Augmentation(**{field.name: getattr(self, field.name) for field in fields(Augmentation)})

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the loss, checked against its signature."""
        try:
            given = yaml.safe_load(f"{{{self.loss_settings}}}")
        except yaml.YAMLError:
            given = None
        if not isinstance(given, dict) or None in given.values():
            raise ParameterError(f'loss_settings is {self.loss_settings!r}; it must look like "gamma_neg: 2, clip: 0"')
        known = get_loss(self.loss).settings
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

    def parameters(self, **data: Any) -> dict[str, Any]:
        """Every parameter of a training as plain values, for the run folder: this configuration, and where the data is."""
        return {**data, **asdict(self)}
