"""`mlkit rerun`: train by a run's config.json once more, and see whether the same comes out."""

import argparse
from typing import Any

from mlkit.cli.given import GOES_ON, typed_path, typed_run


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("rerun", help="repeat a run, and say whether the same bytes come out")
    command.add_argument("run", metavar="RUN", help="run name or folder")
    command.add_argument("--images", metavar="DIR", default="", help="where the images are now")
    command.add_argument("--labels", metavar="FILE", default="", help="where the label file is now")
    command.add_argument("--name", default="", help="of the new run (default: NAME-again)")
    command.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")
    command.set_defaults(command=rerun, goes_on=GOES_ON)


def rerun(options: argparse.Namespace) -> int:
    """Train again and compare: exit 0 where history and predictions are the same bytes, 1 where they are not."""
    from mlkit.experiments.rerun import compare, repeat
    from mlkit.runs import Run

    first = Run.open(typed_run(options.run))
    places = {name: typed_path(path) for name in ("images", "labels") if (path := getattr(options, name))}
    second = repeat(first, options.name or f"{first.name}-again", places, options.overwrite)
    files, circumstances = compare(first, second)
    for file, same in files.items():
        print(f"{file}: {'the same' if same else 'differs'}")
    print(circumstances.to_string() if len(circumstances) else "versions, machine and data are the same")
    return 0 if all(files.values()) else 1
