"""What of a folder is a picture: the one list of it."""

import os
from functools import cache
from pathlib import Path

from PIL import Image

from mlkit.data.opening import is_heif

_NO_PICTURES = ("EPS", "MPEG", "HDF5", "GRIB", "BUFR", "WMF")  # which Pillow has names for, and does not decode


def list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures below a folder, sorted, and what is passed over: hidden files and folders, and what is no picture.

    A file that is called like a picture is one, broken or not.
    """
    pictures: list[Path] = []
    others: list[Path] = []
    for place, folders, files in os.walk(folder):
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = [name for name in folders if name not in hidden]
        others += [Path(place, name) for name in hidden]
        for path in (Path(place, name) for name in files):
            (pictures if _is_picture(path) else others).append(path)
    return sorted(pictures), sorted(others)


def _is_picture(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.lower() in _suffixes():
        return True
    try:
        with open(path, "rb") as file:
            if is_heif(file.read(16)):
                return True
        with Image.open(path) as image:
            return image.format not in _NO_PICTURES
    except Exception:  # of whatever Pillow took it for
        return False


@cache
def _suffixes() -> frozenset[str]:
    """What pictures are called; whatever has another name is one by its content."""
    known = Image.registered_extensions().items()
    return frozenset(
        {".heic", ".heif", ".hif"} | {end for end, name in known if name in Image.OPEN and name not in _NO_PICTURES}
    )
