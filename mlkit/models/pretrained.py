"""Weights that somebody else trained: those of ImageNet, loaded by torchvision, and files as other trainers leave them."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.errors import WeightsError
from mlkit.files import environment
from mlkit.progress import say

_WRAPPERS = ("state_dict", "model", "model_state_dict")  # what trainers call the weights within a checkpoint
# How torchvision renamed layers since: `densenet._load_state_dict`, `vision_transformer.MLPBlock._load_from_state_dict`.
_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(\.mlp\.)linear_1\."), r"\g<1>0."),
    (re.compile(r"(\.mlp\.)linear_2\."), r"\g<1>3."),
)
_COUNTER = "num_batches_tracked"  # of batch normalisation; files of the older kind lack it, and nothing here reads it
_AUXILIARY = ("aux", "AuxLogits")  # outputs that serve training from scratch on ImageNet only
_STATISTICS = (_COUNTER, "running_mean", "running_var")  # entries that are no parameters
_CANDIDATES = 8  # networks that are compared with a file that does not fit


def imagenet_network(backbone: str) -> nn.Module:
    """A torchvision network with its ImageNet weights, loaded by its own code.

    Raises:
        WeightsError: if they cannot be had, or the file where torchvision keeps them is of something else.
    """
    from mlkit.models.vision import models

    weights = models.get_model_weights(backbone).DEFAULT
    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    there = file.exists()
    try:
        # `torch.load` takes tensors and plain values only, also where torchvision calls it; nothing is executed
        with environment(TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
            model: nn.Module = models.get_model(backbone, weights=weights, progress=False)
    except MemoryError:
        raise
    except Exception as error:  # bytes that are no torch file stumble anywhere in the unpickler
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if there:
            raise WeightsError(
                f"{file} does not hold the ImageNet weights of {backbone} ({reason}); place {weights.url} there, or delete "
                "it to have it loaded again"
            ) from None
        raise WeightsError(
            f"the ImageNet weights of {backbone} could not be loaded ({reason}). Three ways out: "
            f"place {weights.url} at {file}; "
            'give a file, weights = "path/to/weights.pth"; or train from scratch, weights = "none"'
        ) from None
    return model


def published_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the colours, on 0..1, that torchvision's weights of the network were trained with."""
    from mlkit.models.vision import models

    transforms = models.get_model_weights(backbone).DEFAULT.transforms()
    return tuple(transforms.mean), tuple(transforms.std)


def load_backbone(model: nn.Module, content: Any, backbone: str, head: str, image_size: int, source: str) -> None:
    """Fill all of a network but its head from what a file holds: a state dict, bare or as other trainers wrap it.

    Followed are torchvision's renamings; taken off, and said on screen, are wrappers (`state_dict`, `model`) and prefixes
    (`module.`, `model.`, `backbone.` ...); left out are the head and auxiliary outputs. Missing counters of batch
    normalisation stay at 0; position embeddings of vision transformers are interpolated.

    Args:
        model: a fresh network.
        content: of the file.
        backbone: name of the network.
        head: name of its last layer.
        image_size: side in pixels.
        source: the file, for people.

    Raises:
        WeightsError: if anything but the head is missing, unknown or of another shape; nothing stays random.
    """
    state, notes = _state_dict(content, source)
    own = model.state_dict()
    if prefix := _prefix(state, own):
        notes.append(f"prefix {prefix} taken off")
        if beside := [name for name in state if not name.startswith(prefix)]:
            notes.append(f"entries beside it left out ({_few(beside, ', ')})")
    # versions of layers, which some networks ask for; below a prefix they are those of another module
    versions = None if prefix else getattr(state, "_metadata", None)
    state = _without(state, prefix)
    if "encoder.pos_embedding" in state and "encoder.pos_embedding" in own:
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = interpolate_embeddings(image_size, model.patch_size, state)
    body = OrderedDict((name, value) for name, value in state.items() if not _of_head(name, own, head))
    wanted = {name: value for name, value in own.items() if not name.startswith(f"{head}.")}
    if wrong := _differences(body, wanted):
        raise WeightsError(f"{source} does not fit {backbone}: {_few(wrong, '; ')}. {_recognised(state, own, backbone)}")
    check_finite(body, source)
    body._metadata = versions or OrderedDict({"": {"version": model._version}})  # type: ignore[attr-defined]
    model.load_state_dict(body, strict=False)
    if notes:
        say(f"{source}: {'; '.join(notes)}")


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError, naming the file, if entries hold NaN or infinity: a training would seem to have diverged."""
    if bad := [name for name, value in state.items() if not torch.isfinite(value).all()]:
        raise WeightsError(f"{source} is damaged: {_few(bad, ', ')} hold NaN or infinity; give another file")


def _state_dict(content: Any, source: str) -> tuple[dict[str, Tensor], list[str]]:
    """The entries of a file by torchvision's present names, and what was taken off, in words."""
    notes = []
    while isinstance(content, dict) and (wrapper := next((n for n in _WRAPPERS if isinstance(content.get(n), dict)), "")):
        if "format" not in content:  # a model.pth of mlkit is wrapped on purpose
            notes.append(f"taken from its entry {wrapper!r}")
        content = content[wrapper]
    state: dict[str, Tensor] = OrderedDict()
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, Tensor):
            for pattern, present in _RENAMED:
                name = pattern.sub(present, name)
            state[name] = value
    if not state:
        holds = f"; it holds {_few([str(name) for name in content], ', ')}" if isinstance(content, dict) else ""
        raise WeightsError(f"{source} holds no state dict{holds}; give one of the same network, or a model.pth of mlkit")
    state._metadata = getattr(content, "_metadata", None)  # type: ignore[attr-defined]
    return state, notes


