"""Where things are, and how they are written: the project's root, paths for people, whole-or-nothing writes."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlkit.errors import MlkitError


def project_root() -> Path:
    """Folder that relative paths start from: the checkout, whatever the working directory is.

    Papermill runs a notebook in the caller's directory, JupyterLab and nbval in the notebook's own; a path in a notebook
    parameter must mean the same in all three. `MLKIT_ROOT` overrides; without a checkout it is the working directory.
    """
    if root := os.environ.get("MLKIT_ROOT"):
        return Path(root).resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """Absolute form of a path that a person wrote, taken from the project's root."""
    return Path(os.path.normpath(project_root() / Path(path).expanduser()))


def shown(path: str | Path) -> str:
    """Form of a path to print: relative to the project's root where it lies inside."""
    path = resolve(path)
    root = project_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place when the block ends well, remove it when it does not.

    The temporary name keeps the suffix, since many writers choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; a result should be as readable as any other file
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_space(folder: Path, needed: int, what: str, way_out: str) -> None:
    """Raise MlkitError if `folder` has no room for `needed` bytes; `what` ends in a verb, `way_out` is for the person."""
    free = shutil.disk_usage(folder).free
    if needed > free * 0.95:
        raise MlkitError(f"{what} {needed / 1e9:.1f} GB in {shown(folder)}, {free / 1e9:.1f} GB are free; {way_out}")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all. NaN, which JSON lacks, must have been replaced before."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
