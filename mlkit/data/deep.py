"""Files deeper than 8 bits: their values as numpy has them, whatever Pillow makes of them, and as uint8."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from mlkit.data.levels import full_range
from mlkit.data.reading import Reading

_BITS, _PHOTOMETRIC, _PLANAR, _FORMAT = 258, 262, 284, 339  # tags of TIFF
_NATIVE = "L" if sys.byteorder == "little" else "B"


@dataclass(frozen=True)
class Deep:
    """What a file deeper than 8 bits holds.

    Attributes:
        values: (height, width) or (height, width, 3), as the file has them.
        kind: their type: uint16, int16, float32 ...; uint12 where the file says so.
        alpha: uint8 (height, width), or None.
        inverted: whether the smallest value is white.
    """

    values: np.ndarray
    kind: str
    alpha: np.ndarray | None = None
    inverted: bool = False

    def scaled(self, reading: Reading) -> np.ndarray:
        """Values as uint8: those of the range on 0..255, those outside of it cut off; what is no number is black."""
        low, high = reading.bounds or full_range(self.kind)
        values = self.values.astype(np.float64)
        with np.errstate(over="ignore"):
            levels = np.round((values - low) * (255 / (high - low))).clip(0, 255)
        if self.inverted:
            levels = 255 - levels
        return np.where(np.isfinite(values), levels, 0).astype(np.uint8)

    def image(self, scaled: np.ndarray) -> Image.Image:
        """Grey or RGB of the scaled values, with alpha where there is one."""
        image = Image.fromarray(scaled)
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        return image


def deep_values(image: ImageFile.ImageFile, reopen: Callable[[], ImageFile.ImageFile]) -> Deep | None:
    """The values of an opened image that is deeper than 8 bits; None for any other.

    Pillow reads colours of 16 bits by halves: `reopen` opens the file again, for the other half.
    """
    tags: Any = getattr(image, "tag_v2", {})
    bits, signed = tags.get(_BITS, (8,))[0], tags.get(_FORMAT, (1,))[0] == 2
    if image.mode in ("RGB", "RGBA") and (bits == 16 or _rawmode(image).endswith(";16B")):
        return _colours(image, reopen)
    if not (image.mode.startswith(("I", "F")) or (signed and image.mode == "L")):
        return None
    inverted = tags.get(_PHOTOMETRIC) == 0
    if image.tile and image.tile[0][0] == "libtiff":  # gives the machine's order of bytes, where Pillow expects the file's
        _read_as(image, lambda name: re.sub(r"(\d+)[BN]?([SF])$", r"\1N\2", name))
    values = np.asarray(image)
    if image.mode == "L":
        values = values.view(np.int8)
    elif image.format == "FITS" and image.mode == "I;16":
        values = values.view(np.int16)
    elif image.mode == "I" and (bits == 16 or image.format == "PPM"):
        values = values.astype(np.int16 if signed else np.uint16)
    elif image.mode == "I" and tags and not signed:
        values = values.view(np.uint32)
    kind = values.dtype.name if not tags else f"{values.dtype.name.rstrip('0123456789')}{bits}"  # numpy has no 12 bits
    alpha = None
    if (key := image.info.get("transparency")) is not None:
        alpha = np.where(values == key, 0, 255).astype(np.uint8)
    return Deep(values, kind, alpha, inverted)


def _colours(image: ImageFile.ImageFile, reopen: Callable[[], ImageFile.ImageFile]) -> Deep | None:
    """RGB of 16 bits, or grey with alpha: Pillow keeps the high bytes; read as of the other byte order, the low ones."""
    rawmode = _rawmode(image)
    if rawmode.startswith("RGBa"):  # premultiplied: the low bytes alone mean nothing
        return None
    if rawmode == "LA;16B":
        _read_as(image, lambda _: "RGBA")
        both = np.asarray(image).astype(np.uint16)
        return Deep(both[..., 0] << 8 | both[..., 1], "uint16", both[..., 2].astype(np.uint8))
    tags: Any = getattr(image, "tag_v2", {})
    order = _NATIVE
    if tags.get(_PLANAR) == 2:
        if image.tile[0][0] == "libtiff":
            raise OSError("a compressed TIFF of 16 bits whose colours stand apart; write it with PlanarConfiguration 1")
        order = "L" if tags.prefix == b"II" else "B"
        _read_as(image, lambda band: f"{band};16{order}")
    other = {"L": "B", "B": "L", "N": "B" if _NATIVE == "L" else "L"}
    with reopen() as low:
        if tags.get(_PLANAR) == 2:
            _read_as(low, lambda band: f"{band};16{other[order]}")
        else:
            _read_as(low, lambda name: name[:-1] + other[name[-1]])
        high = np.asarray(image)
        values = high.astype(np.uint16) << 8 | np.asarray(low)
    alpha = high[..., 3] if image.mode == "RGBA" else None
    values = values[..., :3]
    if (key := image.info.get("transparency")) is not None:
        alpha = np.where((values == key).all(axis=2), 0, 255).astype(np.uint8)
    return Deep(values, "uint16", alpha)


def _rawmode(image: ImageFile.ImageFile) -> str:
    """How Pillow's decoder will take the file's pixels."""
    arguments: Any = image.tile[0][3] if image.tile else ""
    return str(arguments if isinstance(arguments, str) else (arguments or ("",))[0])


def _read_as(image: ImageFile.ImageFile, rename: Callable[[str], str]) -> None:
    """Have the decoder take the file's pixels in another way."""
    tiles = []
    for tile in image.tile:
        arguments: Any = tile[3]
        new = rename(arguments) if isinstance(arguments, str) else (rename(arguments[0]), *arguments[1:])
        tiles.append(tile._replace(args=new))
    image.tile = tiles
