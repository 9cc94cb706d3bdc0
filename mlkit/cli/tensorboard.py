"""`mlkit tensorboard`: the histories of runs in a browser."""

import argparse
import signal
from contextlib import suppress
from typing import Any

from mlkit.cli.given import typed_run
from mlkit.errors import check_installed


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("tensorboard", help="the histories of runs in a browser, also while they are trained")
    command.add_argument(
        "runs", nargs="*", metavar="RUN", help="names or patterns such as 'mine-*' (default: all, and those begun later)"
    )
    command.add_argument("--port", type=int, help="of the page on this machine (default: the first free one from 6006)")
    command.set_defaults(command=tensorboard)


def tensorboard(options: argparse.Namespace) -> int:
    """Serve TensorBoard until Ctrl-C."""
    check_installed("tensorboard", "TensorBoard")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it, its temporary files go
    with suppress(KeyboardInterrupt):  # the way to end it
        from mlkit.experiments.tensorboard import serve

        serve([typed_run(run) for run in options.runs], options.port)
    return 0
