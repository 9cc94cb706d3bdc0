"""What a file says of single cells, in any order, made into a label table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mlkit.data.columns import check_attributes, is_chosen
from mlkit.data.labels import from_codes
from mlkit.data.names import image_name
from mlkit.errors import LabelError

ABSENT = {"no": 0, "NA": -1}
_QUESTION = (
    "it lists only what an image has: is an attribute that is not listed known to be absent, or was it not looked at? Say "
    "--absent no or --absent NA; the one teaches the model a no in all these cells, the other nothing"
)


@dataclass(frozen=True)
class Options:
    """What a person says about a file.

    Attributes:
        absent: what an attribute means that is not listed: "no", "NA", or "" where that was not said.
        values: what values mean, see `code_of_values`; empty: as the format has it.
        attributes: names or patterns of those to keep; empty: all.
        image_column: column or key of the image's name; empty: found by its name.
        column: column or key of the tags or the label; empty: found.
        separator: between the tags of a cell; empty: found.
        names: code of a label -> its name, where the file has codes.
    """

    absent: str = ""
    values: Mapping[Any, Any] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    image_column: str = ""
    column: str = ""
    separator: str = ""
    names: Mapping[str, str] = field(default_factory=dict)


class Statements:
    """Gathers what a file says: `say(image, attribute, code)`; then `table()`.

    Args:
        where: the file, for errors.
        options: of the person.
        present_only: the file lists what an image has and is silent about the rest.
    """

    def __init__(self, where: str, options: Options, present_only: bool) -> None:
        if present_only and not options.absent:
            raise LabelError(f"{where}: {_QUESTION}")
        self.where = where
        self.options = options
        self._silent = ABSENT[options.absent] if options.absent else -1
        self._images: dict[str, int] = {}
        self._seen: set[int] = set()
        self._attributes: dict[str, int] = {}
        self._said: tuple[list[int], list[int], list[int]] = ([], [], [])

    def image(self, name: str, seen: bool = True) -> int:
        """Number of an image, which is in the table from now on; one that nobody has looked at is unknown throughout."""
        try:
            number = self._images.setdefault(image_name(name), len(self._images))
        except LabelError as error:
            raise LabelError(f"{self.where}: {error}") from None
        if seen:
            self._seen.add(number)
        return number

    def attribute(self, name: str) -> int | None:
        """Number of an attribute, which is in the table from now on; None: it was not asked for."""
        name = " ".join(self.options.names.get(name, name).split())
        if name not in self._attributes:
            if not is_chosen(name, self.options.attributes):
                return None
            self._attributes[name] = len(self._attributes)
        return self._attributes[name]

    def say(self, image: str, attribute: str, code: int = 1) -> None:
        """An image has an attribute (1), has it not (0), or it is unknown (-1)."""
        if (column := self.attribute(attribute)) is not None:
            for part, value in zip(self._said, (self.image(image), column, code), strict=True):
                part.append(value)

    def table(self) -> pd.DataFrame:
        """The label table. Raises LabelError if the file contradicts itself, or says nothing."""
        images = list(self._images)
        attributes = list(self._attributes)
        if not images or not attributes:
            raise LabelError(f"{self.where}: it names no {'images' if not images else 'attributes'}")
        check_attributes(attributes, self.where, {})
        rows, columns, said = (np.array(part, int) for part in self._said)
        yes, no = (np.zeros((len(images), len(attributes)), bool) for _ in range(2))
        for side, code in ((yes, 1), (no, 0)):
            side[rows[said == code], columns[said == code]] = True
        if len(both := np.argwhere(yes & no)):
            image, attribute = images[both[0][0]], attributes[both[0][1]]
            raise LabelError(f"{self.where}: {image} is said to have {attribute!r} and not to have it; keep one")
        codes = np.full(yes.shape, self._silent, np.int8)
        codes[sorted(set(range(len(images))) - self._seen)] = -1
        codes[rows[said == -1], columns[said == -1]] = -1
        codes[yes], codes[no] = 1, 0
        return from_codes(codes, images, attributes)


def say_all(statements: Statements, rows: Iterable[tuple[str, Iterable[str]]]) -> pd.DataFrame:
    """The table of images with lists of what they have."""
    for image, tags in rows:
        statements.image(image)
        for tag in tags:
            statements.say(image, tag)
    return statements.table()
