"""Parameters as people give them (`-p name value`, YAML files), checked and converted against known names and defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mlkit.errors import ParameterError
from mlkit.files import shown
from mlkit.names import nearest

_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}


def read_parameters(path: str | Path) -> dict[str, Any]:
    """Parameters of a YAML file: one `name: value` a line.

    Raises:
        ParameterError: if the file is missing or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
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
    elif wanted in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
            if wanted is float or number.is_integer():
                return wanted(value) if not isinstance(value, str) else wanted(number)
        except (TypeError, ValueError, OverflowError):
            pass
    elif wanted is str and isinstance(value, str):
        return value
    raise ParameterError(f"parameter {name} is {value!r}; it must be {_KINDS[wanted]}, such as {default!r}")


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
