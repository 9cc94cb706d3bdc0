"""The `mlkit` command. Each function imports what it needs, so that `mlkit --help` answers at once."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlkit
from mlkit.errors import MlkitError
from mlkit.files import atomic, project_root, shown

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
    """Train without a notebook: what notebook 02 does, once or for every fold of a cross-validation."""
    from mlkit.config import TrainConfig
    from mlkit.dataset import MultiLabelDataset
    from mlkit.errors import ParameterError
    from mlkit.metrics import macro
    from mlkit.parameters import check_parameters
    from mlkit.runs import Run
    from mlkit.sample import ensure_sample
    from mlkit.train import train as train_model

    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    values = DATA_PARAMETERS | check_parameters(_given(options), DATA_PARAMETERS | defaults)
    data = {name: values.pop(name) for name in DATA_PARAMETERS}
    if options.folds is not None:
        if {"folds", "fold"} & {name for name, _ in options.parameter} or options.folds < 2:
            raise ParameterError(
                f"--folds is {options.folds}; it must be at least 2, and trains every fold: leave out -p folds and -p fold"
            )
        values |= {"folds": options.folds, "fold": 0}
    config = TrainConfig(**values)
    ensure_sample(data["labels"])
    dataset = MultiLabelDataset.from_files(image_size=config.image_size, **data)
    print(dataset)
    if options.folds is not None:
        from mlkit.folds import cross_validate

        name = options.name or Path(data["labels"]).absolute().parent.name or "run"
        _print_folds(cross_validate(dataset, config, name, data, options.overwrite), name)
        return 0
    result = Run.create(options.name, config.parameters(**data), dataset.fingerprint, options.overwrite)
    table = train_model(dataset, config, result)
    columns = ["positives", "negatives", "prevalence", "AP", "F1", "accuracy", "majority_accuracy", "threshold"]
    print(table[columns].round(3).to_string())
    mean, judged_on = macro(table), result.read_json("metrics.json")["judged_on"]
    print(f"{judged_on} mAP {mean.AP:.3f}, chance {mean.prevalence:.3f}; model: {shown(result / 'model.pth')}")
    return 0


def study(options: argparse.Namespace) -> int:
    """Compare the methods for missing labels on data with complete labels: what notebook 06 does, without figures."""
    from mlkit.config import TrainConfig
    from mlkit.dataset import MultiLabelDataset
    from mlkit.findings import advice, differences
    from mlkit.grid import Study
    from mlkit.parameters import check_parameters
    from mlkit.sample import FOLDER, ensure_sample
    from mlkit.study import run_study

    if options.overwrite:
        raise MlkitError("a study keeps what it has finished; to begin anew, delete its folder or give another --name")
    where = {**DATA_PARAMETERS, "images": f"{FOLDER}/images", "labels": f"{FOLDER}/truth.csv"}
    training = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    asked = dataclasses.asdict(Study())
    del asked["config"]
    values = where | check_parameters(_given(options, standard="study"), where | training | asked)
    data = {name: values.pop(name) for name in where}
    config = TrainConfig(**{name: value for name, value in values.items() if name in training})
    wanted = Study(**{name: value for name, value in values.items() if name in asked}, config=config)
    ensure_sample(data["labels"])
    truth = MultiLabelDataset.from_files(image_size=config.image_size, **data)
    print(truth)
    results = run_study(wanted, truth, options.name or "study")
    print(differences(results).round(3).to_string())
    print(advice(results))
    return 0


def predict(options: argparse.Namespace) -> int:
    """Print the attributes of images; a broken one gets a line on standard error and does not stop the others."""
    from mlkit.errors import ImageError
    from mlkit.predict import Predictor

    broken: list[ImageError] = []
    source = options.model if not options.model.endswith((".pth", ".pt")) else Path(options.model).absolute()
    paths = [file for image in options.images for file in _files(Path(image).absolute())]
    table = Predictor.load(source).predict(paths, broken.append)
    for error in broken:
        print(f"mlkit: {error}", file=sys.stderr)
    if options.csv:
        with atomic(options.csv) as temporary:
            table.to_csv(temporary, index=False)
    else:
        _print_predictions(table)
    return 2 if broken else 0


def _files(path: Path) -> list[Path]:
    """The files below a folder; the path itself if it is none."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def bench(options: argparse.Namespace) -> int:
    """Measure this machine, and print the table."""
    from mlkit.bench import BenchConfig, describe, measure, table
    from mlkit.files import write_json

    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(BenchConfig)}
    figures = measure(BenchConfig(**{name: value for name, value in given.items() if value is not None}))
    print(f"{describe(figures)}\n\n{table(figures).rename_axis(None).to_string()}")
    if options.json:
        write_json(options.json, figures)
    return 0


