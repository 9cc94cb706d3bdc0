"""`mlkit report`: the notebooks of a run on one page that opens anywhere."""

import argparse
from typing import Any

from mlkit.cli.given import typed_run
from mlkit.files import shown


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("report", help="the notebooks of a run on one page, report.html")
    command.add_argument("run", metavar="RUN", help="name or folder of the run")
    command.set_defaults(command=report)


def report(options: argparse.Namespace) -> int:
    """Write the page, and say where it is."""
    from mlkit.inference.report import write_report
    from mlkit.runs import Run

    print(f"report: {shown(write_report(Run.open(typed_run(options.run))))}")
    return 0
