"""One image file -> one RGB uint8 array, whatever the file is. The only place that decodes, and the only geometry.

Training and inference both call `load_image`, so that the same file gives the same pixels to both.
"""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
from PIL import ExifTags, Image, UnidentifiedImageError

from mlkit.errors import ImageError
from mlkit.files import resolve, shown

# Part of every cache key: a new number here, or another Pillow, decodes everything again.
DECODER = f"pillow-{PIL.__version__}-3"
MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb, said here so that the error can name it
# Pillow warns of odd metadata and of large images, file by file; what matters here is an ImageError. Once for the process,
# because a filter set around each image is not safe among the threads that decode.
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


def load_image(path: str | Path, size: int | None = None) -> np.ndarray:
    """Decode an image file.

    Transparency is composed on white, EXIF orientation is applied, grey, palette, CMYK and 16-bit images become RGB.

    Args:
        path: the file; its suffix does not matter, its content does.
        size: side in pixels of the square that the image is resized to (the aspect ratio is not kept, as torchvision's
            `Resize((size, size))` does); None keeps the size.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        ImageError: naming the file and the reason.
    """
    return decode_image(read_bytes(path), path, size)


def read_bytes(path: str | Path) -> bytes:
    """Read a file whole. Raises ImageError if it cannot be read or is empty."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{resolve(path)}: no such file") from None
    except OSError as error:
        raise ImageError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    if not data:
        raise ImageError(f"{shown(path)}: the file is empty (0 bytes)")
    return data


def decode_image(data: bytes, path: str | Path, size: int | None = None) -> np.ndarray:
    """Decode the bytes of the file `path`; arguments, result and errors as for `load_image`."""
    try:
        with Image.open(BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if image.format == "EPS":  # a program, which Pillow would have Ghostscript execute
                raise UnidentifiedImageError
            if size is not None:
                # Lets the JPEG decoder halve the image while it decodes, as long as it stays larger than asked: twice as
                # fast, and the pixels differ by less than 1 of 255 on average.
                image.draft("RGB", (size, size))
            rgb = _to_rgb(_upright(image))
    except Image.DecompressionBombError:
        raise ImageError(f"{shown(path)}: more than {MAX_PIXELS:,} pixels, a decompression bomb perhaps") from None
    except UnidentifiedImageError:
        raise ImageError(f"{shown(path)}: not an image in any known format") from None
    except MemoryError:
        raise
    except Exception as error:  # a broken file makes Pillow's many decoders raise whatever they stumbled over
        raise ImageError(f"{shown(path)}: cannot be decoded ({str(error) or type(error).__name__})") from None
    if size is not None and rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(rgb)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Pillow's `exif_transpose` also rewrites the metadata, and fails where it is damaged."""
    image.load()
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata does not spoil the pixels
        method = None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey values to 0..255; Pillow's own conversion clips them at 255.

    32-bit and float files do not say their range: it is taken to be the smallest usual one that holds the values.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
    tops = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}.get(image.mode, (65535.0,))
    top = next((top for top in tops if values.max() <= top), values.max())
    return Image.fromarray(np.clip(np.round(values * (255.0 / top)), 0, 255).astype(np.uint8))
