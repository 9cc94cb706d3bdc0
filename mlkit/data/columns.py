"""Which column of a label file names the image, and which are attributes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mlkit.data.tablefile import FORMATS, SEPARATORS, TableFile
from mlkit.data.values import normal
from mlkit.errors import LabelError, nearest
from mlkit.files import shown
from mlkit.progress import listed

# What a column is called, without white space, punctuation and case, that names the images where it is not the first.
_IMAGE = {
    *("image", "images", "imageid", "imagename", "imagepath", "imagefile", "imagefilename", "imageindex", "img", "imgid"),
    *("imgname", "imgpath", "file", "filename", "filepath", "path", "photo", "picture"),
}
_MOST = 5  # names in a note
NUMBERED = "Attr{}"  # the attributes of a file without a header


@dataclass(frozen=True)
class Columns:
    """Columns of a label file.

    Attributes:
        width: how many there are.
        image: position of the one that names the image.
        places: positions of the attributes.
        attributes: their names.
        notes: how they were found, where a person may not expect it.
    """

    width: int
    image: int
    places: list[int]
    attributes: list[str]
    notes: list[str]

    @classmethod
    def of(cls, file: TableFile, codes: Mapping[str, int], chosen: Sequence[str] = (), image_column: str = "") -> "Columns":
        """From the header of a file, and its first row for what a header leaves open.

        Args:
            file: the label file.
            codes: values that have a meaning, by which a file without a header is known.
            chosen: names or patterns of the attributes; "!" before one leaves it out; empty: all columns.
            image_column: name of the column that names the image; empty: the first, or one that is called like it.

        Raises:
            LabelError: if no column is an attribute, a name is missing or taken, or several columns may name the image.
        """
        line, first = next(iter(file), (0, []))
        names = file.header or ["image", *(NUMBERED.format(i) for i in range(1, len(first)))]
        if not file.header and not first:
            raise LabelError(f"{shown(file.path)} holds no rows; write one line per image, in {FORMATS}")
        where = file.where(file.line if file.header else line)
        if not file.header and not {normal(cell) for cell in first[1:]} & {*codes, "1", "0", "-1"} and len(first) > 2:
            raise LabelError(f"{where}: {first[1]!r}, {first[2]!r} ... are no values; a .txt has no header, write a .csv")
        index = len(names) > 1 and names[0] in ("", "Unnamed: 0") and bool(first) and first[0].strip().isdecimal()
        image = find_image_column(names, first, codes, image_column, int(index), where)
        rest = [i for i in range(int(index), len(names)) if i != image]
        places = [i for i in rest if is_chosen(names[i], chosen)]
        for pattern in (pattern.removeprefix("!") for pattern in chosen):
            if not any(names[i] == pattern or fnmatchcase(names[i], pattern) for i in rest):
                raise LabelError(f"{where}: attributes: no column is called {pattern!r}{nearest(pattern, names)}")
        if not places:
            raise LabelError(f"{where}: no attribute found in {list(names)}; {_mend(file, [*names, *first])}")
        if file.header:
            check_attributes([names[i] for i in places], where, codes, [i + 1 for i in places])
        notes = ["column 1 counts the rows and was passed over"] if index else []
        if image > index:
            notes.append(f"the images are named by column {image + 1}, {names[image]!r}")
        if left_out := [names[i] for i in sorted({*rest} - {*places})]:
            notes.append(f"left out, as `attributes` says: {listed(left_out, _MOST)}")
        if file.separator and file.separator != SEPARATORS[file.path.suffix.lower()]:
            notes.append(f"cells are separated by {file.separator!r}")
        return cls(len(names), image, places, [names[i] for i in places], notes)


def check_attributes(
    names: Sequence[str], where: str, codes: Mapping[str, int], columns: Sequence[int] | None = None
) -> None:
    """Raise LabelError, naming the place `where`, if names cannot be those of attributes."""
    if all(normal(name) in {*codes, "1", "0", "-1", "true", "false"} and (name or len(names) > 1) for name in names):
        raise LabelError(f"{where}: this looks like labels, not like a header; add a first line image,attribute,...")
    taken: dict[str, int] = {}
    for column, name in zip(columns or range(2, len(names) + 2), names, strict=True):
        if not name.strip():
            end = " (a separator too many at the end of the line?)" if column > len(names) else ""
            raise LabelError(f"{where}: column {column} has no name{end}; give it one, or take it away")
        if name != " ".join(name.split()):
            raise LabelError(f"{where}: attribute name {name!r} has white space that would be lost; rename it")
        if name == "image":  # the index of every table, whatever it is called in the file
            raise LabelError(
                f"{where}: attribute name 'image' is that of the first column in every table; rename the attribute"
            )
        if name in taken:
            raise LabelError(f"{where}: columns {taken[name]} and {column} are both called {name!r}; rename one")
        taken[name] = column


def find_image_column(
    names: Sequence[str], first: Sequence[str], codes: Mapping[str, int], asked: str, start: int, where: str
) -> int:
    """Position of the column that names the image; `start`: of the first that may."""
    if asked:
        if asked not in names:
            raise LabelError(f"{where}: image_column: no column is called {asked!r}{nearest(asked, names)}")
        return list(names).index(asked)
    called = [
        i for i, name in enumerate(names) if plain(name) in _IMAGE and not (i < len(first) and normal(first[i]) in codes)
    ]
    if start in called or not called:
        return start
    if len(called) > 1:
        several = " and ".join(f"{i + 1} ({names[i]!r})" for i in called)
        raise LabelError(f"{where}: columns {several} may each name the image; say which with image_column")
    return called[0]


def plain(name: str) -> str:
    """A column's name without case, white space and punctuation."""
    return re.sub(r"[\W_]", "", name.lower())


def is_chosen(name: str, chosen: Sequence[str]) -> bool:
    """Whether a name is among those asked for, names or patterns; "!" before one leaves it out."""

    def is_in(patterns: Sequence[str]) -> bool:
        return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)

    into = [pattern for pattern in chosen if not pattern.startswith("!")]
    return (not into or is_in(into)) and not is_in([pattern[1:] for pattern in chosen if pattern.startswith("!")])


def _mend(file: TableFile, cells: Sequence[str]) -> str:
    seems = f"{seems}; " if (seems := file.seems(cells)) else ""
    if seems and file.path.suffix.lower() == ".txt":
        return f"{seems}a .txt has white space between its cells and no header; name this one .csv"
    return f"{seems}write the image, then one value per attribute"
