"""Images and label files elsewhere (`s3://`, `gs://`, `hf://`, `https://` ...), by fsspec.

`files.locate` gives every address a path below `outputs/cache/remote`; whoever reads that path through this module finds a
copy of the file there. Its time of change stands for the version (entity tag or date), its time of access for the last use:
pictures that were not used for longest go once all are more than `MLKIT_REMOTE_CACHE_GB` gigabytes (20). Tables stay.
fsspec's own caching file systems know no limit, and take a copy that a killed download cut for whole.
"""

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import fsspec

from mlkit.errors import FailureError, ImageError, MlkitError, ParameterError, WriteError, nearest
from mlkit.files import WEB, address, atomic, remote_root
from mlkit.progress import bar

State = tuple[int, int, int]  # bytes (-1: the server does not say), time of change, time of change of anything; ns

REQUESTS = 16  # at once; while one waits for the network, others read
_WAITS = (0.5, 2.0)  # seconds until a failed request is tried again
_LIMIT = "MLKIT_REMOTE_CACHE_GB"
_TABLES = (".txt", ".csv", ".tsv", ".parquet", ".json", ".jsonl")
_ABANDONED = 3600.0  # seconds; a download that nobody wrote to for so long was killed
_VERSIONS = ("etag", "md5hash", "content-md5", "blob_id", "generation", "last-modified", "lastmodified", "last_modified")
_DATES = ("updated", "modified", "mtime", "created")  # where there is none of those

_Answer = TypeVar("_Answer")
_listings: dict[Path, dict[str, State]] = {}  # folder -> name -> state; of a web server, which lists none, those asked for
_left: dict[Path, int] = {}  # bytes that may come before the copies are counted again
_counting = threading.Lock()


def list_anew(folder: Path) -> bool:
    """Whether there is such a folder. One elsewhere is listed, once until the next call, and is there if it holds a file."""
    _listings.pop(folder, None)
    return bool(_listing(folder) or _is_web(folder)) if address(folder) else folder.is_dir()


def is_folder(place: Path) -> bool:
    """Whether a place is a folder and no file."""
    return _ask(place, lambda system, path: bool(system.isdir(path))) if address(place) else place.is_dir()


def versions(images: Path, labels: Path) -> list[str]:
    """What changes with images and labels elsewhere; a web server lists no versions, so there the labels alone tell."""
    if address(images):
        list_anew(images)
    files = [f"{name} {found}" for name, found in sorted(_listing(images).items())] if address(images) else []
    if not address(labels):
        return files
    with suppress(FileNotFoundError):
        files.append(f"{address(labels)} {_state_now(labels)}")
    return files


def names(folder: Path) -> list[str]:
    """Names of the files below a folder elsewhere, sorted, but those that are hidden.

    Raises:
        MlkitError: for a web server that shows no list of the folder.
    """
    found: Sequence[str] = list(_listing(folder))
    if _is_web(folder):
        with suppress(FileNotFoundError):
            found = [name for name in _ask(folder, _find) if "?" not in name]  # links that sort the list
        if not found:
            raise MlkitError(f"{address(folder)}: this server shows no list of the folder; name the images one by one")
    return sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))


def states(folder: Path, images: Sequence[str]) -> tuple[dict[str, State], dict[str, str]]:
    """State of each image of a folder elsewhere, and those that are missing, with the reason.

    Object storage tells all in its list; a web server is asked for each image, several at a time.
    """
    known = _listing(folder)
    if _is_web(folder):

        def look(image: str) -> None:
            with suppress(FileNotFoundError):
                known[image] = _state_now(folder / image)

        todo = [image for image in images if image not in known]
        with ThreadPoolExecutor(REQUESTS) as executor:
            for _ in bar(executor.map(look, todo), total=len(todo), desc="looking up", unit="image"):
                pass
    found = {image: known[image] for image in images if image in known}
    return found, {image: "no such file" for image in images if image not in found}


def state(path: Path) -> State:
    """State of a file, here or elsewhere, where a list has it of that. Raises OSError if there is none."""
    if not address(path):
        found = path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns
    for folder in path.parents:
        if listed := _listings.get(folder, {}).get(path.relative_to(folder).as_posix()):
            return listed
    return _state_now(path)


def read(path: Path, largest: int) -> bytes:
    """Content of a picture elsewhere. Raises FileNotFoundError; ImageError if it has more than `largest` bytes."""
    found = state(path)
    if found[0] > largest:
        raise ImageError(f"{address(path)}: {found[0]:,} bytes, no picture is larger than {largest:,}")
    while True:
        came = _copy(path, found)
        with suppress(FileNotFoundError):  # deleted in between, to make room
            content = path.read_bytes()
            _make_room(came)
            return content


def fetch(path: Path) -> bool:
    """Whether there is such a file; of one elsewhere, the newest version lies at its path afterwards."""
    if not address(path):
        return path.is_file()
    try:
        _make_room(_copy(path, _state_now(path)))
    except FileNotFoundError:
        return False
    return True


def _copy(path: Path, found: State) -> int:
    """Make sure that a copy of that state is there. Returns how many bytes came."""
    size, version, _ = found
    with suppress(FileNotFoundError):
        here = path.stat()
        if here.st_mtime_ns == version and size in (-1, here.st_size):
            os.utime(path, ns=(time.time_ns(), version))
            return 0
    try:
        with atomic(path) as copy:
            _ask(path, lambda system, source: system.get_file(source, str(copy)))
            came = copy.stat().st_size
            if size not in (-1, came):
                raise FailureError(f"{address(path)}: {came:,} of {size:,} bytes came; the same command tries again")
            os.utime(copy, ns=(time.time_ns(), version))
    except WriteError as error:
        raise error.__cause__ if isinstance(error.__cause__, FileNotFoundError) else error from None
    return came


