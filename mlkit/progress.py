"""Progress bars for long work: in a terminal and in JupyterLab, not in executed notebooks or log files."""

import os
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
