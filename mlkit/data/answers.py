"""Answers of people to single cells: appended to a file of their own, and merged with the labels when these are read.

The label file is never changed. The newest answer of a person to a cell is that person's vote; the most votes win, and where
they tie, people disagree: the cell is unknown, and open again.
"""

import csv
import getpass
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from filelock import FileLock

from mlkit.data.images import digest_content, read_bytes
from mlkit.data.labels import from_codes, to_codes
from mlkit.data.values import NO, UNKNOWN, YES
from mlkit.errors import ImageError, LabelError, WriteError
from mlkit.files import as_written, defused, make_folder, reason, resolve, shown

CODES = {"yes": YES, "no": NO, "unclear": UNKNOWN}  # votes; unclear: for good, the cell is not asked again
SKIP, UNDO = "skip", "undo"  # asked again later; takes back the same person's last answer to the cell
WORDS = {code: word for word, code in CODES.items() if word != "unclear"} | {UNKNOWN: "NA"}


def me() -> str:
    """Who answers: MLKIT_WHO, or the name of the account."""
    try:
        return os.environ.get("MLKIT_WHO") or getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in containers
        return str(os.getuid()) if hasattr(os, "getuid") else "somebody"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Answer:
    """A line of the file.

    Attributes:
        image, attribute: the cell.
        answer: a word of `CODES`, or `SKIP` or `UNDO`.
        before: what the labels said, with the answers until then: yes, no, NA.
        who, when: the person; the time in UTC.
        seconds: from the question to the answer.
        order: in which cells were asked, see `curation.orders`.
        run: whose model chose the cell.
        probability: of yes, as the model gave it; NaN: none was asked.
        digest: of the image file, so that an answer is of that picture, whatever comes to have its name.
    """

    image: str
    attribute: str
    answer: str
    before: str = "NA"
    who: str = field(default_factory=me)
    when: str = field(default_factory=_now)
    seconds: float = float("nan")
    order: str = ""
    run: str = ""
    probability: float = float("nan")
    digest: str = ""


COLUMNS = [column.name for column in fields(Answer)]


