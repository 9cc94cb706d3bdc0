"""Names of images in a label file, and the files that they mean."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
import pandas as pd
from PIL import Image

from mlkit.data import remote
from mlkit.data.folder import walk_images
from mlkit.errors import LabelError
from mlkit.files import address, shown

_ODD = re.compile(r"\A[./\s]|\A[A-Za-z]:|\A\Z|//|/\.|[/\s]\Z|[\\\0\r\n\ufeff]|\.\.|://")  # all other names are in order
_MOST = 5  # of what is wrong alike, so many are named


def image_name(cell: str) -> str:
    """Path of an image inside the images folder, in one form. Raises LabelError, without a place, if it is none."""
    if not _ODD.search(cell):
        return cell
    name = cell.replace("\ufeff", "").strip()  # joined files carry a byte order mark in the middle
    if "://" in name:
        raise LabelError(f"{name!r} is an address; name its folder as images, and write the path inside the images folder")
    path = PurePosixPath(name)
    if not name or not path.name:
        raise LabelError(f"no image name ({cell!r}); write the path inside the images folder")
    if path.is_absolute() or ".." in path.parts or re.search(r"\A[A-Za-z]:|[\\\0\r\n]", name):
        raise LabelError(
            f"{name!r} must be a path inside the images folder, with / between folders and without .., drive or line break"
        )
    return str(path)


def _without_zeros(name: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)


_WAYS: dict[str, tuple[Callable[[str], str], str]] = {  # how a name may differ from its file's: what is equal, for people
    "case": (str.casefold, "without regard to upper and lower case"),
    "zeros": (_without_zeros, "without leading zeros"),
    "unicode": (lambda name: unicodedata.normalize("NFC", name), "in another Unicode form"),
    "percent": (unquote, "with %20 and the like decoded"),
    "folder": (lambda name: name.rpartition("/")[2], "without their folders"),
}
MATCHES = ("exact", *_WAYS)


def find_files(folder: Path, names: Sequence[str], extension: str = "", match: str = "exact") -> list[str]:
    """The file that each name means; a name that has a file, or means none or several, stays as it is.

    Args:
        folder: of the images.
        names: as the label file has them.
        extension: of the files, where the names have none or another: ".jpg".
        match: one of `MATCHES`.

    Raises:
        LabelError: if two names mean one file.
    """
    lost = _without_file(folder, names) if extension or match != "exact" else []
    if not lost:
        return list(names)
    same = _WAYS[match][0] if match in _WAYS else str
    files = _by(same, _files(folder))
    found = {name: files.get(same(_with(name, extension))) or name for name in lost}
    result = [found.get(name, name) for name in names]
    if len(set(result)) < len(result):
        file = Counter(result).most_common(1)[0][0]
        both = " and ".join(repr(name) for name, meant in zip(names, result, strict=True) if meant == file)
        raise LabelError(f"{both} both mean the file {file!r}; keep one row, or write the names as those of the files")
    return result


def refuse_links(folder: Path, names: Sequence[str]) -> None:
    """Raise LabelError if an image is a link, or lies in a linked folder, that leads out of the images folder."""
    root = folder.resolve()
    inside = {"": True}  # folder within -> whether it is no link

    def is_plain(path: str) -> bool:
        if path not in inside:
            parent = path.rpartition("/")[0]
            inside[path] = is_plain(parent) and not os.path.islink(os.path.join(folder, path))
        return inside[path]

    for name in names:
        file = os.path.join(folder, name)
        if os.path.islink(file) or not is_plain(name.rpartition("/")[0]):
            target = Path(os.path.realpath(file))
            if not target.is_relative_to(root):
                raise LabelError(
                    f"{name} is a link that leads out of the images folder, to {target}; if that is meant, say links: true"
                )


def _mends(folder: Path, lost: Sequence[str]) -> str:
    """Settings that would find files for names that have none, with how many each would, for people; empty: none."""
    files = _files(folder) if lost else []
    counts = {
        f"with {end} at the end (extension: {end})": sum(_with(name, end) in known for name in lost)
        for known in [set(files)]
        for end in sorted({PurePosixPath(file).suffix for file in files} - {""})
    }
    for way, (same, meaning) in _WAYS.items():
        known_by = _by(same, files)
        counts[f"{meaning} (match: {way})"] = sum(bool(known_by.get(same(name))) for name in lost)
    best = sorted((how for how in counts if counts[how]), key=lambda how: -counts[how])[:3]
    told = [f"{counts[how]:,} match {how}" for how in best]
    return f"of {len(lost):,} names without a file, {', '.join(told)}" if told else ""


def compare(folder: Path, names: Sequence[str]) -> tuple[list[str], list[str], str]:
    """Names that have no file, pictures that have no name, and settings that would find files for the names, for people."""
    if not remote.list_anew(folder):
        raise LabelError(f"{address(folder) or folder}: no such images folder; check the path")
    known, lost = set(names), _without_file(folder, names)
    pictures = [path.relative_to(folder).as_posix() for path, is_picture in walk_images(folder) if is_picture]
    return lost, [name for name in pictures if name not in known], _mends(folder, lost)


def exclude_images(
    labels: pd.DataFrame,
    problems: Mapping[str, str],
    strict: bool = False,
    folder: Path | None = None,
    lines: np.ndarray | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take out the rows whose image is missing or broken, and report them.

    Args:
        labels: the label table.
        problems: image -> reason, for those that cannot be used.
        strict: make any problem an error.
        folder: of the images, for the error.
        lines: line of each image in the label file, int (images,).

    Returns:
        The usable rows, and a report with the columns image, line (0 where it is not known) and problem;
        `attrs["mend"]` of the report names settings that would find missing files.

    Raises:
        LabelError: if `strict` and something is wrong, or if no row is left.
    """
    bad = labels.index.isin(list(problems))
    images = list(labels.index[bad])
    where = np.zeros(len(images), int) if lines is None else lines[bad]
    report = pd.DataFrame({"image": images, "line": where, "problem": [problems[image] for image in images]})
    report.attrs["mend"] = _mends(folder, _without_file(folder, images)) if folder else ""
    if not images or not (strict or bad.all()):
        return labels[~bad], report
    named = "; ".join(f"line {row.line}: {row.image}: {row.problem}" for row in report.head(_MOST).itertuples())
    named += f"; and {len(images) - _MOST} more" if len(images) > _MOST else ""
    source = labels.attrs.get("source")
    file = shown(source) if source else "the label table"
    mend = report.attrs["mend"]
    if bad.all():
        mend = mend or f"is the images folder right{f', {address(folder) or folder}' if folder else ''}?"
        raise LabelError(f"{file}: none of its {len(labels)} images can be used ({named}); {mend}")
    mend = mend or "mend them, or set strict off"
    raise LabelError(f"{file}: {len(images)} of {len(labels)} images cannot be used ({named}); {mend}")


def _without_file(folder: Path, names: Sequence[str]) -> list[str]:
    if address(folder):
        return list(remote.states(folder, names)[1])
    return [name for name in names if not os.path.isfile(os.path.join(folder, name))]


def _files(folder: Path) -> list[str]:
    """Paths of all files in a folder, from it, but those that are hidden."""
    if address(folder):
        return remote.names(folder)
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(where).relative_to(folder).as_posix()
        found += [file if inside == "." else f"{inside}/{file}" for file in files if not file.startswith(".")]
    return found


def _by(same: Callable[[str], str], files: Sequence[str]) -> dict[str, str]:
    """Files by what is equal in a name and its file; what several share is none's, since choosing one would be a guess."""
    keys = [same(file) for file in files]
    shared = {key for key, count in Counter(keys).items() if count > 1}
    return {key: file for key, file in zip(keys, files, strict=True) if key not in shared}


def _with(name: str, extension: str) -> str:
    """A name with another extension, or with one; dots that begin no known extension belong to the name."""
    if not extension:
        return name
    path = PurePosixPath(name)
    known = path.suffix.lower() in Image.registered_extensions()
    return str(path.with_suffix(extension)) if known else name + extension
