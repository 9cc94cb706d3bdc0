"""What is said: progress bars in a terminal and in JupyterLab, not in executed notebooks or log files; lines; lists."""

import os
import unicodedata
from collections.abc import Iterable
from typing import Any

from tqdm import auto

# Set to "off" by whoever executes notebooks headless: a bar would only leave clutter in the saved notebook.
SWITCH = "MLKIT_PROGRESS"


def bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A `tqdm.auto` bar over `items`, or one to update by hand (`total=...`). Other options as for tqdm."""
    off = os.environ.get(SWITCH) == "off"
    in_notebook = auto.tqdm.__mro__[1].__name__ == "tqdm_notebook"
    # None lets tqdm hide the bar when the output is no terminal; a kernel's output never is one, yet shows the bar.
    disable = True if off else (False if in_notebook else None)
    return auto.tqdm(items, disable=disable, dynamic_ncols=True, leave=False, **options)


def say(text: str) -> None:
    """Print a line without tearing a bar that is on the screen."""
    auto.tqdm.write(text)


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names in a line: "a, b, c", of many the first `most` "and 288 more"; "none" where there are none."""
    every = list(map(str, names))
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more or "none"


def shorten(name: str, width: int = 28) -> str:
    """A name of at most `width` columns (a Chinese character takes two): what is too long loses its middle."""
    widths = [columns_of(character) for character in name]
    if sum(widths) <= width:
        return name
    room = width - 1
    start, end = 0, len(name)
    while widths[start] <= room - room // 2 - sum(widths[:start]):
        start += 1
    while widths[end - 1] <= room // 2 - sum(widths[end:]):
        end -= 1
    return f"{name[:start]}…{name[end:]}"


def columns_of(text: str) -> int:
    """How wide a text is: a Chinese character takes two columns."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
