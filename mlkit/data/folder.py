"""What of a folder is a picture: the one list of it."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import Image

from mlkit.data import remote
from mlkit.data.opening import is_heif
from mlkit.files import address

_NO_PICTURES = ("EPS", "MPEG", "HDF5", "GRIB", "BUFR", "WMF")  # which Pillow has names for, and does not decode


def walk_images(folder: Path) -> Iterator[tuple[Path, bool]]:
    """What lies below a folder, sorted, and whether it is a picture; hidden folders are passed over whole.

    A file that is called like a picture is one, broken or not; elsewhere no other is. Links to folders are not followed.
    """
    if address(folder):
        yield from ((folder / name, Path(name).suffix.lower() in _suffixes()) for name in remote.names(folder))
        return
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith(".") or not path.is_dir():
            yield path, _is_picture(path)
        elif not path.is_symlink():
            yield from walk_images(path)


def is_folder(place: Path) -> bool:
    """Whether a place is a folder; what is elsewhere and called like a picture is none, and not asked for."""
    return remote.is_folder(place) if not address(place) or place.suffix.lower() not in _suffixes() else False


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
