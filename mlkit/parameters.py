"""Parameters as people give them (`-p name value`, YAML files), checked and converted against known names and defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml

from mlkit.errors import ParameterError, nearest
from mlkit.files import shown

# Those of a training that say where the data is and how it is read, with their defaults; the others are of `TrainConfig`.
DATA: dict[str, Any] = {"images": "", "labels": "", "minus_one": "error", "strict": False}
_AUTO = {"batch_size"}  # numbers that may be left to mlkit
_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True)
class Between:
    """Bounds of a number in the annotation of a field, `Annotated[int, Between(1, 10)]`; `open`: without the ends."""

    low: float
    high: float = math.inf
    open: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise ParameterError if a number lies outside; text is for `OneOf`."""
        if isinstance(value, str):
            return
        if self.open and not self.low < value < self.high:
            raise ParameterError(f"{name} is {value}; it must be above {self.low}{self._end(' and below')}")
        if not self.low <= value <= self.high:
            raise ParameterError(f"{name} is {value}; it must be at least {self.low}{self._end(' and at most')}")

    def _end(self, words: str) -> str:
        return f"{words} {self.high:g}" if math.isfinite(self.high) else ""


class OneOf:
    """Choices of a text in the annotation of a field: `Annotated[str, OneOf("adam", "adamw")]`."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def check(self, name: str, value: Any) -> None:
        """Raise ParameterError, with the nearest choice, if a text is none of them."""
        if isinstance(value, str) and value not in self.choices:
            raise ParameterError(f"{name} is {value!r}{nearest(value, self.choices)}")


def check_fields(settings: Any) -> None:
    """Check every field of a dataclass by its annotation: the type, then `Between` and `OneOf`.

    Raises:
        ParameterError: naming the first field that is wrong, what it is, and what it must be.
    """
    kind: Any = type(settings)
    for name, (types, rules) in _annotations(kind).items():
        value = getattr(settings, name)
        words = [word for rule in rules if isinstance(rule, OneOf) for word in rule.choices] if len(types) > 1 else []
        if not any(_is_a(value, wanted) for wanted in types) or (words and isinstance(value, str) and value not in words):
            kinds = [_KINDS[wanted] for wanted in types if not words or wanted is not str] + [f'"{word}"' for word in words]
            raise ParameterError(f"{name} is {value!r}; it must be {' or '.join(kinds)}")
        for rule in rules:
            rule.check(name, value)


@cache
def _annotations(settings: type) -> dict[str, tuple[tuple[type, ...], tuple[Any, ...]]]:
    """Field -> its plain types, and the rules of its annotation; fields of other types are not in it."""
    found = {}
    for name, hint in get_type_hints(settings, include_extras=True).items():
        hint, *rules = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        types = get_args(hint) if get_origin(hint) is UnionType else (get_origin(hint) or hint,)
        if set(types) <= set(_KINDS):
            found[name] = types, tuple(rules)
    return found


def _is_a(value: Any, wanted: type) -> bool:
    """Whether a value is of a plain type: true is no number, a whole number is one, NaN and infinity are none."""
    if isinstance(value, bool) or wanted is bool:
        return isinstance(value, bool) and wanted is bool
    if wanted is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, wanted)


def read_parameters(path: str | Path) -> dict[str, Any]:
    """Parameters of a YAML file: one `name: value` a line.

    Raises:
        ParameterError: if the file is missing or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date such as 2020-13-01
        raise ParameterError(f"{shown(path)} cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ParameterError(f"{shown(path)} must hold one `name: value` a line")
    return content


def check_parameters(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The given values, each converted to the type of its default.

    Args:
        given: name -> value; text is converted ("false" to False, "1e-3" to 0.001).
        known: name -> default.

    Raises:
        ParameterError: for an unknown name, with the nearest known one, or a value of another type.
    """
    return {name: _converted(name, value, known) for name, value in given.items()}


def _converted(name: str, value: Any, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ParameterError(f"unknown parameter {name!r}{nearest(name, known)}")
    default = known[name]
    wanted = type(default)
    if wanted is bool:
        converted = _BOOLEANS.get(value.lower()) if isinstance(value, str) else value
        if isinstance(converted, bool):
            return converted
    elif value == "auto" and name in _AUTO:
        return value
    elif wanted in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
            if wanted is float:
                return number
            if number.is_integer():
                digits = not isinstance(value, str) or value.strip().lstrip("+-").isdecimal()
                return int(value if digits else number)  # a float does not hold every digit of a long number
        except (TypeError, ValueError, OverflowError):
            pass
    elif wanted is list:
        if isinstance(value, str):  # "[a, b]"
            try:
                value = yaml.safe_load(value)
            except yaml.YAMLError:
                value = None
        if isinstance(value, list):
            return [_converted(name, item, {name: default[0]}) for item in value] if default else value
    elif isinstance(value, wanted) and not isinstance(value, bool):
        return value
    kind = _KINDS.get(wanted, f"a {wanted.__name__}")
    raise ParameterError(f"parameter {name} is {value!r}; it must be {kind}, such as {default!r}")


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
