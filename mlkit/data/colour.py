"""Colours as a screen shows them: whatever profile a picture has, sRGB comes out."""

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

_SRGB = ImageCms.createProfile("sRGB")
_SAME = 3  # of 255: profiles that differ less from sRGB are sRGB, as one or the other maker has rounded it


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB of an image in mode L, RGB, CMYK or LAB, by its embedded ICC profile where there is one that fits.

    A damaged profile, or one of another colour space than the image's, does not count.
    """
    transform = _transform(profile or b"", image.mode) if profile or image.mode == "LAB" else None
    if transform is not None:
        return ImageCms.applyTransform(image, transform) or image
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What makes sRGB of such an image; None where it is that already."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        # without the memory of the last colour, which threads would share
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB", flags=ImageCms.Flags.NOCACHE)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "RGB":
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
        shown = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
        if np.abs(shown.astype(int) - colours).max() <= _SAME:
            return None
    return transform
