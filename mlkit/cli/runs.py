"""`mlkit runs`: what was trained, what differs, what came of it."""

import argparse
import shutil
from typing import Any

from mlkit.cli.given import typed_run


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("runs", help="list runs: what differs, what they reached, what they took")
    command.add_argument(
        "runs", nargs="*", metavar="RUN", help="names or patterns, 'tune-*' say (default: all, oldest first)"
    )
    command.add_argument("--csv", metavar="FILE", help="write the whole table there instead of printing it")
    command.set_defaults(command=runs)


def runs(options: argparse.Namespace) -> int:
    """Print the runs as a table, in blocks of columns as wide as the terminal, or write it whole."""
    from mlkit.files import shown, write_csv
    from mlkit.runs import TRAIN_ONE, find_runs, outputs_root

    found = find_runs([typed_run(run) for run in options.runs], unfinished=True)
    if not found:
        print(f"no run in {shown(outputs_root())} yet; {TRAIN_ONE}")
        return 0
    from mlkit.experiments.comparison.overview import overview, readable  # with torch, which takes seconds

    table = overview(found)
    if options.csv:
        write_csv(options.csv, table)
    else:
        width = shutil.get_terminal_size((120, 40)).columns
        print(readable(table).rename_axis(None).to_string(line_width=width))
    return 0
