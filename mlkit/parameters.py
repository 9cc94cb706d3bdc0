"""Parameters as people give them (`-p name value`, YAML files), checked and converted against known names and defaults."""

import ast
import json
import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml

from mlkit.errors import ParameterError, nearest
from mlkit.files import project_root, resolve, shown

_HUGE = 1e6  # bounds from here on are against slips, and not worth telling
# Parameters that name a file or a run, and what says that there is none.
FILES = ("image", "weights", "answers", "suggestions")
RUNS = ("prior_run", "other")
NO_FILE = ("", "none", "imagenet")
_LONGEST = 1_000_000  # characters of a parameter file
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

    def __str__(self) -> str:
        if self.open:
            return f"above {self.low:g}{self._end(' and below')}"
        return f"{self.low:g} to {self.high:g}" if self.high < _HUGE else f"from {self.low:g}"

    def _end(self, words: str) -> str:
        return f"{words} {self.high:g}" if math.isfinite(self.high) else ""


@dataclass(frozen=True)
class OneOf:
    """Choices of a text in the annotation of a field: `Annotated[str, OneOf(("adam", "adamw"))]`.

    A registry (a mapping) is asked each time: what is added to it is a choice at once.
    """

    choices: Collection[str]

    def __str__(self) -> str:
        return ", ".join(self.choices)

    def check(self, name: str, value: Any) -> None:
        """Raise ParameterError, with the nearest choice, if a text is none of them."""
        if isinstance(value, str) and value not in self.choices:
            raise ParameterError(f"{name} is {value!r}{nearest(value, self.choices)}")


@dataclass(frozen=True)
class Parameter:
    """What is known of a parameter: of a dataclass field from its annotation, of a notebook's from its default.

    Attributes:
        name: its name.
        default: its value where none is given.
        types: plain types that it may have.
        rules: `Between`, `OneOf`.
        meaning: for people.
    """

    name: str
    default: Any
    types: tuple[type, ...]
    rules: tuple[Between | OneOf, ...] = ()
    meaning: str = ""

    @classmethod
    def like(cls, name: str, default: Any) -> "Parameter":
        """One of the type of its default."""
        if isinstance(default, cls):
            return default
        return cls(name, default, (type(default),))

    @property
    def words(self) -> list[str]:
        """Text that stands beside values of other types."""
        choices = [word for rule in self.rules if isinstance(rule, OneOf) for word in rule.choices]
        return choices if len(self.types) > 1 else []

    @property
    def kinds(self) -> list[type]:
        """Its types, without text where that is one of a few words."""
        return [kind for kind in self.types if kind is not str or not self.words]

    @property
    def allowed(self) -> str:
        """Its bounds and choices, for people; empty where any value of its type will do."""
        return " or ".join(str(rule) for rule in self.rules)

    def check(self, value: Any) -> None:
        """Raise ParameterError if a value is of another type, or against the rules."""
        if value not in self.words and not any(_is_a(value, kind) for kind in self.kinds):
            kinds = [*(_KINDS[kind] for kind in self.kinds), *(f'"{word}"' for word in self.words)]
            raise ParameterError(f"{self.name} is {value!r}; it must be {' or '.join(kinds)}")
        for rule in self.rules:
            rule.check(self.name, value)

    def convert(self, value: Any) -> Any:
        """A value as people give it ("false", "1e-3"), in the parameter's type; ParameterError if it is of another."""
        return value if value in self.words else _converted(self.name, value, self.default, self.kinds[0])


@cache
def parameters_of(settings: Any) -> dict[str, Parameter]:
    """Parameters of a dataclass, by field; those of types that are not plain are not in it."""
    found = {}
    hints = get_type_hints(settings, include_extras=True)
    for field in sorted(fields(settings), key=lambda field: field.name not in settings.__annotations__):  # its own first
        hint, *notes = get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else (hints[field.name],)
        alternatives = get_args(hint) if get_origin(hint) is UnionType else (hint,)
        types = tuple(get_origin(kind) or kind for kind in alternatives)
        if set(types) <= set(_KINDS):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            rules = tuple(note for note in notes if not isinstance(note, str))
            meaning = " ".join(note for note in notes if isinstance(note, str))
            found[field.name] = Parameter(field.name, default, types, rules, meaning)
    return found


