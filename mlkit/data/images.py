"""One image file -> one RGB uint8 array, whatever the file is. The only place that decodes, and the only geometry.

Training and inference both call `decode_image`, so that the same file gives the same pixels to both.
"""

import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import numpy as np
import PIL
from PIL import ExifTags, Image

from mlkit.data.colour import to_srgb
from mlkit.data.deep import deep_values
from mlkit.data.levels import Levels, full_range, range_notes
from mlkit.data.opening import HEIF, Refused, open_image
from mlkit.data.png import SIGNATURE, without_ancillary
from mlkit.data.reading import AS_USUAL, Reading
from mlkit.data.remote import read
from mlkit.errors import ImageError
from mlkit.files import address, resolve, shown

# Part of every cache key: a new number here, or another Pillow, decodes everything again.
DECODER = f"pillow-{PIL.__version__}-4" + f"-heif-{HEIF}" * bool(HEIF)
# Pillow warns of odd metadata and of large images, file by file; what matters here is an ImageError. Once for the process,
# because a filter set around each image is not safe among the threads that decode.
_LARGEST = 2 << 30  # bytes of a file; 178 million pixels of 16 bits a colour take half of it
warnings.filterwarnings("ignore", module=r"PIL\.")

_UPRIGHT = {  # EXIF orientation -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Decoded:
    """What a file comes to.

    Attributes:
        pixels: uint8 (height, width, 3).
        levels: of a file deeper than 8 bits, else None.
        several: whether it has pages or frames beside the one that was read.
    """

    pixels: np.ndarray
    levels: Levels | None
    several: bool


def load_image(path: str | Path, size: int | None = None, reading: Reading = AS_USUAL) -> np.ndarray:
    """Decode an image file, alone.

    Transparency is composed on white, EXIF orientation is applied, grey, palette and CMYK images become RGB, colours of an
    embedded profile sRGB. See `Reading` for files deeper than 8 bits, or with other channels.

    Args:
        path: the file; its suffix does not matter, its content does.
        size: side in pixels of the square that the image is resized to (the aspect ratio is not kept, as torchvision's
            `Resize((size, size))` does); None keeps the size.
        reading: settings of the data set, or of the model that is asked.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        ImageError: naming the file and the reason.
    """
    return read_image(path, size, reading).pixels


def read_image(path: str | Path, size: int | None = None, reading: Reading = AS_USUAL) -> Decoded:
    """The same as `load_image`, and what is to be known of the file."""
    decoded = decode_image(read_bytes(path), path, size, reading)
    levels = decoded.levels
    if levels and reading.bounds is None and levels.beyond(reading):
        low, high = full_range(levels.kind)
        raise ImageError(
            f"{shown(path)}: {levels.kind} values from {levels.low:g} to {levels.high:g}, beyond {low} to {high}; say which "
            "value is black and which is white when the model is trained: value_range"
        )
    return decoded


def notes(decoded: Mapping[str, tuple[Levels | None, bool]], reading: Reading) -> list[str]:
    """What a person should know of how files were read, a line each: `decoded` has the levels, and whether several."""
    lines = range_notes([levels for levels, _ in decoded.values() if levels], reading)
    if several := [name for name, (_, several) in decoded.items() if several]:
        rest = f" and {len(several) - 1:,} more" if len(several) > 1 else ""
        lines.append(f"of several pages, the largest is read, of several frames the first: {several[0]}{rest}")
    return lines


def read_bytes(path: str | Path) -> bytes:
    """Read a file whole. Raises ImageError if it cannot be read or is empty."""
    try:
        if address(path):
            return _not_empty(read(Path(path), _LARGEST), path)
        state = os.stat(path)
        if not S_ISREG(state.st_mode) and not S_ISDIR(state.st_mode):  # would be waited for, or never end
            raise ImageError(f"{shown(path)}: no file, but a pipe or a device")
        if state.st_size > _LARGEST:
            raise ImageError(f"{shown(path)}: {state.st_size:,} bytes, no picture is larger than {_LARGEST:,}")
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{address(path) or resolve(path)}: no such file") from None
    except OSError as error:
        raise ImageError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    return _not_empty(data, path)


def _not_empty(data: bytes, path: str | Path) -> bytes:
    if not data:
        raise ImageError(f"{shown(path)}: the file is empty (0 bytes)")
    return data


def digest_content(content: bytes) -> str:
    """Digest of an image file by its bytes: equal digests are equal files."""
    return hashlib.sha256(content).hexdigest()[:32]  # the fastest where the CPU has instructions for it


def decode_image(data: bytes, path: str | Path, size: int | None = None, reading: Reading = AS_USUAL) -> Decoded:
    """Decode the bytes of the file `path`; arguments and errors as for `load_image`."""
    try:
        try:
            return _decode(data, size, reading)
        except Exception:
            if not data.startswith(SIGNATURE):
                raise
        plain, profile = without_ancillary(data)
        return _decode(plain, size, reading, profile)
    except Refused as error:
        raise ImageError(f"{shown(path)}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # a broken file makes Pillow's many decoders raise whatever they stumbled over
        raise ImageError(f"{shown(path)}: cannot be decoded ({str(error) or type(error).__name__})") from None


def _decode(data: bytes, size: int | None, reading: Reading, profile: bytes = b"") -> Decoded:
    opened, levels = open_image(data, reading), None
    with opened.image as image:
        if size is not None:
            # Lets the JPEG decoder halve the image while it decodes, as long as it stays larger than asked: twice as
            # fast, and the pixels differ by less than 1 of 255 on average.
            image.draft(None, (size, size))
        profile = image.info.get("icc_profile") or profile
        if deep := deep_values(image, lambda: open_image(data, reading).image):
            levels = Levels.of(deep.values, deep.kind, scaled := deep.scaled(reading))
        image.load()
        upright = _UPRIGHT.get(_orientation(image))
        flat = _flat(deep.image(scaled) if deep else image, opened.opaque)
    if upright is not None:
        flat = flat.transpose(upright)
    if flat.mode not in ("L", "RGB"):  # inks multiply: what is resized must be what is seen
        flat, profile = to_srgb(flat, profile), b""
    if size is not None and flat.size != (size, size):
        flat = flat.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return Decoded(np.asarray(to_srgb(flat, profile)), levels, opened.several)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation. Pillow's `exif_transpose` also rewrites the metadata, and fails where it is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata does not spoil the pixels
        return 1


def _flat(image: Image.Image, opaque: bool) -> Image.Image:
    """In mode L, RGB, CMYK or LAB: composed on white where it is transparent, unless its alpha is none."""
    if image.has_transparency_data and not opaque:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")
