"""What a person gives on the command line: parameters, files of them, data."""

import argparse
import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlkit.errors import MlkitError
from mlkit.files import is_address, locate, resolve, shown
from mlkit.parameters import FILES, NO_FILE, RUNS

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


_RECIPES = "notebooks/parameters/{}.yaml"
_PATHS = ("images", "labels", "image", "recipe")  # parameters that are always a path


def given_parameters(
    options: argparse.Namespace, earlier: Mapping[str, Any] | None = None, standard: str = ""
) -> dict[str, Any]:
    """Parameters of a call: `earlier`, or a standard recipe (sample.yaml, seed.yaml for own data); then files, `-p`, data.

    Paths that were typed are relative to where the person is, those in a file to the project's root. Where the data is
    stands among the parameters, also when the recipe says it.
    """
    from mlkit.parameters import read_parameters

    given: dict[str, Any] = {}
    for file in options.file:
        given |= read_parameters(Path(file).absolute())
    given |= {name: _typed(name, value) for name, value in options.parameter}
    given |= {name: typed_path(getattr(options, name)) for name in ("images", "labels") if getattr(options, name)}
    if earlier:
        return {**earlier, **given}
    sample = read_parameters(resolve(_RECIPES.format("sample")))
    own = given.get("images", sample["images"]) != sample["images"]
    if bool(options.images) != bool(options.labels) or (own and "labels" not in given):
        raise MlkitError("--images and --labels belong together: give both, or none for the sample data")
    if standard:
        return read_parameters(resolve(_RECIPES.format(standard))) | given
    recipe = str(given.setdefault("recipe", _RECIPES.format("seed" if own else "sample")))
    content = read_parameters(resolve(recipe)) if recipe else sample
    return {name: content[name] for name in ("images", "labels") if name in content} | given


def given_recipe(given: Mapping[str, Any]) -> Any:
    """The recipe that the parameters of a call come to."""
    from mlkit.training.recipe import Recipe

    return Recipe.read(str(given.get("recipe", "")), {name: value for name, value in given.items() if name != "recipe"})


def typed_path(path: str) -> str:
    """A path that was typed in a shell, as a parameter that means the same wherever it is read."""
    return shown(typed_place(path))


def typed_place(path: str) -> Path:
    """Where images or labels are that were typed in a shell, here or elsewhere."""
    return locate(path if is_address(path) else Path(path).expanduser().absolute())


def local_path(path: str) -> Path:
    """A path that was typed, to write to. Raises MlkitError for an address."""
    return resolve(path if is_address(path) else Path(path).expanduser().absolute())


def new_path(path: str) -> Path:
    """A path that was typed, to write to. Raises MlkitError if something is there."""
    out = local_path(path)
    if out.exists():
        raise MlkitError(f"{shown(out)} is there already; choose another name, or delete it")
    return out


def typed_run(text: str) -> str:
    """A run that was typed in a shell: a name or pattern, or a path from where the person is.

    `./single` and `single/`, which a shell completes, are the run `single` where no such folder is here.
    """
    path = Path(text).expanduser()
    if text not in (".", "..") and path.name == text:
        return text
    return path.name if len(path.parts) == 1 and not path.exists() else str(path.absolute())


def add_model_option(command: argparse.ArgumentParser) -> None:
    """Let a command be told which model to ask, see `typed_model`."""
    command.add_argument(
        "--model", default="", metavar="RUN_OR_FILE", help="run name or folder, or model.pth (default: newest finished run)"
    )


def add_dask_option(command: argparse.ArgumentParser) -> None:
    """Let a command be told which cluster works for it, see `fanout.open_cluster`."""
    meaning = "Dask workers that share the work: local, tcp://HOST:8786, a .yaml file (default: MLKIT_DASK, else none)"
    command.add_argument("--dask", default="", metavar="WHERE", type=_typed_cluster, help=meaning)


def _typed_cluster(text: str) -> str:
    return typed_path(text) if text.endswith((".yaml", ".yml")) else text


def typed_model(text: str) -> str:
    """A run, or a model file; empty stays so."""
    return typed_path(text) if text.endswith((".pth", ".pt")) else typed_run(text) if text else ""


def _typed(name: str, value: str) -> str:
    if (name in _PATHS and value) or (name in FILES and value not in NO_FILE):
        return typed_path(value)
    return typed_run(value) if name in RUNS and value else value


def command_line(words: Sequence[str]) -> str:
    """A command to be typed again, quoted as this system's shell has it."""
    return shlex.join(words) if os.name == "posix" else subprocess.list2cmdline(words)


def settings_table(known: Mapping[str, Any]) -> str:
    """Every setting with its default, what it may be, and its meaning; `known` as of `parameters_of`."""
    rows = [("setting", "default", "meaning")]
    for name, parameter in known.items():
        allowed = f" [{parameter.allowed}]" if parameter.allowed else ""
        rows.append((name, json.dumps(parameter.default), parameter.meaning + allowed))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:{widths[0]}}  {default:{widths[1]}}  {meaning}" for name, default, meaning in rows)
