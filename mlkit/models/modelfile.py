"""`model.pth`: a network with all that is needed to ask it, written and, whoever it comes from, checked before use."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mlkit.errors import MlkitError, ParameterError, WeightsError
from mlkit.files import check_format, shown
from mlkit.models.networks import IMAGENET_MEAN, IMAGENET_STD, Ensemble, build_model, set_statistics
from mlkit.models.pretrained import check_finite
from mlkit.models.torchfile import load_torch, save_torch

# More than this is no model that mlkit trained.
_DEEPEST = 8
_MOST_ATTRIBUTES, _MOST_PIXELS, _MOST_MEMBERS, _MOST_VALUES = 100_000, 4096, 1000, 3_000_000
_NUMBERS = ("thresholds", "calibration", "chosen_on")


def save_model(path: str | Path, model: nn.Module, meta: dict[str, Any]) -> None:
    """Write a self-contained model file: state dict and plain metadata, whole or not at all."""
    state = model.state_dict()  # with the versions of its layers, which some networks ask for
    for name, tensor in state.items():
        state[name] = tensor.detach().cpu().contiguous()
    save_torch(path, {"meta": meta, "state_dict": state})


def load_model(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Network (on the CPU, in eval mode) and metadata of a model file.

    Raises:
        WeightsError: if the file is missing, not a model of mlkit, or says of itself what cannot be.
    """
    content, file = load_torch(path), shown(path)
    if not isinstance(content, dict) or "state_dict" not in content or "meta" not in content:
        raise WeightsError(f"{file} holds no mlkit model; train one with notebook 02 or `mlkit train`")
    check_format(Path(path), content)
    meta, state = content["meta"], content["state_dict"]
    try:
        check_meta(meta)
        _check_shapes(state, _shapes(meta))
        model = _build(meta)
    except WeightsError:
        raise
    except (MlkitError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{file} is no model that mlkit can have written: {error}") from None
    check_finite(state, file)
    model.load_state_dict(state)
    return set_statistics(model.eval(), meta.get("mean", IMAGENET_MEAN), meta.get("std", IMAGENET_STD)), meta


def check_meta(meta: Any) -> None:
    """Check every field that mlkit uses of a model file's metadata.

    Raises:
        ValueError: naming the field and what is wrong with it.
    """
    _expect(isinstance(meta, dict), "meta", "a mapping")
    names = meta.get("attributes")
    _expect(isinstance(names, list) and 0 < len(names) <= _MOST_ATTRIBUTES, "attributes", f"1 to {_MOST_ATTRIBUTES:,} names")
    _expect(all(isinstance(name, str) for name in names) and len(set(names)) == len(names), "attributes", "different texts")
    size = meta.get("image_size")
    _expect(type(size) is int and 0 < size <= _MOST_PIXELS, "image_size", f"1 to {_MOST_PIXELS} pixels")
    for field in ("mean", "std"):
        values = meta.get(field, [1.0] * 3)
        _expect(
            isinstance(values, list | tuple) and len(values) == 3 and all(map(_is_number, values)), field, "three numbers"
        )
    _expect(all(1e-6 < value < 1e6 for value in meta.get("std", [1.0])), "std", "above 0, as those of pixels are")
    _expect(all(abs(value) < 1e6 for value in meta.get("mean", [1.0])), "mean", "means of pixels")
    members = meta.get("members", [meta])
    _expect(isinstance(members, list) and 0 < len(members) <= _MOST_MEMBERS, "members", f"1 to {_MOST_MEMBERS} networks")
    for member in members:
        _expect(isinstance(member, dict) and isinstance(member.get("backbone"), str), "backbone", "the name of a network")
        calibration = member.get("calibration")
        _expect(isinstance(calibration, dict) and set(calibration) == set(names), "calibration", "a row an attribute")
        for row in calibration.values():
            _expect(isinstance(row, dict) and {"slope", "bias"} <= set(row), "calibration", "slopes and biases")
    thresholds = meta.get("thresholds")
    _expect(isinstance(thresholds, dict) and set(thresholds) == set(names), "thresholds", "a number an attribute")
    seen = meta.get("never_seen", [])
    _expect(isinstance(seen, list) and set(seen) <= set(names), "never_seen", "attributes")
    _expect(isinstance(meta.get("chosen_on", {}), dict), "chosen_on", "a number an attribute")
    _check_plain(meta)
    for field in ("trained", "backbone", "weights", "loss", "precision", "mlkit_version"):
        _expect(isinstance(meta.get(field, ""), str), field, "a text")
    if "guarantee" in meta:
        _check_guarantee(meta["guarantee"], names)
    for field in _NUMBERS:
        _check_numbers(field, meta.get(field, {}), names)
    for member in members:
        _check_numbers("calibration", member["calibration"], names)


def _check_guarantee(guarantee: Any, names: list[str]) -> None:
    """Raise ValueError where a guarantee is none of `evaluation.guarantee`."""
    fields = {"precision", "confidence", "yes_from", "no_to", "odd"}
    _expect(
        isinstance(guarantee, dict) and set(guarantee) == fields, "guarantee", f"a mapping of {', '.join(sorted(fields))}"
    )
    for field in ("yes_from", "no_to"):
        _check_numbers(field, guarantee[field], names)
    _expect(all(_is_number(guarantee[field]) for field in ("precision", "confidence")), "guarantee", "finite numbers")
    _expect(isinstance(guarantee["odd"], list) and set(guarantee["odd"]) <= set(names), "odd", "attributes")


def _build(meta: Mapping[str, Any]) -> nn.Module:
    """The network that metadata names, with random weights."""
    parts = meta.get("members", [meta])
    networks = [build_model(part["backbone"], len(meta["attributes"]), "none", meta["image_size"]) for part in parts]
    return Ensemble(networks, [part["calibration"] for part in parts]) if "members" in meta else networks[0]


class _Undrawn(TorchFunctionMode):
    """Within: random values are not drawn. Tensors of "meta" have none, and to draw them imports torch's compiler, 2 s."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return args[0] if function in (Tensor.normal_, Tensor.uniform_) else function(*args, **(kwargs or {}))


def _shapes(meta: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Entries of the network that metadata names, without memory where its code allows that."""
    try:
        with torch.device("meta"), _Undrawn():
            return _build(meta).state_dict()
    except (ParameterError, NotImplementedError):  # RegNets compute their widths with tensors
        return _build(meta).state_dict()


def _check_shapes(state: Any, expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError where tensors are not those of the network."""
    _expect(
        isinstance(state, dict) and all(isinstance(tensor, Tensor) for tensor in state.values()), "state_dict", "tensors"
    )
    if wrong := sorted(expected.keys() ^ state.keys()):
        raise ValueError(f"state_dict lacks {wrong[0]}, or has it too much")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise ValueError(f"state_dict: {name} is {tuple(state[name].shape)}, the network has {tuple(tensor.shape)}")


def _check_plain(meta: Any) -> None:
    """Raise ValueError where metadata holds something else than plain values, or too much, or nests beyond sense."""
    left, seen = [(meta, 0)], 0
    while left:
        one, depth = left.pop()
        seen += 1
        _expect(seen <= _MOST_VALUES and depth <= _DEEPEST, "meta", f"at most {_MOST_VALUES:,} values")
        if isinstance(one, dict):
            left += [(value, depth + 1) for pair in one.items() for value in pair]
        elif isinstance(one, list | tuple):
            left += [(value, depth + 1) for value in one]
        else:
            _expect(isinstance(one, str | int | float | bool | None), "meta", "plain values")


def _check_numbers(field: str, values: Mapping[str, Any], names: list[str]) -> None:
    """Raise ValueError where what should be a number, or a row of some, for each attribute is something else."""
    _expect(isinstance(values, dict) and set(values) <= set(names), field, "a number an attribute")
    for value in values.values():
        for number in value.values() if isinstance(value, dict) and field == "calibration" else [value]:
            _expect(_is_number(number), field, "finite numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _expect(true: bool, field: str, what: str) -> None:
    if not true:
        raise ValueError(f"{field} must be {what}")
