"""The `mlkit` command, one module per subcommand.

Their functions import what they need when they are called, so that `mlkit --help` answers at once.
"""

import argparse
import io
import os
import shutil
import signal
import sys
import textwrap
import threading
import traceback

import mlkit
from mlkit.cli import (
    bench,
    ensemble,
    explain,
    export,
    labels,
    predict,
    report,
    rerun,
    review,
    run,
    runs,
    study,
    tensorboard,
    thresholds,
    train,
    tune,
)
from mlkit.errors import FailureError, MlkitError, Terminated, exit_code
from mlkit.files import reason

COMMANDS = {  # by what a person wants
    "start": (run, train),
    "data": (labels, review, study),
    "many runs": (runs, rerun, tune, ensemble, tensorboard),
    "use a model": (predict, explain, thresholds, report, export),
    "machine": (bench,),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 well, 1 it failed, 2 the input is wrong, else see `exit_code`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to fail
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    if options.take_over:
        from mlkit.runs.claims import TAKE_OVER

        os.environ[TAKE_OVER] = "yes"  # for kernels and workers too
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)
    try:
        code: int = options.command(options)
        sys.stdout.flush()  # here, where it can be said that this fails
        return code
    except BrokenPipeError:  # whoever read has enough: `mlkit predict photos | head`
        _close_output()
        return 141  # as of any program that SIGPIPE ends
    except (MlkitError, OSError) as error:
        _close_output()
        if options.debug:
            traceback.print_exc()
        print(f"mlkit: {_line(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 1 if isinstance(error, FailureError | OSError) else 2
    except UnicodeEncodeError as error:  # of a path, which goes into files
        name = ascii(error.object[:200])
        print(f"mlkit: {name} is not in this system's encoding; rename it, or set LANG to a UTF-8 locale", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"mlkit: interrupted{'; ' if options.goes_on else ''}{options.goes_on}", file=sys.stderr)
        return exit_code(stop)


def _end(number: int, _: object) -> None:
    """Let the first request to end be answered as Ctrl-C is; the second ends at once."""
    signal.signal(number, signal.SIG_DFL)
    raise Terminated


def _line(error: OSError) -> str:
    return f"{error.filename or 'the output'}: {reason(error)}"


def _close_output() -> None:
    """Where the output takes no more, Python's own last flush would end in a second error."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mlkit",
        usage="mlkit [-h] [--version] [--debug] [--take-over] COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=mlkit.__version__)
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    parser.add_argument("--take-over", action="store_true", help="of processes on other machines, which are dead")
    parser.set_defaults(goes_on="")
    commands = parser.add_subparsers(prog="mlkit", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    lines = ["multi-label image classification with missing labels"]
    for wanted, modules in COMMANDS.items():
        lines += ["", f"{wanted}:"]
        for module in modules:
            module.add_to(commands)
            added = commands._choices_actions[-1]  # where argparse keeps the help of a command
            lines += _columns(added.dest, added.help or "")
    parser.description = "\n".join([*lines, "", "mlkit COMMAND --help has the options of a command"])
    return parser


def _columns(name: str, meaning: str) -> list[str]:
    """A command and what it does, in lines that fit the terminal."""
    width = max(shutil.get_terminal_size().columns - 2, 40)
    return textwrap.wrap(meaning, width, initial_indent=f"  {name:13}", subsequent_indent=" " * 15)
