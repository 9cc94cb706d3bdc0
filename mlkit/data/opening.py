"""A file's bytes -> the opened image that is meant: which page, which channels, and what is too large or of no use."""

import importlib.metadata
import itertools
import re
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from mlkit.data.reading import Reading

_SUBFILE, _BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 254, 258, 262, 277, 338, 339  # tags of TIFF
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}  # photometric interpretation -> channels of colour; all others have one
_ALPHA = (1, 2, 999)  # meanings of an extra channel; the last is CorelDRAW's
_REDUCED, _MASK = 1, 4  # bits of a page's kind
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_SCANS, _MOST_PAGES = 100, 10_000  # of a JPEG (as libtiff has it), of a TIFF: a file of a megabyte could take hours
_MARKER = re.compile(rb"\xff([^\0\x01\xff\xd0-\xd7])")  # of a JPEG; the others stand within its scans
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands

# What Pillow can read of TIFF, but does not look for: doubles, some whole numbers, deep files whose smallest value is white.
_KNOWN = TiffImagePlugin.OPEN_INFO
_KNOWN.setdefault((b"II", 1, (3,), 1, (64,), ()), ("F", "F;64F"))
_KNOWN.setdefault((b"MM", 1, (3,), 1, (64,), ()), ("F", "F;64BF"))
_KNOWN.setdefault((b"MM", 1, (1,), 1, (32,), ()), ("I", "I;32BS"))
for (_order, _zero, *_rest), _modes in list(_KNOWN.items()):
    if _zero == 1 and (_rest[0] != (1,) or _rest[2] in ((12,), (16,), (32,))):
        _KNOWN.setdefault((_order, 0, *_rest), _modes)  # type: ignore[arg-type]

try:
    HEIF = importlib.metadata.version("pillow-heif")
except importlib.metadata.PackageNotFoundError:
    HEIF = ""


class Refused(Exception):
    """A file that is not read; the text says why, and what to do."""


@dataclass(frozen=True)
class Opened:
    """An image that is not decoded yet.

    Attributes:
        image: of a TIFF its largest page, else the first frame.
        several: whether there are more pages or frames.
        opaque: whether what Pillow takes for alpha is another channel, to be ignored.
    """

    image: ImageFile.ImageFile
    several: bool
    opaque: bool


def open_image(data: bytes, reading: Reading) -> Opened:
    """Open the image that a file's bytes hold. Raises Refused if it is too large, or none that is read."""
    if Image.MAX_IMAGE_PIXELS is not None and reading.max_pixels > max(Reading.max_pixels, 2 * Image.MAX_IMAGE_PIXELS):
        Image.MAX_IMAGE_PIXELS = -(-reading.max_pixels // 2)  # Pillow's own limit is twice that
    if HEIF and is_heif(data):
        import pillow_heif

        pillow_heif.register_heif_opener()
    try:
        image = Image.open(BytesIO(data))
        if image.format == "EPS":  # a program, which Pillow would have Ghostscript execute
            raise UnidentifiedImageError
        if image.info.get("progressive") and _scans(data) > _MOST_SCANS:
            raise Refused(f"a JPEG of more than {_MOST_SCANS} scans, which no program writes to be seen; save it again")
        several = bool(getattr(image, "is_animated", False))
        if several and isinstance(image, TiffImagePlugin.TiffImageFile):
            largest = _largest_page(image)
            image = Image.open(BytesIO(data))  # again: a page that is not read may have been the last that was looked at
            image.seek(largest)
        if image.width * image.height > reading.max_pixels:
            raise Image.DecompressionBombError
    except UnidentifiedImageError:
        raise Refused(_named(data)) from None
    except Image.DecompressionBombError:
        raise Refused(
            f"more than {reading.max_pixels:,} pixels, a decompression bomb perhaps; if it is none, raise max_pixels"
        ) from None
    return Opened(image, several, _extra_channels(image, data, reading))


def is_heif(data: bytes) -> bool:
    """Whether a file that begins so is a HEIC picture."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF


def _scans(data: bytes) -> int:
    """How often a JPEG goes over its pixels; what follows its end, a film perhaps, does not count."""
    at = scans = 0
    while (marker := _MARKER.search(data, at)) and marker[1] != b"\xd9":
        length = 0 if marker[1] == b"\xd8" else int.from_bytes(data[marker.end() : marker.end() + 2])
        at, scans = marker.end() + length, scans + (marker[1] == b"\xda")
    return scans


def _largest_page(image: TiffImagePlugin.TiffImageFile) -> int:
    """Number of the page of the most pixels; masks of other pages do not count."""
    areas: list[int] = []
    for page in itertools.count():  # image.n_frames fails where one page is of a kind that is not read
        try:
            image.seek(page)
        except EOFError:
            break
        except SyntaxError:
            pass
        if page == _MOST_PAGES:
            raise Refused(f"a TIFF of more than {_MOST_PAGES:,} pages; write the one that is meant alone")
        tags = image.tag_v2
        areas.append(0 if tags.get(_SUBFILE, 0) & _MASK else tags.get(256, 0) * tags.get(257, 0))
    return areas.index(max(areas))


def _extra_channels(image: Image.Image, data: bytes, reading: Reading) -> bool:
    """Whether the image's alpha is none. Raises Refused for channels whose meaning nobody said, unless they are ignored."""
    alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if tags.get(_SUBFILE, 0) & _REDUCED:
            raise Refused("a small preview of a picture that is not read (a camera's raw file?); export it as JPEG or TIFF")
        said = sum(meaning in _ALPHA for meaning in tags.get(_EXTRA, ()))
        extra = tags.get(_SAMPLES, 1) - _COLOURS.get(tags.get(_PHOTOMETRIC, 0), 1) - said
        opaque = alpha and not said
    else:
        opaque = image.format == "JPEG2000" and alpha and b"cdef" not in data.partition(b"jp2c")[0]
        extra = int(opaque)
    if extra > 0 and reading.extra_channels == "error":
        raise Refused(
            f"{extra} channel{'s' if extra > 1 else ''} beside the colours, not said to be alpha (infrared perhaps); "
            "extra_channels: ignore reads the colours alone"
        )
    return opaque


def _named(data: bytes) -> str:
    """What a file is that Pillow does not know."""
    if is_heif(data) and not HEIF:
        return "a HEIC picture, which needs a package more: pip install pillow-heif"
    if data[:4] in _TIFF:
        with suppress(Exception):
            header = data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8]
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file = BytesIO(data)
            file.seek(tags.next)
            tags.load(file)
            kind = {1: "whole numbers", 2: "signed numbers", 3: "floating point"}[tags.get(_FORMAT, (1,))[0]]
            return (
                f"a TIFF of {tags.get(_SAMPLES, 1)} channels of {tags[_BITS][0]} bits ({kind}), which is not read; "
                "write it as grey of 8, 16 or 32 bits, or RGB of 8 or 16"
            )
    return "not an image in any known format"
