"""How image files are read where there is a choice: settings of a data set, which its model takes along."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from mlkit.errors import ParameterError
from mlkit.parameters import Between, OneOf, check_fields


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Settings that decide which pixels a file comes to.

    Raises:
        ParameterError: if a value is none that it can have.
    """

    value_range: Annotated[
        str | list[float],
        OneOf(("auto",)),
        "black and white of files deeper than 8 bits, [0, 4095] say; auto: all of 16 bits, or 0 to 1",
    ] = "auto"
    extra_channels: Annotated[
        str, OneOf(("error", "ignore")), "channels that are neither colour nor alpha (infrared, say)"
    ] = "error"
    max_pixels: Annotated[int, Between(1), "width times height of the largest image that is decoded"] = 178_956_970

    def __post_init__(self) -> None:
        check_fields(self)
        match self.value_range:
            case str():
                pass
            case [int() | float() as low, int() | float() as high] if low < high and math.isfinite(high - low):
                pass
            case _:
                raise ParameterError(
                    f'value_range is {self.value_range}; it must be "auto" or two numbers, that of black and that of white, '
                    "the smaller one first: [0, 4095], say"
                )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Reading":
        """Those among the settings of a recipe, or in what model.pth says; defaults for those that are not there."""
        return cls(**{name: values[name] for name in Reading.__annotations__ if name in values})

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The values that are black and white; None for those of each file's type."""
        return None if isinstance(self.value_range, str) else (self.value_range[0], self.value_range[1])


AS_USUAL = Reading()
