"""The `mlkit` command. Each function imports what it needs, so that `mlkit --help` answers at once."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlkit
from mlkit.errors import MlkitError
from mlkit.files import project_root, shown

DATA_PARAMETERS: dict[str, Any] = {"images": "", "labels": "", "minus_one": "error", "strict": False}


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


def run(options: argparse.Namespace) -> int:
    """Execute the notebooks; on failure print what failed and the command that resumes."""
    from mlkit.pipeline import NotebookError, given_parameters, run_notebooks

    # a part of an earlier run starts from what that run was given, so that it need not be said again
    given = _given(options, given_parameters(options.name) if options.only or options.start else {})
    try:
        result = run_notebooks(given, options.name, options.only, options.start, options.overwrite, options.timeout)
    except NotebookError as error:
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
        _print_predictions(result.read_table("prediction.csv"))
    return 0


def train(options: argparse.Namespace) -> int:
    """Train without a notebook: what notebook 02 does."""
    from mlkit.dataset import MultiLabelDataset
    from mlkit.metrics import macro
    from mlkit.parameters import check_parameters
    from mlkit.runs import Run
    from mlkit.sample import ensure_sample
    from mlkit.train import TrainConfig, run_parameters
    from mlkit.train import train as train_model

    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    values = DATA_PARAMETERS | check_parameters(_given(options), DATA_PARAMETERS | defaults)
    data = {name: values.pop(name) for name in DATA_PARAMETERS}
    config = TrainConfig(**values)
    ensure_sample(data["labels"])
    dataset = MultiLabelDataset.from_files(image_size=config.image_size, **data)
    print(dataset)
    result = Run.create(options.name, run_parameters(config, **data), dataset.fingerprint, options.overwrite)
    table = train_model(dataset, config, result)
    print(table.round(3).to_string())
    print(
        f"validation mAP {macro(table).AP:.3f}, chance {macro(table).prevalence:.3f}; model: {shown(result / 'model.pth')}"
    )
    return 0


def predict(options: argparse.Namespace) -> int:
    """Print the attributes of images; a broken one gets a line on standard error and does not stop the others."""
    from mlkit.errors import ImageError
    from mlkit.predict import Predictor

    broken: list[ImageError] = []
    source = options.model if not options.model.endswith((".pth", ".pt")) else Path(options.model).absolute()
    table = Predictor.load(source).predict([Path(image).absolute() for image in options.images], broken.append)
    for error in broken:
        print(f"mlkit: {error}", file=sys.stderr)
    _print_predictions(table)
    return 2 if broken else 0


def _print_predictions(table: Any) -> None:
    for image, rows in table.groupby("image", sort=False):
        print(f"prediction for {shown(str(image))}")
        for row in rows.itertuples():
            print(f"  {row.attribute:24} {row.probability:6.3f}  {'yes' if row.present else 'no'}")


def _given(options: argparse.Namespace, earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Parameters of a call: `earlier`, else of files (sample.yaml, or seed.yaml for own data); then `-p` and the data."""
    from mlkit.parameters import read_parameters

    if bool(options.images) != bool(options.labels):
        raise MlkitError("--images and --labels belong together: give both, or none for the sample data")
    standard = project_root() / "notebooks" / "parameters" / ("seed.yaml" if options.images else "sample.yaml")
    given = dict(earlier or {})
    for file in options.file or ([] if given else [standard]):
        given |= read_parameters(file)
    given |= dict(options.parameter)
    if options.images:
        given |= {"images": shown(Path(options.images).absolute()), "labels": shown(Path(options.labels).absolute())}
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mlkit", description="multi-label image classification with missing labels")
    parser.add_argument("--version", action="version", version=mlkit.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--images", metavar="DIR", default="", help="folder of images (default: the sample data)")
    data.add_argument("--labels", metavar="FILE", default="", help="label file: .txt, .csv, .tsv or .parquet")
    data.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set one parameter"
    )
    data.add_argument(
        "-f",
        "--file",
        action="append",
        default=[],
        metavar="YAML",
        help="parameter file (default: sample.yaml, or seed.yaml for own data)",
    )
    data.add_argument("--name", default="", help="run folder under outputs/")
    data.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")

    command = commands.add_parser("run", parents=[data], help="execute the notebooks in order, headless")
    command.add_argument("--only", default="", metavar="NN", help="execute this notebook alone, again")
    command.add_argument("--from", dest="start", default="", metavar="NN", help="execute from this notebook on, again")
    command.add_argument("--timeout", type=int, metavar="SECONDS", help="longest time for one cell")
    command.set_defaults(command=run)

    command = commands.add_parser("train", parents=[data], help="train without a notebook")
    command.set_defaults(command=train)

    command = commands.add_parser("predict", help="attributes of images")
    command.add_argument("images", nargs="+", metavar="IMAGE")
    command.add_argument(
        "--model", default="", metavar="RUN_OR_FILE", help="run name or folder, or model.pth (default: newest run)"
    )
    command.set_defaults(command=predict)
    return parser
