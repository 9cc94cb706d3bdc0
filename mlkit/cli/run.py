"""`mlkit run`: the notebooks in order, headless."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from mlkit.cli.given import GOES_ON, command_line, data_options, given_parameters
from mlkit.cli.predict import print_predictions

if TYPE_CHECKING:
    from mlkit.notebooks import NotebookError


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("run", parents=[data_options()], help="execute the notebooks in order, headless")
    command.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")
    command.add_argument("--only", default="", metavar="NN", help="execute this notebook alone, again")
    command.add_argument("--from", dest="start", default="", metavar="NN", help="execute from this notebook on, again")
    command.add_argument("--timeout", type=int, metavar="SECONDS", help="longest time for one cell")
    command.set_defaults(command=run, goes_on=GOES_ON)


def run(options: argparse.Namespace) -> int:
    """Execute the notebooks; on failure print what failed and the command that resumes."""
    from mlkit import notebooks
    from mlkit.data.remote import versions
    from mlkit.data.source import DataSource
    from mlkit.errors import ParameterError, exit_code
    from mlkit.files import locate
    from mlkit.inference.report import write_report
    from mlkit.parameters import known_parameters
    from mlkit.training.recipe import known_settings

    chosen, settings = notebooks.select(options.only, options.start), known_settings()
    known = {notebook: known_parameters(notebook) for notebook in notebooks.CHAIN}
    having = {notebook: [*own, *(settings if "settings" in own else ())] for notebook, own in known.items()}
    for name, _ in options.parameter:
        of = [notebook for notebook in notebooks.CHAIN if name in having[notebook]]
        if of and not set(of) & set(chosen):
            raise ParameterError(f"{name} is of {', '.join(of)}, which is not executed now; leave it out")
    # a part of an earlier run starts from what that run was given, so that it need not be said again
    asked = chosen if options.only or options.start else []
    given = given_parameters(options, notebooks.earlier_parameters(options.name, settings, asked) if asked else {})
    data = {**known[notebooks.TRAINING], **given}
    DataSource(data["images"], data["labels"]).prepare()  # so that the first call and the second see the same files
    elsewhere = versions(locate(data["images"]), locate(data["labels"]))
    try:
        result = notebooks.run_notebooks(given, settings, options.name, asked, options.overwrite, options.timeout, elsewhere)
    except notebooks.NotebookError as error:
        how = _resume(error, "--only" if options.only else "--from")
        again = command_line(["mlkit", "run", "--name", error.run.name, *how])
        stop = error.stop if isinstance(error, notebooks.InterruptedNotebook) else None
        what = "interrupted, what was done is saved" if stop else "a notebook failed"
        print(f"\nmlkit: {what}\n{error}\nresume:   {again}", file=sys.stderr)
        return exit_code(stop) if stop else 1
    write_report(result)
    print(f"\nmade in {result}:")
    for file in sorted([*result.written(), *(result / f"{notebook}.ipynb" for notebook in notebooks.CHAIN)]):
        if file.exists():
            print(f"  {file.name:42} {file.stat().st_size / 1e3:10,.0f} kB")
    if (result / "prediction.csv").exists():
        print()
        print_predictions(result.read_table("prediction.csv"))
    return 0


def _resume(error: "NotebookError", part: str) -> list[str]:
    """Options that go on from a notebook that failed; `part`: --only or --from."""
    return [part, error.notebook.split("_")[0], *(["--overwrite"] if error.replaces else [])]
