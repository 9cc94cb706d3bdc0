"""The errors that a person can mend: each names what was expected, what came, and the way out."""

import difflib
import importlib.util
import platform
from collections.abc import Iterable


class MlkitError(ValueError):
    """Base of every error that mlkit raises on purpose; the command line prints its text and exits with 2."""


class LabelError(MlkitError):
    """A label file cannot be used; the text names file, line, column and the mend."""


class ImageError(MlkitError):
    """An image file cannot be decoded; the text names the file and the reason."""


class WeightsError(MlkitError):
    """Weights or a model file cannot be loaded; the text names the ways out."""


class RunError(MlkitError):
    """A run folder is missing, incomplete, or would be overwritten."""


class ClaimError(RunError):
    """Another process is at work there; the text says which, and where."""

    def __init__(self, what: str, pid: int = 0, host: str = "") -> None:
        here = host in ("", platform.node())
        who = f"process {pid}{'' if here else f' on {host}'}" if pid else "another process"
        mend = "wait until it ends" if here else "wait until it ends, take it over once that is dead (mlkit --take-over ...)"
        super().__init__(f"{what} is at work in {who}; {mend}, or choose another name")


class FormatError(MlkitError):
    """A file was written in the format of another mlkit; the text names both."""


class FailureError(MlkitError):
    """What was asked for can be had in principle, and failed; the command line exits with 1."""


class WriteError(FailureError):
    """A file or folder cannot be written; the text names it, the reason, and the mend."""


class Terminated(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM); the command line exits with 143."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """Exit code of a command that was ended from outside: 128 and the number of the signal, as shells have it."""
    return 143 if isinstance(stop, Terminated) else 130


class ParameterError(MlkitError):
    """A parameter is unknown or of the wrong type; the text names the nearest known one."""


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error message: "; did you mean 'x'?" or, where nothing is near, the list of what is known."""
    known = list(known)
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known[:20])}" + (" ..." if len(known) > 20 else "")


def check_installed(extra: str, *packages: str) -> None:
    """Raise MlkitError, with the command that mends it, if one of the packages of an extra is not installed."""
    if lacking := [package for package in packages if importlib.util.find_spec(package.lower()) is None]:
        be = "are" if len(lacking) > 1 else "is"
        raise MlkitError(f'{" and ".join(lacking)} {be} not installed; run: pip install -e ".[{extra}]"')