def _prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What the names in a file begin with beside those of the network: "module.", "model.backbone." or, mostly, nothing."""
    first = next(iter(own))
    found = {name.removesuffix(first) for name in state if name.endswith(f".{first}")}
    fitting = {prefix: sum(f"{prefix}{name}" in state for name in own) for prefix in ("", *found)}
    best = max(fitting, key=lambda prefix: fitting[prefix])
    return best if fitting[best] > len(own) / 2 else ""


def _without(state: Mapping[str, Tensor], prefix: str) -> "OrderedDict[str, Tensor]":
    return OrderedDict((name.removeprefix(prefix), value) for name, value in state.items() if name.startswith(prefix))


def _of_head(name: str, own: Mapping[str, Tensor], head: str) -> bool:
    """Whether an entry belongs to the head, to what somebody put in its place, or to auxiliary outputs."""
    instead = name not in own and name.split(".")[0] == head.split(".")[0]
    return instead or name.startswith((f"{head}.", *_AUXILIARY))


def _differences(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What of the wanted entries is missing or of another shape in a file, and what is more there, each in words."""
    found = []
    for name, value in wanted.items():
        if name not in state:
            found += [] if name.endswith(_COUNTER) else [f"{name} is missing"]
        elif state[name].shape != value.shape:
            found.append(f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}")
    return found + [f"{name} is unknown" for name in state if name not in wanted]


def _few(texts: list[str], separator: str) -> str:
    return separator.join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def _recognised(state: Mapping[str, Tensor], own: Mapping[str, Tensor], backbone: str) -> str:
    """A sentence on what a file seems to be that does not fit, and the mend."""
    first = next(name for name, value in own.items() if value.ndim == 4)  # the convolution that sees the image
    if first in state and _share(state, {k: v for k, v in own.items() if k != first}) > 0.9:
        there, here = state[first].shape, own[first].shape
        if there[1] != here[1]:
            return f"It seems to be {backbone} for images of {there[1]} channels; give weights for {here[1]}"
    size = sum(value.numel() for name, value in state.items() if not name.endswith(_STATISTICS))
    for name in _of_size(size):
        network = _outline(name)
        if _share(_without(state, _prefix(state, network)), network) > 0.9:
            return f"It seems to be {name}; give weights of {backbone}, or set backbone to {name}"
    return f"It seems to be no network of torchvision, or a part of one; give weights of {backbone}"


def _share(state: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> float:
    """Share of a network's entries, counters left out, that are in a file in the same shape; or of the file's in it."""
    there = {name: value.shape for name, value in state.items() if not name.endswith(_COUNTER)}
    wanted = {name: value.shape for name, value in network.items() if not name.endswith(_COUNTER)}
    return sum(there.get(name) == shape for name, shape in wanted.items()) / max(len(wanted), len(there))


def _of_size(size: int) -> list[str]:
    """The networks of torchvision nearest to so many parameters; a file may lack the head, and have another one."""
    from mlkit.models.vision import models

    published = {
        name: models.get_model_weights(name).DEFAULT.meta["num_params"] for name in models.list_models(module=models)
    }
    near = sorted(published, key=lambda name: abs(published[name] - size))
    return [name for name in near if 0.4 * published[name] < size < 1.5 * published[name]][:_CANDIDATES]


def _outline(backbone: str) -> dict[str, Tensor]:
    """Names and shapes of a network's entries, without memory or initialisation where its code allows that."""
    from mlkit.models.vision import models

    options = {"init_weights": False} if backbone in ("googlenet", "inception_v3") else {}
    try:
        with torch.device("meta"):
            network: nn.Module = models.get_model(backbone, weights=None, **options)
    except (NotImplementedError, RuntimeError):  # RegNets compute their widths with tensors
        network = models.get_model(backbone, weights=None, **options)
    return network.state_dict()
