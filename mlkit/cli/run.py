"""`mlkit run`: the notebooks in order, headless."""

import argparse
import sys
from typing import Any

from mlkit.cli.given import data_options, given_parameters
from mlkit.cli.predict import print_predictions


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("run", parents=[data_options()], help="execute the notebooks in order, headless")
    command.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")
    command.add_argument("--only", default="", metavar="NN", help="execute this notebook alone, again")
    command.add_argument("--from", dest="start", default="", metavar="NN", help="execute from this notebook on, again")
    command.add_argument("--timeout", type=int, metavar="SECONDS", help="longest time for one cell")
    command.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Execute the notebooks; on failure print what failed and the command that resumes."""
    from mlkit import pipeline

    # a part of an earlier run starts from what that run was given, so that it need not be said again
    given = given_parameters(options, pipeline.given_parameters(options.name) if options.only or options.start else {})
    try:
        result = pipeline.run_notebooks(given, options.name, options.only, options.start, options.overwrite, options.timeout)
    except pipeline.NotebookError as error:
        print(f"\nmlkit: a notebook failed\n{error}", file=sys.stderr)
        part = "--only" if options.only else "--from"
        print(f"resume:   mlkit run --name {error.run.name} {part} {error.notebook.split('_')[0]}", file=sys.stderr)
        return 1
    print(f"\nmade in {result}:")
    for file in sorted(result.path.iterdir()):
        if file.suffix in (".pth", ".png", ".ipynb", ".csv", ".json"):
            print(f"  {file.name:42} {file.stat().st_size / 1e3:10,.0f} kB")
    if (result / "prediction.csv").exists():
        print()
        print_predictions(result.read_table("prediction.csv"))
    return 0
