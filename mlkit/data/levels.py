"""What becomes of the values of files deeper than 8 bits, and whether one range will do for all files of a data set.

The range is one for all: where each file had its own, the same value would be another grey in every file.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mlkit.data.reading import Reading
from mlkit.errors import ImageError


@dataclass(frozen=True)
class Levels:
    """What became of the values of a file deeper than 8 bits.

    Attributes:
        kind: of its values, as numpy calls it; uint12 where the file says so.
        low, high: smallest and largest value, infinite ones aside.
        levels: different pixel values that its own range, from low to high, would give.
        kept: those that there are.
    """

    kind: str
    low: float
    high: float
    levels: int
    kept: int

    @classmethod
    def of(cls, values: np.ndarray, kind: str, pixels: np.ndarray) -> "Levels":
        """Those of a file's values, and of the uint8 values that they came to."""
        values = values[np.isfinite(values)]
        if not values.size:
            return cls(kind, 0.0, 0.0, 0, 0)
        low, high = float(values.min()), float(values.max())
        own = (values.astype(np.float64) - low) * (255 / ((high - low) or 1))
        return cls(kind, low, high, _different(np.round(own).astype(np.uint8)), _different(pixels))

    def keeps_less(self, part: int) -> bool:
        """Whether less than one in `part` of the levels is left, or no difference at all."""
        return part * self.kept < self.levels or self.kept < min(self.levels, 2)

    def beyond(self, reading: Reading) -> bool:
        """Whether values lie outside of the range, and were cut off."""
        low, high = reading.bounds or full_range(self.kind)
        return self.low < low or self.high > high


def _different(pixels: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(pixels.ravel(), minlength=256)))


def full_range(kind: str) -> tuple[float, float]:
    """What a type can hold; 0 to 1 for floats."""
    name, bits = re.fullmatch(r"([a-z]+)(\d+)", kind).groups()  # type: ignore[union-attr]
    half = 2 ** (int(bits) - 1)
    return {"uint": (0, 2 * half - 1), "int": (-half, half - 1), "float": (0, 1)}[name]


def check_range(found: Collection[Levels], reading: Reading, where: str) -> None:
    """See whether the range of the type will do for all files of a data set that are deeper than 8 bits.

    Args:
        found: of these files.
        reading: how they were read.
        where: they lie.

    Raises:
        ImageError: where floats lie outside of 0 to 1, or most files would lose more than half of their levels. Names the
            range that was found, ready to be a setting.
    """
    for kind, files in [] if reading.bounds else _by_kind(found):
        beyond, poor = sum(file.beyond(reading) for file in files), sum(file.keeps_less(2) for file in files)
        if not beyond and 2 * poor <= sum(file.levels > 1 for file in files):
            continue
        lowest, highest = low, high = min(file.low for file in files), max(file.high for file in files)
        if kind.startswith("uint"):  # whole bits, as cameras and scanners have them
            low, high = 0, 2 ** int(high).bit_length() - 1
        poorly = f"{poor:,} would keep fewer than half of their grey levels"
        raise ImageError(
            f"{where}: values of {_counted(files)} lie from {_text(lowest)} to {_text(highest)}; "
            f"{f'{beyond:,} reach beyond 0 to 1' if beyond else poorly}; say which value is black and which is white: "
            f"value_range: [{_text(low)}, {_text(high)}]"
        )


def range_notes(found: Collection[Levels], reading: Reading) -> list[str]:
    """What a person should know of files deeper than 8 bits that were read, a line each."""
    notes = []
    for kind, files in _by_kind(found):
        low, high = reading.bounds or full_range(kind)
        taken = f"value_range {_text(low)} to {_text(high)}"
        if beyond := sum(file.beyond(reading) for file in files):
            notes.append(f"{taken}: of {_counted(files)}, {beyond:,} hold values outside, which are cut off")
        if poor := sum(file.keeps_less(4) for file in files):  # a flat picture may well keep half
            notes.append(f"{taken}: of {_counted(files)}, {poor:,} keep less than a quarter of their grey levels")
    return notes


def _by_kind(found: Collection[Levels]) -> list[tuple[str, list[Levels]]]:
    return [(kind, [file for file in found if file.kind == kind]) for kind in sorted({file.kind for file in found})]


def _counted(files: Sequence[Levels]) -> str:
    return f"{len(files):,} {files[0].kind} image{'s' if len(files) > 1 else ''}"


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(np.float32(value))
