"""The `mlkit` command, one module per subcommand.

Their functions import what they need when they are called, so that `mlkit --help` answers at once.
"""

import argparse
import sys

import mlkit
from mlkit.cli import bench, ensemble, predict, run, runs, study, tensorboard, train, tune
from mlkit.errors import MlkitError

COMMANDS = (run, train, study, tune, runs, ensemble, predict, tensorboard, bench)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 well, 1 a notebook failed, 2 wrong input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
        return code
    except MlkitError as error:
        print(f"mlkit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mlkit: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mlkit", description="multi-label image classification with missing labels")
    parser.add_argument("--version", action="version", version=mlkit.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_to(commands)
    return parser
