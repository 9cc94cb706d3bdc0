"""Backbone and head: any classification network of torchvision with its last linear layer replaced, and `model.pth`.

Several networks together are an `Ensemble`, a network as well.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models

from mlkit.calibration import Calibration
from mlkit.device import Device
from mlkit.errors import ParameterError, WeightsError, nearest
from mlkit.files import atomic, resolve, shown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FORMAT = 1  # of model.pth
# Share by which running statistics follow each batch; PyTorch's default. Some networks (MobileNetV3, MNASNet,
# EfficientNet-B5) come with 0.01 or less, for trainings of a million iterations; in a few hundred the statistics would lag
# far behind the weights, and a network that has learned say the same of every image.
_MOMENTUM = 0.1


def build_model(backbone: str, num_attributes: int, weights: str = "imagenet", image_size: int = 224) -> nn.Module:
    """A torchvision network with a fresh head of one logit per attribute.

    Args:
        backbone: name as in `torchvision.models.get_model`: resnet18, efficientnet_b0, convnext_tiny, vit_b_16 ...
        num_attributes: outputs of the head.
        weights: "imagenet", "none", or a file: a state dict of the same backbone, or a model.pth of mlkit. The head is
            always fresh.
        image_size: side in pixels, which vision transformers are built for.

    Raises:
        ParameterError: if torchvision has no such network, or none for images of that size, or its last layer is not linear.
        WeightsError: if the weights cannot be had or do not fit; never falls back to random ones.
    """
    model = _network(backbone, image_size)
    if weights != "none":
        state = _imagenet_state(backbone) if weights == "imagenet" else _file_state(weights)
        _load_backbone(model, state, backbone, weights, image_size)
    _replace_head(model, backbone, num_attributes)
    return model


class Ensemble(nn.Module):
    """Several networks as one: the mean of their calibrated logits.

    Losses and weights of positives shift and stretch logits; calibration puts all members on the scale of log-odds, where a
    mean makes sense.

    Args:
        members: networks of the same attributes.
        calibrations: of each.
    """

    def __init__(self, members: Sequence[nn.Module], calibrations: Sequence[Calibration]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        slope, bias = (np.stack([getattr(one, name) for one in calibrations])[:, None] for name in ("slope", "bias"))
        self.slope = nn.Buffer(torch.tensor(slope, dtype=torch.float32))  # (members, 1, attributes)
        self.bias = nn.Buffer(torch.tensor(bias, dtype=torch.float32))

    def forward(self, inputs: Tensor) -> Tensor:
        """Float32 logits (batch, attributes) of images (batch, 3, H, W), under autocast too."""
        logits = torch.stack([member(inputs).float() for member in self.members])
        return (self.slope * logits + self.bias).mean(dim=0)


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
    """Float32 logits (batch, attributes) of pixels (batch, H, W, 3) on 0..255, in the device's precision."""
    with device.autocast():
        logits: Tensor = model(normalise(pixels.to(device.device, non_blocking=True)))
    return logits.float()


def place(model: nn.Module, device: Device) -> nn.Module:
    """Move a network to the device, in the channels_last layout."""
    return model.to(device.device).to(memory_format=torch.channels_last)


def save_model(path: str | Path, model: nn.Module, meta: dict[str, Any]) -> None:
    """Write a self-contained model file: state dict and plain metadata, whole or not at all."""
    state = model.state_dict()  # with the versions of its layers, which some networks ask for
    for name, tensor in state.items():
        state[name] = tensor.detach().cpu().contiguous()
    save_torch(path, {"format": FORMAT, "meta": meta, "state_dict": state})


