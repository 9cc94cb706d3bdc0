"""Where things are, and how they are written: the project's root, paths for people, whole-or-nothing writes."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from mlkit.errors import FailureError, FormatError, MlkitError, RunError, WriteError

if TYPE_CHECKING:
    import pandas as pd

_MENDS = {  # errno -> what a person can do; for those that are not named, the system's own words must do
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space, or choose a folder on another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that you may write to"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "choose another name; files and folders do not mix"),
    errno.ENAMETOOLONG: "choose a shorter name",
}


FORMAT = 1  # of every file that is read back and can hold the number; one that holds none is of this one
WEB = ("http://", "https://")  # servers that know files, and list no folders
_WEB_SCHEMES = tuple(web.partition(":")[0] for web in WEB)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PASSWORD = re.compile(r":(?!\d+/).*@")  # but a port
_WAITS = (0.01, 0.03, 0.1, 0.3, 0.6)  # seconds; whoever reads a table has it open for less


def project_root() -> Path:
    """Folder that relative paths start from: the checkout, whatever the working directory is.

    Papermill runs a notebook in the caller's directory, JupyterLab and nbval in the notebook's own; a path in a notebook
    parameter must mean the same in all three. `MLKIT_ROOT` overrides; without a checkout it is the working directory.
    """
    if root := os.environ.get("MLKIT_ROOT"):
        return Path(root).resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def outputs_root() -> Path:
    """Folder that holds the runs and the pixel cache; the environment variable MLKIT_OUTPUTS moves it to another disk."""
    path = Path(os.environ.get("MLKIT_OUTPUTS") or project_root() / "outputs")
    try:
        path = path.resolve()
    except (RuntimeError, OSError):
        raise RunError(f"{path} is a link to itself; set MLKIT_OUTPUTS to another path") from None
    if path.is_file():
        raise RunError(f"{path} is a file; the runs need a folder: set MLKIT_OUTPUTS to another path")
    return path


def remote_root() -> Path:
    """Folder in which files elsewhere have their paths, see `locate`."""
    return outputs_root() / "cache" / "remote"


def is_address(place: str | Path) -> bool:
    """Whether a text is the address of something elsewhere, such as s3://bucket/photos."""
    return bool(_ADDRESS.match(str(place)))


def locate(place: str | Path) -> Path:
    """Path of images or labels that a person named; an address gets one below `remote_root`, see `data.remote`.

    Raises:
        MlkitError: if an address names nothing, or holds what must not be kept with a run: a password, a signed query.
    """
    if not is_address(place):
        return resolve(place)
    scheme, _, rest = str(place).partition("://")
    scheme = scheme.lower()
    if scheme in ("file", "local"):
        return resolve(rest)
    host, _, path = rest.partition("/")
    if "?" in rest or _PASSWORD.search(rest) or (scheme in _WEB_SCHEMES and "@" in host):
        raise MlkitError(
            f"{scheme}://...: an address with a password, a token or a query is not taken, for runs keep their addresses; "
            "give the driver its credentials where it looks for them (environment, its own files)"
        )
    parts = [part for part in (unquote(path) if scheme in _WEB_SCHEMES else path).split("/") if part]
    if not host or {".", ".."} & {host, *parts} or "::" in rest:
        raise MlkitError(f"{place}: no address of a folder or file; write it as s3://bucket/folder, without .. or ::")
    return remote_root().joinpath(scheme, host.replace(":", "%3A"), *parts)


def address(path: str | Path) -> str:
    """The address of what has a path below `remote_root`, as `locate` takes it; of all else, empty."""
    path, root = Path(path), remote_root()
    if not path.is_relative_to(root) or len(parts := path.relative_to(root).parts) < 2:
        return ""
    scheme, host, *inside = parts
    inside = [quote(part) for part in inside] if scheme in _WEB_SCHEMES else inside
    return f"{scheme}://{'/'.join([host.replace('%3A', ':'), *inside])}"


def resolve(path: str | Path) -> Path:
    """Absolute form of a path that a person wrote, taken from the project's root. Raises MlkitError for an address."""
    if is_address(path):
        if remote := address(place := locate(path)):
            raise MlkitError(f"{remote}: only images and labels may lie elsewhere; give a path on this machine")
        return place
    return Path(os.path.normpath(project_root() / Path(path).expanduser()))


