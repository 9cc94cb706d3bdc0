"""What decides the result of a notebook: its code, what it imports of mlkit, its parameters, files and runs, the data."""

import ast
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlkit
from mlkit.files import address, is_address, resolve
from mlkit.notebooks.chain import OWN
from mlkit.parameters import FILES, NO_FILE, RUNS, notebook_cells, read_parameters
from mlkit.runs import PACKAGES, Run, folder_of


def digest_of(notebook: str, parameters: Mapping[str, Any], data: Sequence[str]) -> str:
    """Digest of all that decides the result of a notebook, the run aside; `data` is the state of images and labels."""
    cells = notebook_cells(notebook)
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    own = {key: value for key, value in parameters.items() if key not in (*OWN, "recipe", "settings")}
    if recipe := parameters.get("recipe"):
        own = read_parameters(resolve(recipe)) | own
    own |= parameters.get("settings", {})
    parts = [*_code(source), *(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)]
    parts += [json.dumps(own, sort_keys=True), *data]
    parts += [
        _file_state(resolve(file)) for key in FILES if (file := own.get(key, "none")) not in NO_FILE and not is_address(file)
    ]
    parts += [_run_state(Run(folder_of(own[key]))) for key in RUNS if own.get(key)]
    return _digest(*parts)


def _code(source: str) -> list[str]:
    """What a notebook computes: its own code, and that of mlkit's modules which it imports, directly or not."""
    code, imported = _parsed("\n".join(line for line in source.splitlines() if not line.startswith(("%", "!"))))
    found: dict[Path, str] = {}
    while imported:
        module = imported.pop()
        base = Path(mlkit.__file__).parent.joinpath(*module.split(".")[1:])
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file() and path not in found:
                found[path], more = _module(path)
                imported |= more
    return [code, *(found[path] for path in sorted(found))]


@cache
def _module(path: Path) -> tuple[str, set[str]]:
    return _parsed(path.read_text(encoding="utf-8"))


def _parsed(source: str) -> tuple[str, set[str]]:
    """Code without comments and docstrings, which decide nothing, and the modules of mlkit that it imports."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # the notebook will say so
        return source, set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    parents = {name.rpartition(".")[0] for name in names}  # a package's own code is executed, too
    return ast.dump(tree), {name for name in names | parents if name.split(".")[0] == "mlkit"}


def data_state(images: Path, labels: Path) -> list[str]:
    """State of images and labels, of those that are here."""
    files = [] if address(images) else [file for file in images.rglob("*") if file.is_file()]
    return [*([] if address(labels) else [_file_state(labels)]), *sorted(map(_file_state, files))]


def _file_state(path: Path) -> str:
    stat = path.stat() if path.exists() else None
    return f"{path} {stat.st_size} {stat.st_mtime_ns}" if stat else f"{path} missing"


def _run_state(run: Run) -> str:
    return f"{run.id} {_file_state(run / 'model.pth')} {_file_state(run / 'predictions.csv')}"


def _digest(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(hashlib.blake2b(part.encode()).digest())
    return digest.hexdigest()
