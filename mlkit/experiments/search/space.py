"""The space of a search: which parameters of a training vary, and over which values."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.errors import ParameterError, nearest
from mlkit.files import resolve, shown
from mlkit.parameters import Parameter, parameters_of, read_parameters
from mlkit.training.config import TrainConfig

if TYPE_CHECKING:
    from optuna.trial import Trial

_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Space:
    """Name of a parameter -> a list of choices, or a range: {low, high}, with `log: true` or a `step`.

    A range is one of whole numbers where the parameter is a whole number.
    """

    ranges: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path, parameters: Mapping[str, Any]) -> "Space":
        """Read a space from a YAML file and check it.

        Args:
            path: one `name: [choices]` or `name: {low: ..., high: ...}` a line.
            parameters: of `TrainConfig`, those that do not vary, and where the search starts.

        Raises:
            ParameterError: if a name is unknown, or a value is none that the parameter can have.
        """
        file = resolve(path)
        known = parameters_of(TrainConfig)
        ranges = {}
        for name, given in read_parameters(file).items():
            if name not in known:
                raise ParameterError(f"{shown(file)}: there is no parameter {name!r}{nearest(name, known)}")
            try:
                ranges[name] = _checked(known[name], given)
                for value in _ends(ranges[name]):
                    TrainConfig(**{**parameters, name: value})
            except ParameterError as error:
                raise ParameterError(f"{shown(file)}: {error}") from None
        if not ranges:
            raise ParameterError(f"{shown(file)} holds no parameter to vary; give at least one")
        return cls(ranges)

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """Values for a trial, from its sampler or as they were queued."""
        values: dict[str, Any] = {}
        for name, given in self.ranges.items():
            if isinstance(given, list):
                values[name] = trial.suggest_categorical(name, given)
            elif isinstance(given["low"], int):
                values[name] = trial.suggest_int(name, **given)
            else:
                values[name] = trial.suggest_float(name, **given)
        return values

    def grid(self) -> list[dict[str, Any]]:
        """Every combination.

        Raises:
            ParameterError: if a range has no step.
        """
        values = {}
        for name, given in self.ranges.items():
            if isinstance(given, dict):
                if "step" not in given:
                    raise ParameterError(f"{name} is a range without a step; for a grid give a list of values, or a step")
                count = int((given["high"] - given["low"]) / given["step"] + 1e-9)
                # no point lies above the end, as rounding would have it
                given = [min(given["high"], given["low"] + i * given["step"]) for i in range(count + 1)]
            values[name] = given
        return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]

    def start(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the parameters that vary, as far as their values lie in the space."""
        return {
            name: parameters[name]
            for name, given in self.ranges.items()
            if name in parameters and _contains(given, parameters[name])
        }


def _checked(parameter: Parameter, given: Any) -> Any:
    """Choices or a range with values of the parameter's type."""
    name = parameter.name
    if isinstance(given, list) and given:
        choices = [parameter.convert(text) for text in given]
        if len(set(choices)) < len(choices):
            raise ParameterError(f"{name} is {given}; give each choice once")
        return choices
    if not isinstance(given, dict) or not {"low", "high"} <= set(given) <= set(_KEYS):
        raise ParameterError(f"{name} is {given!r}; it must be a list of choices, or a range such as {{low: 0.1, high: 1}}")
    if parameter.kinds[0] in (bool, str):
        raise ParameterError(f"{name} is no number; give a list of choices instead of a range")
    made = {key: parameter.convert(given[key]) for key in ("low", "high", "step") if key in given}
    made["log"] = given.get("log", False)
    if not isinstance(made["log"], bool) or (made["log"] and ("step" in made or made["low"] <= 0)):
        raise ParameterError(f"{name} is {given}; log is true or false, and true only with low above 0 and without a step")
    if not made["low"] < made["high"] or made.get("step", 1) <= 0:
        raise ParameterError(f"{name} is {given}; low must lie below high, and a step above 0")
    return made


def _ends(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given["low"], given["high"]]


def _contains(given: Any, value: Any) -> bool:
    if isinstance(given, list):
        return value in given
    if isinstance(value, str):  # "auto"
        return False
    steps = (value - given["low"]) / given.get("step", 1)
    return bool(given["low"] <= value <= given["high"] and ("step" not in given or abs(steps - round(steps)) < 1e-9))
