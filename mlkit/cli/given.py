"""What a person gives on the command line: parameters, files of them, data."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlkit.errors import MlkitError
from mlkit.files import project_root, shown

GOES_ON = "the same command goes on where it stopped"  # what a person is told who interrupts it


def data_options() -> argparse.ArgumentParser:
    """Options of all commands that train, as a parent for their parsers."""
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
    data.add_argument("--name", default="", help="folder under outputs/")
    return data


def given_parameters(
    options: argparse.Namespace, earlier: Mapping[str, Any] | None = None, standard: str = ""
) -> dict[str, Any]:
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


def settings_table(kind: Any) -> str:
    """Every setting of a dataclass with its default, what it may be, and its meaning."""
    from mlkit.parameters import parameters_of

    rows = [("setting", "default", "meaning")]
    for name, parameter in parameters_of(kind).items():
        allowed = f" [{parameter.allowed}]" if parameter.allowed else ""
        rows.append((name, json.dumps(parameter.default), parameter.meaning + allowed))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:{widths[0]}}  {default:{widths[1]}}  {meaning}" for name, default, meaning in rows)
