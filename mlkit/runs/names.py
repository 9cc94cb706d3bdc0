"""Where runs are: names, and the folders below outputs that they stand for."""

import os
from datetime import datetime
from pathlib import Path

from mlkit.errors import RunError
from mlkit.files import make_folder, outputs_root, resolve, shown

_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))}
_LONGEST = 200  # bytes of a name; file systems take 255, and searches add to it


def named_folder(name: str) -> Path:
    """`outputs/<name>`, the folder of something new.

    Raises:
        RunError: if the name is not that of a plain folder on any system, or has another use.
    """
    reasons = {
        "it is empty": not name,
        "it holds a / or \\, or what cannot be seen": not name.isprintable() or set(name) & {"/", "\\"},
        'it holds one of <>:"|?*, which Windows takes in no name': set(name) & set('<>:"|?*'),
        "Windows has a device of that name": name.partition(".")[0].upper() in _DEVICES,
        "it begins with a dot or a hyphen, or ends with a dot or a space": name[:1] in (".", "-") or name[-1:] in (".", " "),
        f"it is longer than {_LONGEST} bytes": len(name.encode(errors="replace")) > _LONGEST,
        "decoded pixels lie there": name == "cache",
        "there is a file of that name": os.path.isfile(outputs_root() / name),
    }
    if why := next((reason for reason, holds in reasons.items() if holds), ""):
        raise RunError(f"{name[:50]!r} cannot be the name of a folder in {shown(outputs_root())}: {why}; choose another")
    return outputs_root() / name


def new_folder() -> Path:
    """A new folder named by date and time, with a number where another training began in the same second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = make_folder(outputs_root()) / stamp, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
            path = path.with_name(f"{stamp}-{number}")


def folder_of(name: str) -> Path:
    """`outputs/<name>` for a plain name, the folder itself for a path."""
    path = Path(name)  # which drops "./" and a "/" at the end
    plain = len(path.parts) == 1 and name not in ("..", "~")
    return outputs_root() / path if plain and (path.name == name or not resolve(name).is_dir()) else resolve(name)