def load_model(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Network (on the CPU, in eval mode) and metadata of a model file.

    Raises:
        WeightsError: if the file is missing or not a model of mlkit.
    """
    content = load_torch(path)
    if not isinstance(content, dict) or "state_dict" not in content or "meta" not in content:
        raise WeightsError(f"{shown(path)} holds no mlkit model; train one with notebook 02 or `mlkit train`")
    meta = content["meta"]
    if content.get("format") != FORMAT:
        raise WeightsError(f"{shown(path)} has model format {content.get('format')}, this mlkit reads {FORMAT}")
    parts = meta.get("members", [meta])
    networks = [build_model(part["backbone"], len(meta["attributes"]), "none", meta["image_size"]) for part in parts]
    model = networks[0]
    if "members" in meta:
        model = Ensemble(networks, [Calibration.from_dict(part["calibration"]) for part in parts])
    model.load_state_dict(content["state_dict"])
    return model.eval(), meta


def save_torch(path: str | Path, content: dict[str, Any]) -> None:
    """`torch.save`, whole or not at all."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # "unexpected pos": torch's own, over that of the disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_torch(path: str | Path) -> Any:
    """`torch.load` onto the CPU, tensors and plain values only: nothing in the file is executed.

    Raises:
        WeightsError: if the file is missing or cannot be read in that way.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{shown(path)}: no such file; check the path") from None
    except MemoryError:
        raise
    except Exception as error:  # bytes that are no torch file stumble anywhere in the unpickler
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{shown(path)} is not a file of plain weights ({reason[:120]})") from None


def _network(backbone: str, image_size: int) -> nn.Module:
    known = models.list_models(module=models)
    if backbone not in known:
        raise ParameterError(f"torchvision has no classification network {backbone!r}{nearest(backbone, known)}")
    options: dict[str, Any] = {}
    if backbone.startswith("vit_"):
        patch = int(backbone.rpartition("_")[2])
        if image_size % patch:
            near = max(patch, round(image_size / patch) * patch)
            raise ParameterError(f"image_size is {image_size}; {backbone} needs a multiple of {patch}, {near} say")
        options["image_size"] = image_size
    if backbone in ("googlenet", "inception_v3"):
        # what torchvision itself sets for its weights; without them it only rescales the input
        options.update(transform_input=True, init_weights=True)
    try:
        model: nn.Module = models.get_model(backbone, weights=None, **options)
    except (ValueError, AssertionError, RuntimeError) as error:
        raise ParameterError(f"{backbone} cannot be built for images of {image_size} px ({error})") from None
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
            module.momentum = max(module.momentum, _MOMENTUM)
    if getattr(model, "aux_logits", False):
        model.aux_logits = False  # type: ignore[assignment]  # auxiliary outputs serve training from scratch on ImageNet only
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(model, name):
                setattr(model, name, None)
    return model


def _imagenet_state(backbone: str) -> dict[str, Tensor]:
    weights = models.get_model_weights(backbone).DEFAULT
    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
        return state
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the ImageNet weights of {backbone} could not be loaded ({error}). Three ways out: "
            f"place {weights.url} at {file}; "
            'give a file, weights = "path/to/weights.pth"; or train from scratch, weights = "none"'
        ) from None


def _file_state(weights: str) -> dict[str, Tensor]:
    content = load_torch(resolve(weights))
    if isinstance(content, dict) and "state_dict" in content:
        if members := content.get("meta", {}).get("members"):
            names = ", ".join(member["run"] for member in members)
            raise WeightsError(
                f"{weights} is an ensemble of several networks; give the model.pth of one of its runs: {names}"
            )
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{weights} holds no state dict; give one of the same backbone, or a model.pth of mlkit")
    return content


def _load_backbone(model: nn.Module, state: dict[str, Tensor], backbone: str, weights: str, image_size: int) -> None:
    if "encoder.pos_embedding" in state:
        state = models.vision_transformer.interpolate_embeddings(image_size, model.patch_size, state)
    head = head_name(model, backbone)
    own = model.state_dict()
    versions = getattr(state, "_metadata", None)  # of layers; some networks ask for them
    state = OrderedDict((k, v) for k, v in state.items() if not k.startswith(("aux", "AuxLogits", f"{head}.")))
    wanted = {name for name in own if not name.startswith(f"{head}.")}
    wrong = sorted(wanted ^ set(state)) or [name for name in wanted if own[name].shape != state[name].shape]
    if wrong:
        raise WeightsError(
            f"{weights} does not fit {backbone}: {len(wrong)} entries are missing, unknown or of another shape, {wrong[0]} "
            "for one; give weights of this backbone"
        )
    state._metadata = versions  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=False)


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