def _make_room(came: int) -> None:
    """Delete the pictures that were not used for longest, if they are too many with the bytes that came."""
    root = remote_root()
    with _counting:
        _left[root] = _left.get(root, 0) - came
        if _left[root] >= 0:
            return
        copies = list(_copies(root))
        limit, total = _limit(), sum(found.st_size for _, found in copies)
        enough = limit if total <= limit else 0.9 * limit  # else each file that comes would count all again
        for path, found in sorted(copies, key=lambda copy: copy[1].st_atime_ns):
            if total <= enough:
                break
            if path.suffix.lower() not in _TABLES:
                with suppress(OSError):  # Windows, where somebody reads it
                    path.unlink()
                    total -= found.st_size
        _left[root] = min(max(limit - total, 0), limit // 20)  # other processes bring some, too


def _copies(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for where, _, files in os.walk(root):
        for path in (Path(where, file) for file in files):
            with suppress(FileNotFoundError):
                found = path.stat()
                if not path.name.startswith(".") or time.time() - found.st_ctime > _ABANDONED:
                    yield path, found


def _limit() -> int:
    text = os.environ.get(_LIMIT, "20")
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise ParameterError(f"{_LIMIT} is {text!r}; it must be a number of gigabytes") from None


def _is_web(folder: Path) -> bool:
    return address(folder).startswith(WEB)


def _listing(folder: Path) -> dict[str, State]:
    if folder not in _listings:
        _listings[folder] = {}
        if not _is_web(folder):
            with suppress(FileNotFoundError):
                _listings[folder] = {name: _state(info) for name, info in _ask(folder, _find).items()}
    return _listings[folder]


def _find(system: Any, path: str) -> dict[str, Mapping[str, Any]]:
    system.invalidate_cache()
    root = f"{path.rstrip('/')}/"
    found = system.find(path, detail=True).items()
    decoded = unquote if path.startswith(WEB) else str
    named = {decoded(name.removeprefix(root)): info for name, info in found if info["type"] == "file"}
    return {name: info for name, info in named.items() if _stays_inside(name)}


def _stays_inside(name: str) -> bool:
    """Whether a name is one below its folder; that of an object may be anything, /etc/passwd and ../x too."""
    return not {"", ".", ".."} & set(name.split("/")) and (os.name == "posix" or not {"\\", ":"} & set(name))


def _state_now(path: Path) -> State:
    return _ask(path, lambda system, source: _state(system.info(source)))


def _state(info: Mapping[str, Any]) -> State:
    """State of a file by what its file system says of it. Its version is told as an even second, which any disk can keep."""
    said = {name.lower(): value for name, value in info.items() if value}
    mark = next((said[name] for name in (*_VERSIONS, *_DATES) if name in said), "")
    second = int.from_bytes(hashlib.blake2b(str(mark).encode(), digest_size=4).digest()) & 0x7FFFFFFE
    size = info.get("size")
    return -1 if size is None else int(size), second * 10**9, second * 10**9


@cache
def _file_system(scheme: str, host: str, process: int) -> Any:
    """One for all threads; not for a process that was forked, where its connections are another's."""
    if scheme not in fsspec.available_protocols():
        raise MlkitError(f"{scheme}:// is no kind of storage{nearest(scheme, fsspec.available_protocols())}")
    return fsspec.url_to_fs(f"{scheme}://{host}")[0]


def _ask(path: Path, question: Callable[[Any, str], _Answer]) -> _Answer:
    """What a file system answers.

    Raises:
        FileNotFoundError: if nothing is there.
        MlkitError: if the driver or a permission is missing.
        FailureError: if it cannot be reached, also not a moment later.
    """
    url = address(path)
    scheme, _, rest = url.partition("://")
    for seconds in (*_WAITS, None):
        try:
            system = _file_system(scheme, rest.partition("/")[0], os.getpid())
            return question(system, system._strip_protocol(url))
        except Exception as error:  # drivers raise whatever their libraries do
            told = _told(url, error)
            if seconds is None or not isinstance(told, FailureError):
                raise told from error
            time.sleep(seconds)
    raise AssertionError


def _told(url: str, error: Exception) -> Exception:
    """An error of a driver, for people."""
    if isinstance(error, MlkitError) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return error
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error  # HTTP hides it there
    status = getattr(cause, "status", None)
    if isinstance(cause, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(errno.ENOENT, "no such file", url)
    said = re.sub(r"\?[^\s'\"]*", "", " ".join(str(cause).split()))[:200] or type(cause).__name__  # without a signed query
    if isinstance(cause, ImportError):
        package = getattr(cause.__cause__, "name", "") or cause.name or "its driver"
        return MlkitError(f"{url}: {package} is not installed ({said}); run: pip install {package}")
    if isinstance(cause, PermissionError) or status in (401, 403) or "Credential" in type(cause).__name__:
        return MlkitError(f"{url} may not be read ({said}); give its driver credentials, or ask the owner")
    return FailureError(f"{url} cannot be read ({said}); check the address and the network, then the same command goes on")
