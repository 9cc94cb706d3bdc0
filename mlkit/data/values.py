"""What the values of a label file mean: yes, no, or unknown."""

import re
from collections.abc import Mapping
from typing import Any

from mlkit.errors import LabelError

YES, NO, UNKNOWN = 1, 0, -1
_MEANINGS = {"yes": YES, "no": NO, "na": UNKNOWN, "true": YES, "false": NO, "": UNKNOWN}
# In every file, unless the mapping says otherwise.
_BLANK = dict.fromkeys(("", "na", "nan", "<na>", "none"), UNKNOWN)
_USUAL = {"1": YES, "true": YES, "0": NO, "false": NO}
_YAML = {"true": ("true", "yes"), "false": ("false", "no")}  # words that YAML has made a boolean of


def normal(value: Any) -> str:
    """A value as the mapping has it: without white space around, in small letters, whole numbers without a fraction."""
    text = "" if value is None else str(value).strip().lower()
    return re.sub(r"\A(-?[0-9]+)\.0+\Z", r"\1", text)


def code_of_values(values: Mapping[Any, Any]) -> dict[str, int]:
    """Text of a cell (`normal`) -> 1, 0, or -1 for unknown.

    Args:
        values: value -> "yes", "no" or "NA", such as {"1": "yes", "-1": "no", "0": "NA"}; booleans and None are taken too,
            since YAML makes them of `yes`, `no` and `~`. Empty: 1 and true are yes, 0 and false are no. What is empty, NA,
            nan or none is unknown in any case, unless it is named here.

    Raises:
        LabelError: for a meaning that is none of the three, or two meanings of one value.
    """
    codes: dict[str, int] = {}
    for value, meaning in values.items():
        if normal(meaning) not in _MEANINGS:
            raise LabelError(f'values: {value!r} means {meaning!r}; it must mean "yes", "no" or "NA"')
        for text in _YAML.get(str(value).lower(), ()) if isinstance(value, bool) else (normal(value),):
            if codes.setdefault(text, code := _MEANINGS[normal(meaning)]) != code:
                raise LabelError(f"values: {text!r} has two meanings; keep one")
    if values and not {YES, NO} & set(codes.values()):
        raise LabelError('values: no value means "yes" or "no"; name at least one, such as {"1": "yes", "0": "no"}')
    return _BLANK | (codes or _USUAL)


def plain_values(values: Mapping[Any, Any]) -> dict[str, str]:
    """The same mapping in one form, so that equal settings are equal: text -> "yes", "no" or "NA"."""
    if not values:
        return {}
    words = {YES: "yes", NO: "no", UNKNOWN: "NA"}
    codes = code_of_values(values)
    return {text: words[code] for text, code in codes.items() if code != _BLANK.get(text)}


def wanted(values: Mapping[Any, Any]) -> str:
    """What a cell may hold, for people."""
    named = ["1", "0"] if not values else list(plain_values(values))
    return f"{', '.join(named)} or NA"


def question(found: set[str]) -> str:
    """What to ask of a file that has -1: among the `found` codes, which is no?"""
    if "0" not in found:
        return (
            '-1 means "unknown" in some data sets and "no" in others; say which with values: {"1": "yes", "-1": "no"} or '
            'values: {"1": "yes", "-1": "NA"}'
        )
    return (
        '-1 means "unknown" in some data sets and "no" in others, and 0 is here too; say which is which with '
        'values: {"1": "yes", "0": "no", "-1": "NA"} where -1 is uncertain (CheXpert), or values: {"1": "yes", "-1": "no", '
        '"0": "NA"} where 0 is difficult (VOC)'
    )
