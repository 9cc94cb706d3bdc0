"""Backbone and head: any classification network of torchvision with its last linear layer replaced.

Several networks together are an `Ensemble`, a network as well. torchvision, which takes seconds to import, is imported where
a network is made, here as in `pretrained` and `freezing`: most processes make none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.errors import ParameterError, WeightsError, nearest
from mlkit.files import resolve
from mlkit.models.device import Device
from mlkit.models.pretrained import imagenet_network, load_backbone, published_statistics
from mlkit.models.torchfile import load_torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PUBLISHED = 224  # pixels, which every network of torchvision takes
# Share by which running statistics follow each batch; PyTorch's default. Some networks (MobileNetV3, MNASNet,
# EfficientNet-B5) come with 0.01 or less, for trainings of a million iterations; in a few hundred the statistics would lag
# far behind the weights, and a network that has learned say the same of every image.
_MOMENTUM = 0.1


def build_model(backbone: str, num_attributes: int, weights: str = "imagenet", image_size: int = 224) -> nn.Module:
    """A torchvision network with a fresh head of one logit per attribute.

    Args:
        backbone: name as in `torchvision.models.get_model`: resnet18, efficientnet_b0, convnext_tiny, vit_b_16 ...
        num_attributes: outputs of the head.
        weights: "imagenet", "none", or a file: a model.pth of mlkit, or a state dict of the same backbone, bare or as other
            trainers wrap it, see `pretrained.load_backbone`. The head is always fresh.
        image_size: side in pixels, which vision transformers are built for.

    Raises:
        ParameterError: if torchvision has no such network, or none for images of that size, or its last layer is not linear.
        WeightsError: if the weights cannot be had or do not fit; never falls back to random ones.
    """
    _check(backbone, image_size)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if weights == "none" else published_statistics(backbone)
    if weights == "imagenet":
        model = _adapted(imagenet_network(backbone))
        if getattr(model, "image_size", image_size) != image_size:  # a vision transformer
            content, model = model.state_dict(), _fresh(backbone, image_size)
            load_backbone(model, content, backbone, head_name(model, backbone), image_size, weights)
    else:
        model = _fresh(backbone, image_size)
    if weights not in ("none", "imagenet"):
        content = load_torch(resolve(weights))
        meta = _meta_of(content, weights)
        load_backbone(model, content, backbone, head_name(model, backbone), image_size, weights)
        mean, std = meta.get("mean", mean), meta.get("std", std)
    _replace_head(model, backbone, num_attributes)
    # without values, by torch's "meta", it would be asked by way of torch's compiler, whose import takes 2 s
    asked = image_size < _PUBLISHED and not next(model.parameters()).is_meta
    if asked and (reason := _fails(model, image_size)):
        raise ParameterError(
            f"image_size is {image_size}, too small for {backbone} ({reason}); {_PUBLISHED} fits all networks"
        )
    return set_statistics(model, mean, std)


class Ensemble(nn.Module):
    """Several networks as one: the mean of their calibrated logits.

    Losses and weights of positives shift and stretch logits; calibration puts all members on the scale of log-odds, where a
    mean makes sense.

    Args:
        members: networks of the same attributes.
        calibrations: of each, as model.pth has them: attribute -> slope and bias.
    """

    def __init__(self, members: Sequence[nn.Module], calibrations: Sequence[Mapping[str, Mapping[str, float]]]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        # (members, 1, attributes)
        slope, bias = (
            torch.tensor([[[row[name] for row in one.values()]] for one in calibrations]) for name in ("slope", "bias")
        )
        self.slope, self.bias = nn.Buffer(slope), nn.Buffer(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Float32 logits (batch, attributes) of images (batch, 3, H, W), under autocast too."""
        logits = torch.stack([member(inputs).float() for member in self.members])
        return (self.slope * logits + self.bias).mean(dim=0)