class AnswerFile:
    """A file of answers, one a line; any number of people and processes append to it, and none changes what is there."""

    def __init__(self, path: str | Path) -> None:
        self.path = resolve(path)

    def __str__(self) -> str:
        return shown(self.path)

    @property
    def size(self) -> int:
        """Bytes; 0 where there is no file yet."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, answers: Sequence[Answer]) -> None:
        """Write answers, and wait until they are on the disk.

        Raises:
            WriteError: if they are not.
        """
        lines = defused(pd.DataFrame(map(asdict, answers))).to_csv(None, header=False, index=False, lineterminator="\n")
        make_folder(self.path.parent)
        try:
            # where two machines append to a file in a shared folder, each would write at the end that it knows
            with FileLock(self.path.with_name(f".{self.path.name}.lock")), self.path.open("a+b", buffering=0) as file:
                file.write((self._beginning(file) + lines).encode())
                os.fsync(file.fileno())
        except NotImplementedError:  # of filelock
            raise WriteError(f"{shown(self.path)}: its file system locks no files; name another place for answers") from None
        except OSError as error:
            raise WriteError(f"{shown(self.path)}: the answer was not kept ({reason(error)})") from error

    def read(self) -> pd.DataFrame:
        """All lines, in the order in which they were written; none where there is no file yet.

        A line that a power cut left incomplete is left out, and named in `attrs["notes"]`.

        Raises:
            LabelError: if it is no file of answers.
        """
        rows, damaged = [], []
        for line, row in self._rows():
            if len(row) == len(COLUMNS) and row[2] in (*CODES, SKIP, UNDO):
                rows.append(row)
            else:
                damaged.append(line)
        table = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
        for name in ("seconds", "probability"):
            table[name] = pd.to_numeric(table[name], errors="coerce")
        lines = f"line{'s' * (len(damaged) > 1)} {', '.join(map(str, damaged[:5]))}{' ...' * (len(damaged) > 5)}"
        table = as_written(table)
        table.attrs["notes"] = [f"{shown(self.path)}, {lines}: no whole answer, left out"] if damaged else []
        return table

    def _beginning(self, file: io.FileIO) -> str:
        """What must come before the next line: the header of a new file, the end of a line that was cut."""
        if not (size := file.seek(0, os.SEEK_END)):
            return ",".join(COLUMNS) + "\n"
        file.seek(size - 1)
        return "" if file.read(1) == b"\n" else "\n"

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        try:
            text = self.path.read_text(encoding="utf-8-sig", errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise LabelError(f"{shown(self.path)}: {error.strerror}; check the path") from None
        # line by line, so that a quote which a cut left open swallows nothing: no name of an image or attribute has a break
        lines = enumerate(text.replace("\r\n", "\n").split("\n"), 1)
        if next(csv.reader([next(lines, (1, ""))[1]]), []) != COLUMNS:
            raise LabelError(
                f"{shown(self.path)}, line 1: no file of answers; it must begin with {','.join(COLUMNS)}"
                " (where a spreadsheet saved it: save it with commas)"
            )
        for number, line in lines:
            if line.strip():
                yield number, next(csv.reader([line]), [])


def votes(answers: pd.DataFrame) -> pd.DataFrame:
    """What the answers to each cell come to.

    Args:
        answers: of `AnswerFile.read`, of whichever images.

    Returns:
        Index image, attribute; columns code (1, 0, -1), closed (answered, "unclear" included, and nobody disagrees), people
        (who voted), skips (whose last answer was to skip it), digest. Cells of which all was taken back are not listed.
    """
    said: dict[tuple[str, str], dict[str, list[str]]] = {}
    digests = {}
    for image, attribute, answer, who, digest in answers[["image", "attribute", "answer", "who", "digest"]].itertuples(
        index=False
    ):
        stack = said.setdefault((image, attribute), {}).setdefault(who, [])
        if answer != UNDO:
            stack.append(answer)
            digests[image, attribute] = digest
        elif stack:
            stack.pop()
    rows = {}
    for cell, people in said.items():
        last = [next((word for word in reversed(stack) if word != SKIP), None) for stack in people.values()]
        (word, most), (_, second) = [*Counter(word for word in last if word).most_common(2), ("", 0), ("", 0)][:2]
        skips = sum(stack[-1:] == [SKIP] for stack in people.values())
        closed = most > second
        if most or skips:
            code = CODES[word] if closed else UNKNOWN
            rows[cell] = (code, closed, sum(map(bool, last)), skips, digests[cell])
    index = pd.MultiIndex.from_tuples(rows, names=["image", "attribute"]) if rows else pd.MultiIndex.from_arrays([[], []])
    table = pd.DataFrame(list(rows.values()), index, columns=["code", "closed", "people", "skips", "digest"])
    return table.rename_axis(["image", "attribute"])


def digests_of(folder: Path, answers: pd.DataFrame) -> dict[str, str]:
    """Image -> digest of its file in a folder as it is now, of the images that were answered; empty where there is none."""

    def digest(image: str) -> str:
        try:
            return digest_content(read_bytes(folder / image))
        except ImageError:
            return ""

    return {image: digest(image) for image in answers.image.unique()}


def here(answers: pd.DataFrame, labels: pd.DataFrame) -> pd.Series:
    """Boolean, of each answer: the label table has its cell."""
    return answers.image.isin(labels.index) & answers.attribute.isin(labels.columns)


def same_picture(answers: pd.DataFrame, digests: "Mapping[str, str] | pd.Series") -> pd.Series:
    """Boolean, of each answer: its image is the file that was shown, by its digest; image -> digest of the file now."""
    return answers.image.map(dict(digests)) == answers.digest


def merge(labels: pd.DataFrame, answers: pd.DataFrame, digests: "Mapping[str, str] | pd.Series") -> pd.DataFrame:
    """A label table with what people answered, in cells that were unknown and in those that were not.

    Args:
        labels: the label table.
        answers: of `AnswerFile.read`.
        digests: image -> digest of its file; an answer to another picture of the same name does not count.

    Returns:
        A new table; `attrs["notes"]` says how many cells were filled and changed, and which answers were left out.
    """
    there, same = here(answers, labels), same_picture(answers, digests)
    table = _voted(answers[there & same])
    rows, columns = (index.get_indexer(table.index.get_level_values(i)) for i, index in enumerate(labels.axes))
    before = to_codes(labels)
    codes = before.copy()
    codes[rows, columns] = table.code
    merged = from_codes(codes, labels.index, labels.columns)
    filled, changed = int(((before < 0) & (codes >= 0)).sum()), int(((before >= 0) & (codes != before)).sum())
    notes = [f"answers of people: {filled} unknown cells filled, {changed} known cells changed"]
    if tied := len(table) - int(table.closed.sum()):
        notes.append(f"people disagree about {tied} cells, which are unknown")
    if other := len(_voted(answers[there & ~same])):
        notes.append(f"{other} answers left out: their images have been replaced by others")
    if gone := len(_voted(answers[~there])):
        notes.append(f"{gone} answers left out: of images or attributes that are not among these labels")
    merged.attrs = {**labels.attrs, "notes": [*labels.attrs.get("notes", []), *answers.attrs.get("notes", []), *notes]}
    return merged


def _voted(answers: pd.DataFrame) -> pd.DataFrame:
    """Those of `votes` that somebody gave, and did not only skip."""
    table = votes(answers)
    return table[table.people > 0]