def check_fields(settings: Any) -> None:
    """Check every field of a dataclass by its annotation: `Annotated[int, Between(1, 10), "what it means"]`.

    Raises:
        ParameterError: naming the first field that is wrong, what it is, and what it must be.
    """
    kind: Any = type(settings)
    for name, parameter in parameters_of(kind).items():
        parameter.check(getattr(settings, name))


def _is_a(value: Any, wanted: type) -> bool:
    """Whether a value is of a plain type: true is no number, a whole number is one, NaN and infinity are none."""
    if isinstance(value, bool) or wanted is bool:
        return isinstance(value, bool) and wanted is bool
    if wanted is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, wanted)


class _Loader(yaml.SafeLoader):
    """Plain values without aliases, by which a small text can stand for one that fills the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not taken; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


def load_yaml(text: str) -> Any:
    """Plain values of a YAML text. Raises yaml.YAMLError if it is none, is huge, nests too deeply, or has aliases."""
    if len(text) > _LONGEST:
        raise yaml.YAMLError(f"{len(text):,} characters are no parameters; at most {_LONGEST:,} are read")
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except RecursionError:
        raise yaml.YAMLError("it nests too deeply") from None


def read_parameters(path: str | Path) -> dict[str, Any]:
    """Parameters of a YAML file: one `name: value` a line.

    Raises:
        ParameterError: if the file is missing or holds something else.
    """
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"{resolve(path)} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date such as 2020-13-01
        raise ParameterError(f"{resolve(path)} cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ParameterError(f"{shown(path)} must hold one `name: value` a line")
    return content


def notebook_path(notebook: str) -> Path:
    """Where the notebook of that name is."""
    return project_root() / "notebooks" / f"{notebook}.ipynb"


def notebook_cells(notebook: str) -> list[dict[str, Any]]:
    """Cells of the notebook of that name, as its file has them."""
    cells: list[dict[str, Any]] = json.loads(notebook_path(notebook).read_text(encoding="utf-8"))["cells"]
    return cells


def known_parameters(notebook: str) -> dict[str, Any]:
    """Parameters of a notebook, name -> default, read from its tagged cell."""
    cells = notebook_cells(notebook)
    (source,) = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    return {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(source).body}  # type: ignore[attr-defined]


def convert_parameters(notebook: str, namespace: dict[str, Any]) -> None:
    """Convert a notebook's parameters in its `globals()`, as `mlkit run` would: papermill's "false" is a text, hence true.

    Raises:
        ParameterError: for a value of another type than the default's.
    """
    known = known_parameters(notebook)
    namespace |= check_parameters({name: namespace[name] for name in known if name in namespace}, known)


def check_parameters(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The given values, each converted to the type of its parameter.

    Args:
        given: name -> value; text is converted ("false" to False, "1e-3" to 0.001).
        known: name -> `Parameter`, or its default.

    Raises:
        ParameterError: for an unknown name, with the nearest known one, or a value of another type.
    """
    for name in given:
        if name not in known:
            raise ParameterError(f"unknown parameter {name!r}{nearest(name, known)}")
    return {name: Parameter.like(name, known[name]).convert(value) for name, value in given.items()}


def _converted(name: str, value: Any, default: Any, wanted: type) -> Any:
    if wanted is bool:
        converted = _BOOLEANS.get(value.lower()) if isinstance(value, str) else value
        if isinstance(converted, bool):
            return converted
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
    elif wanted in (list, dict):
        if isinstance(value, str):  # "[a, b]", "{epochs: 3}"
            with suppress(ValueError, yaml.YAMLError):  # ValueError: a date such as 2020-13-01, a number too long
                value = load_yaml(value)
        if isinstance(value, wanted):
            examples = default if isinstance(default, list) else [0.0]
            if wanted is dict or not examples:
                return value
            return [_converted(name, item, examples[0], type(examples[0])) for item in value]
    elif isinstance(value, wanted) and not isinstance(value, bool):
        return value
    kind = _KINDS.get(wanted, f"a {wanted.__name__}")
    raise ParameterError(f"parameter {name} is {value!r}; it must be {kind}, such as {default!r}")


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