def _print_folds(table: Any, name: str) -> None:
    """What concerns all attributes, and the average precision of each; the file has the rest."""
    from mlkit.intervals import MEAN
    from mlkit.runs import outputs_root

    means = table.xs(MEAN, level="attribute").drop(columns="folds")
    print(f"\nmean over the attributes\n{means.round(3).to_string(na_rep='')}")
    print(f"\naverage precision\n{table.loc['AP'].round(3).to_string(na_rep='')}")
    print(f"\nall figures: {shown(outputs_root() / f'{name}-folds' / 'folds.csv')}")


def _print_predictions(table: Any) -> None:
    for image, rows in table.groupby("image", sort=False):
        print(f"prediction for {shown(str(image))}")
        for row in rows.itertuples():
            print(f"  {row.attribute:24} {row.probability:6.3f}  {'yes' if row.present else 'no'}")


def _given(options: argparse.Namespace, earlier: Mapping[str, Any] | None = None, standard: str = "") -> dict[str, Any]:
    """Parameters of a call: `earlier`, or a standard file (sample.yaml, seed.yaml for own data); then files, `-p`, data."""
    from mlkit.parameters import read_parameters

    if bool(options.images) != bool(options.labels):
        raise MlkitError("--images and --labels belong together: give both, or none for the sample data")
    name = standard or ("seed" if options.images else "sample")
    given = dict(earlier or {})
    for file in [*([] if given else [project_root() / "notebooks" / "parameters" / f"{name}.yaml"]), *options.file]:
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
        help="parameter file, on top of sample.yaml (seed.yaml for own data); may be repeated",
    )
    data.add_argument("--name", default="", help="run folder under outputs/")
    data.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")

    command = commands.add_parser("run", parents=[data], help="execute the notebooks in order, headless")
    command.add_argument("--only", default="", metavar="NN", help="execute this notebook alone, again")
    command.add_argument("--from", dest="start", default="", metavar="NN", help="execute from this notebook on, again")
    command.add_argument("--timeout", type=int, metavar="SECONDS", help="longest time for one cell")
    command.set_defaults(command=run)

    command = commands.add_parser("train", parents=[data], help="train without a notebook")
    command.add_argument(
        "--folds", type=int, metavar="K", help="K-fold cross-validation: K runs NAME-fold0 ..., results in NAME-folds"
    )
    command.set_defaults(command=train)

    command = commands.add_parser(
        "study", parents=[data], help="compare methods for missing labels, on data with complete labels"
    )
    command.set_defaults(command=study)

    command = commands.add_parser("predict", help="attributes of images")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="image, or folder of images")
    command.add_argument("--csv", metavar="FILE", help="write the table there instead of printing it")
    command.add_argument(
        "--model", default="", metavar="RUN_OR_FILE", help="run name or folder, or model.pth (default: newest run)"
    )
    command.set_defaults(command=predict)

    command = commands.add_parser("bench", help="measure the speed here, beside a plain loop and the machine's limit")
    command.add_argument("--images", metavar="DIR", help="folder of images (default: generated photos)")
    command.add_argument("--count", type=int, help="images to use (default: 128 on a CPU, 4096 on a GPU)")
    command.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the network's input (default: 224)")
    command.add_argument("--backbone", help="network of torchvision (default: resnet18)")
    command.add_argument("--batch-size", type=int, metavar="IMAGES", help="default: 32")
    command.add_argument("--repeats", type=int, help="of every measurement (default: 3)")
    command.add_argument("--device", help="auto, cpu, cuda")
    command.add_argument("--precision", help="of mlkit and the pure step: auto, fp32, bf16")
    command.add_argument("--cache-count", type=int, metavar="IMAGES", help="of the memory test (default: 20000; 0: none)")
    command.add_argument("--json", metavar="FILE", default="", help="write the figures to a file")
    command.set_defaults(command=bench)
    return parser
