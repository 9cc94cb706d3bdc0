"""Parameters as people give them (`-p name value`, YAML files), checked and converted against known names and defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mlkit.errors import ParameterError, nearest
from mlkit.files import shown

# Those of a training that say where the data is and how it is read, with their defaults; the others are of `TrainConfig`.
DATA: dict[str, Any] = {"images": "", "labels": "", "minus_one": "error", "strict": False}
_AUTO = {"batch_size"}  # numbers that may be left to mlkit
_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}


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