def shown(path: str | Path) -> str:
    """Form of a path to print: relative to the project's root where it lies inside; of what lies elsewhere, its address."""
    path = locate(path)
    if remote := address(path):
        return remote
    root = project_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Within: these environment variables, for this process and those that it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place when the block ends well, remove it when it does not.

    The temporary name keeps the suffix, since many writers choose the format by it.

    Raises:
        WriteError: if the disk is full, the folder read-only, `path` a folder ...; what can be known is said at once.
    """
    path = Path(path).absolute()
    temporary: Path | None = None
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(6)}{path.suffix}")
        name.touch(exist_ok=False)  # not by mkstemp, whose files are private: a result is as readable as any other file
        temporary = name
        yield temporary
        _to_disk(temporary)
        move(temporary, path)
        _to_disk(path.parent)
    except BrokenPipeError:  # of the terminal, not of the file
        raise
    except OSError as error:
        raise WriteError(f"{path} cannot be written ({reason(error)})") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlast a power cut."""
    if path.is_dir() and os.name != "posix":  # Windows opens no folder
        return
    with suppress(FileNotFoundError):  # what a writer moved away itself
        handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder, over the file that is there; waits a moment where Windows refuses what another has open."""
    for seconds in _WAITS:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(seconds)
    os.replace(source, target)


def unlink_link(path: Path) -> None:
    """Remove a link that lies where a file is written in place: it would lead out of the folder."""
    if path.is_symlink():
        path.unlink()


def reason(error: OSError) -> str:
    """Why the system refused, in its words, and what a person can do."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{said}; {mend}" if (mend := _MENDS.get(error.errno or 0)) else said


def make_folder(path: Path) -> Path:
    """Make a folder, with those above it, where it is not there yet. Raises WriteError if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{path} cannot be made ({reason(error)})") from None
    return path


def digest_file(path: Path) -> str:
    """Digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def check_space(folder: Path, needed: int, what: str, way_out: str) -> None:
    """Raise FailureError if `folder` has no room for `needed` bytes; `what` ends in a verb, `way_out` is for the person."""
    free = shutil.disk_usage(folder).free
    if needed > free * 0.95:
        raise FailureError(f"{what} {needed / 1e9:.1f} GB in {shown(folder)}, {free / 1e9:.1f} GB are free; {way_out}")


def check_format(path: Path, content: dict[str, Any]) -> None:
    """Take the number of the format out of what was read. Raises FormatError if it is another."""
    if (found := content.pop("format", FORMAT)) != FORMAT:
        mend = "read it with the mlkit that wrote it, or make it again with this one"
        raise FormatError(f"{shown(path)} has format {str(found)[:40]}, this mlkit reads {FORMAT}; {mend}")


def read_json(path: Path) -> dict[str, Any]:
    """The values of `write_json`. Raises MlkitError, naming the file, if it is damaged; FormatError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:  # of JSON, or of UTF-8
        raise MlkitError(f"{path} is damaged ({error}); delete what it belongs to, and make that again") from None
    check_format(path, content)
    return content


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write named values as indented JSON, whole or not at all. NaN, which JSON lacks, must have been replaced before."""
    text = json.dumps({"format": FORMAT, **values}, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    write_text(path, text + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write text, whole or not at all; the same bytes on every system."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_csv(path: str | Path, table: "pd.DataFrame", **options: Any) -> None:
    """Write a table, whole or not at all; the same bytes on every system, nothing in it a formula, see `defused`.

    `options` are those of `DataFrame.to_csv`.
    """
    with atomic(path) as temporary:
        defused(table).to_csv(temporary, lineterminator="\n", **options)


def defused(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table whose texts no spreadsheet takes for a formula: those that begin like one get an apostrophe before them."""
    return _rewritten(table, _FORMULA, "'{}".format)


def as_written(table: "pd.DataFrame") -> "pd.DataFrame":
    """The inverse of `defused`."""
    return _rewritten(table, _DEFUSED, lambda text: text[1:])


_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_DEFUSED = re.compile(r"'+[=+\-@\t\r]")


def _rewritten(table: "pd.DataFrame", pattern: re.Pattern[str], write: Callable[[str], str]) -> "pd.DataFrame":
    """A table with the texts that begin like a pattern written in another way."""
    rewritten = table.copy(deep=False)
    for name in table.columns[[getattr(kind, "kind", "O") not in "biufc" for kind in table.dtypes]]:
        texts = (text for text in table[name].dropna().unique() if isinstance(text, str) and pattern.match(text))
        if new := {text: write(text) for text in texts}:
            rewritten[name] = table[name].map(lambda value, new=new: new.get(value, value))
    return rewritten