def set_statistics(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Have a network's inputs normalised by these, per colour on 0..1; returns the network."""
    model.statistics = tuple(mean), tuple(std)  # type: ignore[assignment]  # stored in model.pth, beside the weights
    return model


def statistics_of(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a network's inputs are normalised by; those of ImageNet unless it was told others."""
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    statistics = getattr(model, "statistics", (IMAGENET_MEAN, IMAGENET_STD))
    return statistics


def normalise(pixels: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> Tensor:
    """Pixels (batch, H, W, 3) on 0..255 -> float32 (batch, 3, H, W), scaled to 0..1, then `(x - mean) / std` per channel.

    The permuted view of the result is in the channels_last layout already. Whole rows of pixels are computed at a time: over
    the three channels alone the CPU's vector units would run empty.
    """
    count, height, width, _ = pixels.shape
    factor = 1 / (torch.tensor(std, device=pixels.device) * 255)
    shift = -torch.tensor(mean, device=pixels.device) / torch.tensor(std, device=pixels.device)
    rows = pixels.reshape(count, height, width * 3).float()
    rows = torch.addcmul(shift.repeat(width), rows, factor.repeat(width))
    return rows.view(count, height, width, 3).permute(0, 3, 1, 2)


def compute_logits(model: nn.Module, pixels: Tensor, device: Device) -> Tensor:
    """Float32 logits (batch, attributes) of pixels (batch, H, W, 3) on 0..255, in the device's precision.

    The one way from pixels to logits: of training, of its evaluation (in two halves where the lower layers are frozen, see
    `freezing.PartlyFrozen`), of `Predictor`.
    """
    inputs = normalise(pixels.to(device.device, non_blocking=True), *statistics_of(model))
    return forward(model, inputs, device).float()


def forward(model: nn.Module, inputs: Tensor, device: Device) -> Tensor:
    """What a network or a part of it makes of its inputs, in the device's precision."""
    with device.autocast():
        outputs: Tensor = model(inputs)
    return outputs


def folded(model: nn.Module) -> nn.Module:
    """A copy for inference alone, its batch normalisations folded into the convolutions before them.

    What is left out is bound by memory: a MobileNetV2 gets 1.8 times as fast on a CPU, logits differ in the last digits.
    Networks that cannot be traced come back as they are.
    """
    from torch.fx.experimental.optimization import fuse
    from torch.fx.proxy import TraceError

    copy: nn.Module
    if isinstance(model, Ensemble):
        copy = Ensemble([], [])
        copy.members, copy.slope, copy.bias = nn.ModuleList(map(folded, model.members)), model.slope, model.bias
    else:
        try:
            copy = fuse(model.eval())
        except TraceError:
            return model
    return set_statistics(copy.eval(), *statistics_of(model))


def place(model: nn.Module, device: Device) -> nn.Module:
    """Move a network to the device, in the channels_last layout."""
    return model.to(device.device).to(memory_format=torch.channels_last)


def _check(backbone: str, image_size: int) -> None:
    from mlkit.models.vision import models

    known = models.list_models(module=models)
    if backbone not in known:
        raise ParameterError(f"torchvision has no classification network {backbone!r}{nearest(backbone, known)}")
    if backbone.startswith("vit_") and image_size % (patch := int(backbone.rpartition("_")[2])):
        near = max(patch, round(image_size / patch) * patch)
        raise ParameterError(f"image_size is {image_size}; {backbone} needs a multiple of {patch}, {near} say")


def _fresh(backbone: str, image_size: int) -> nn.Module:
    """A network of torchvision with random weights."""
    from mlkit.models.vision import models

    options: dict[str, Any] = {"image_size": image_size} if backbone.startswith("vit_") else {}
    if backbone in ("googlenet", "inception_v3"):
        # what torchvision itself sets for its weights; without them it only rescales the input
        options.update(transform_input=True, init_weights=True)
    try:
        model: nn.Module = models.get_model(backbone, weights=None, **options)
    except (ValueError, AssertionError, RuntimeError) as error:
        raise ParameterError(f"{backbone} cannot be built for images of {image_size} px ({error})") from None
    return _adapted(model)


def check_first_size(model: nn.Module, backbone: str, size: int) -> None:
    """See that images may begin at another size than that which a network was built for.

    Raises:
        ParameterError: where they are so small that its maps shrink to nothing on the way, or its size is fixed.
    """
    if reason := _fails(model, size):
        raise ParameterError(f"first_size: {backbone} takes no images of {size} px ({reason}); raise it, or set it to 1")


def _fails(model: nn.Module, size: int) -> str:
    """Why a network does not take images of a size; empty if it does."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    model.train()
    return ""


def _adapted(model: nn.Module) -> nn.Module:
    """Let running statistics follow a short training, and take auxiliary outputs off."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
            module.momentum = max(module.momentum, _MOMENTUM)
    if getattr(model, "aux_logits", False):
        model.aux_logits = False  # type: ignore[assignment]  # they serve training from scratch on ImageNet only
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(model, name):
                setattr(model, name, None)
    return model


def _meta_of(content: Any, weights: str) -> dict[str, Any]:
    """What a file says of itself if it is a model.pth of mlkit."""
    meta = content.get("meta", {}) if isinstance(content, dict) and "format" in content else {}
    if members := meta.get("members"):
        names = ", ".join(member["run"] for member in members)
        raise WeightsError(f"{weights} is an ensemble of several networks; give the model.pth of one of its runs: {names}")
    return dict(meta)


def head_name(model: nn.Module, backbone: str) -> str:
    """Qualified name of the last linear layer. Raises ParameterError if the last layer is of another kind."""
    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    with_weights = [(name, module) for name, module in leaves if list(module.parameters(recurse=False))]
    name: str = with_weights[-1][0]
    module = with_weights[-1][1]
    if not isinstance(module, nn.Linear):
        raise ParameterError(f"the last layer of {backbone} is {type(module).__name__}, not linear; choose another network")
    return name


def _replace_head(model: nn.Module, backbone: str, num_attributes: int) -> None:
    name = head_name(model, backbone)
    parent, _, attribute = name.rpartition(".")
    old = model.get_submodule(name)
    assert isinstance(old, nn.Linear)
    setattr(model.get_submodule(parent), attribute, nn.Linear(old.in_features, num_attributes))
