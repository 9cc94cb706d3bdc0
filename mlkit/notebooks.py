"""The ordered notebooks, headless: parameters checked, unchanged notebooks skipped, failures reported with the way on.

A small manifest in the run folder holds, per notebook, the digest of all that decides its result (its source, what it
imports of mlkit, its parameters, the files and runs they name, the data) and the identity of the run that it was executed
on. A notebook whose digest is there already, for this run, is not executed again.
"""

import ast
import hashlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mlkit.errors import MlkitError, ParameterError, RunError, WriteError
from mlkit.files import make_folder, move, project_root, read_json, reason, resolve, shown, write_json
from mlkit.parameters import (
    FILES,
    NO_FILE,
    RUNS,
    check_parameters,
    known_parameters,
    notebook_cells,
    notebook_path,
    read_parameters,
)
from mlkit.progress import SWITCH, bar, say
from mlkit.runs import HELD, PACKAGES, Run, folder_of, named_folder

CHAIN = (
    "01_explore_label_imbalance",
    "02_train_resnet18",
    "03_plot_loss",
    "04_single_image_inference",
    "05_evaluate",
)
TRAINING = CHAIN[1]
_OWN = ("run", "overwrite", "trial")  # parameters that are not the person's to give


class NotebookError(MlkitError):
    """A notebook failed; the text names it, the cell and the error. Execution can go on from `notebook` in `run`."""

    def __init__(self, run: Run, notebook: str, cell: int, reason: str) -> None:
        self.run = run
        self.notebook = notebook
        self.replaces = False  # whether the run that was to be overwritten is still there
        partial = shown(run / f"{notebook}.partial.ipynb")
        super().__init__(f"notebook: {notebook}\ncell:     {cell} (see {partial})\nerror:    {' '.join(reason.split())}")


class InterruptedNotebook(NotebookError):
    """A notebook was interrupted by the person."""


def select(only: str = "", start: str = "") -> list[str]:
    """The part of the chain that `--only` or `--from` names, by number (02) or name.

    Raises:
        ParameterError: if no notebook is called so, or both are given.
    """
    if only and start:
        raise ParameterError("--only executes one notebook, --from several; give one of them")
    for text in filter(None, (only, start)):
        if not any(_is(notebook, text) for notebook in CHAIN):
            raise ParameterError(f"no notebook {text!r} in the chain; known are {', '.join(CHAIN)}")
    if only:
        return [notebook for notebook in CHAIN if _is(notebook, only)]
    first = next((i for i, notebook in enumerate(CHAIN) if start and _is(notebook, start)), 0)
    return list(CHAIN[first:])


def earlier_parameters(name: str, settings: Collection[str], chosen: Sequence[str] = CHAIN) -> dict[str, Any]:
    """Parameters that the run `name` was made with, by `run_notebooks` or otherwise; empty if there is no such run.

    Args:
        name: of the run.
        settings: names of all settings of a training.
        chosen: notebooks that are to be executed. Where the training is among them, what was asked for last counts; where
            they build on the training that is there, what that one was made with.
    """
    if not name:
        return {}
    run = Run(named_folder(name))
    manifest, made = _Manifest(run), run.config()["parameters"] if run.id else {}
    known = {key for notebook in CHAIN for key in known_parameters(notebook)} | set(settings)
    # every setting is said, so that no recipe is needed
    trained = {key: value for key, value in {"recipe": "", **made}.items() if made and key in known}
    asked = {key: value for key, value in manifest.parameters.items() if key in known}  # an older mlkit may have had others
    return trained | asked if TRAINING in chosen and manifest.speaks_of_training() else asked | trained


def run_notebooks(
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    name: str = "",
    only: str = "",
    start: str = "",
    overwrite: bool = False,
    timeout: int | None = None,
) -> Run:
    """Execute the notebooks in order into `outputs/<name>/`.

    Args:
        given: parameters and settings of the training; each notebook takes the parameters that it has, and those that train
            the settings, on top of their recipe.
        settings: all that a training has, see `check_parameters`.
        name: run folder; empty takes one after the data, and another number where that one holds something else.
        only, start: run one notebook, or from one on, again, even where nothing changed.
        overwrite: train again, and replace the run that is in the folder.
        timeout: seconds that one cell may take.

    Raises:
        ParameterError: before anything runs, for an unknown or mistyped parameter.
        RunError: if the run folder holds something else, or a finished training that nobody said to replace.
        NotebookError: if a notebook fails; what the notebooks before it made is kept.
    """
    known = {notebook: known_parameters(notebook) for notebook in CHAIN}
    everything = {key: value for parameters in known.values() for key, value in parameters.items()}
    own = {key: value for key, value in everything.items() if key not in (*_OWN, "settings")}
    given = check_parameters(given, {**settings, **own})
    chosen, asked = select(only, start), bool(only or start)
    if overwrite and TRAINING not in chosen:
        raise ParameterError(f"--overwrite replaces a training, and {', '.join(chosen)} train nothing; leave it out")
    asked_for = {notebook: _parameters_of(given, known[notebook], settings) for notebook in CHAIN}
    values = {notebook: known[notebook] | asked_for[notebook] for notebook in CHAIN}
    data = _data_state(resolve(values[TRAINING]["images"]), resolve(values[TRAINING]["labels"]))
    digests = {notebook: _digest_of(notebook, values[notebook], data) for notebook in CHAIN}
    run = _run_folder(name, digests[TRAINING], given, settings, TRAINING in chosen, overwrite, asked)
    with run.claimed():
        manifest, before = _Manifest(run), run.id
        manifest.parameters = given
        for number, notebook in enumerate(chosen, 1):
            title = f"[{number}/{len(chosen)}] {notebook}"
            if manifest.holds(notebook, digests[notebook]) and not asked and not overwrite:
                say(f"{title}: nothing changed, kept")
                continue
            parameters = dict(asked_for[notebook])
            if "run" in known[notebook]:
                parameters["run"] = run.name
            if notebook == TRAINING:
                parameters["overwrite"] = overwrite
            manifest.set(notebook, digests[notebook], done=False)
            say(title)
            started = time.monotonic()
            try:
                execute(notebook, run, parameters, timeout)
            except NotebookError as error:
                error.replaces = overwrite and run.id == before
                raise
            manifest.set(notebook, digests[notebook], done=True)
            say(f"{title}: done in {time.monotonic() - started:.0f} s")
    return run


def _parameters_of(given: Mapping[str, Any], known: Mapping[str, Any], settings: Collection[str]) -> dict[str, Any]:
    """What of the given a notebook takes: its own parameters, and in a dictionary the settings of the training."""
    parameters = {key: value for key, value in given.items() if key in known}
    if "settings" in known and (top := {key: given[key] for key in given if key in settings and key not in known}):
        parameters["settings"] = top
    return parameters


class _Manifest:
    """The parameters given to a run; per notebook, the digest of what decides its result, and the run it was made on."""

    def __init__(self, run: Run) -> None:
        self._run, self._path = run, run / "manifest.json"
        stored = read_json(self._path) if self._path.exists() else {}
        self.parameters: dict[str, Any] = stored.get("parameters", {})
        self._notebooks: dict[str, dict[str, Any]] = stored.get("notebooks", {})

    def holds(self, notebook: str, digest: str) -> bool:
        """Whether a notebook was made from this, on the run that is there now; what precedes the training needs none."""
        stored = self._notebooks.get(notebook, {})
        same = CHAIN.index(notebook) < CHAIN.index(TRAINING) or stored.get("run") == self._run.id
        there = (self._run / f"{notebook}.ipynb").exists()
        return bool(stored.get("done")) and stored["digest"] == digest and same and there

    def speaks_of_training(self) -> bool:
        """Whether the training that is there, or that was begun last, is of these parameters."""
        stored = self._notebooks.get(TRAINING, {})
        return bool(stored) and (not stored["done"] or stored.get("run") == self._run.id)

    def began(self, digest: str) -> bool:
        """Whether the unfinished training that is there can be one that was begun from this."""
        stored = self._notebooks.get(TRAINING, {})
        return not stored.get("done", True) and stored["digest"] == digest

    def set(self, notebook: str, digest: str, done: bool) -> None:
        self._notebooks[notebook] = {"digest": digest, "done": done, "run": self._run.id}
        write_json(self._path, {"parameters": self.parameters, "notebooks": self._notebooks})


def _run_folder(
    name: str,
    digest: str,
    given: Mapping[str, Any],
    settings: Collection[str],
    trains: bool,
    overwrite: bool,
    asked: bool,
) -> Run:
    """The folder to work in: one that is free or holds this very training, or that is to be overwritten.

    Args:
        digest: of the training.
        given: parameters.
        settings: names of all settings of a training.
        trains: whether the training is to be executed.
        overwrite: whether the run that is there may be replaced.
        asked: whether notebooks are executed even where nothing changed.

    Raises:
        RunError: if the named folder holds something else.
    """
    data = Path(str(given.get("labels") or known_parameters(TRAINING)["labels"]))
    base, number = name or data.parent.name or "run", 1
    training = {key: given[key] for key in settings if key in given}
    while True:
        run = Run(named_folder(base if number == 1 else f"{base}-{number}"))
        why = _obstacle(run, digest, training, trains, asked) if run.id and not (overwrite and trains) else ""
        if not why:
            return run
        if name or (asked and _Manifest(run).holds(TRAINING, digest)):
            raise RunError(f"{run} holds {why}")
        number += 1


def _obstacle(run: Run, digest: str, given: Mapping[str, Any], trains: bool, asked: bool) -> str:
    """What a run folder holds that cannot be gone on with, and the ways out; empty if it can be."""
    manifest, ways = _Manifest(run), "give another --name, or --overwrite to replace it"
    if run.members:
        return f"an ensemble, there is nothing to train; {ways}" if trains else ""
    if not trains:
        made = run.config()["parameters"]
        other = [key for key in given if made.get(key, given[key]) != given[key]]
        return f"a run with other {', '.join(other)}, which decide its training; leave them out, or {ways}" if other else ""
    if not run.finished:
        return "" if manifest.began(digest) else f"an unfinished run with other parameters, data or code; {ways}"
    if not manifest.holds(TRAINING, digest):
        return (
            f"a run with other parameters, data or code, or not made by `mlkit run`; {ways}, or --from 03 to go on from it"
        )
    return "this very training, finished; --from 03 goes on from it, --overwrite trains again" if asked else ""


def _digest_of(notebook: str, parameters: Mapping[str, Any], data: Sequence[str]) -> str:
    """Digest of all that decides the result of a notebook, the run aside; `data` is the state of images and labels."""
    cells = notebook_cells(notebook)
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    own = {key: value for key, value in parameters.items() if key not in (*_OWN, "recipe", "settings")}
    if recipe := parameters.get("recipe"):
        own = read_parameters(resolve(recipe)) | own
    own |= parameters.get("settings", {})
    parts = [*_code(source), *(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)]
    parts += [json.dumps(own, sort_keys=True), *data]
    parts += [_file_state(resolve(own[key])) for key in FILES if own.get(key, "none") not in NO_FILE]
    parts += [_run_state(Run(folder_of(own[key]))) for key in RUNS if own.get(key)]
    return _digest(*parts)


def _code(source: str) -> list[str]:
    """What a notebook computes: its own code, and that of mlkit's modules which it imports, directly or not."""
    code, imported = _parsed("\n".join(line for line in source.splitlines() if not line.startswith(("%", "!"))))
    found: dict[Path, str] = {}
    while imported:
        module = imported.pop()
        base = Path(__file__).parent.joinpath(*module.split(".")[1:])
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


def _data_state(images: Path, labels: Path) -> list[str]:
    return [_file_state(labels), *sorted(_file_state(file) for file in images.rglob("*") if file.is_file())]


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


def _is(notebook: str, text: str) -> bool:
    return notebook == text.removesuffix(".ipynb") or notebook.split("_")[0] == text.zfill(2)


class _Terminal:
    """Passes what a notebook prints on to the terminal, line by line, as it comes."""

    def write(self, text: str) -> None:
        for line in text.rstrip("\n").split("\n"):
            say(f"      {line}")

    def flush(self) -> None: ...


def execute(
    notebook: str, run: Run, parameters: Mapping[str, Any], timeout: int | None = None, silent: bool = False
) -> None:
    """Execute one notebook by papermill in this Python's kernel; the file gets its name only when all went well.

    Args:
        notebook: its name.
        run: folder that the executed notebook goes into, claimed by the caller.
        parameters: all of them known, see `known_parameters`.
        timeout: seconds that one cell may take.
        silent: do not pass on what it prints.

    Raises:
        NotebookError: if it fails.
    """
    import papermill  # costs a second, and only this function needs it
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    target, partial = run / f"{notebook}.ipynb", run / f"{notebook}.partial.ipynb"
    make_folder(run.path)
    cells = notebook_cells(notebook)
    position = 0
    # this environment's kernel, whatever else is installed or on JUPYTER_PATH
    own = {SWITCH: "off", "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")), HELD: str(run.path)}
    before = {key: os.environ.get(key) for key in own}
    os.environ |= own
    with bar(total=len(cells), desc=notebook, unit="cell") as progress:

        def mark(cell_index: int, **_: Any) -> None:
            nonlocal position
            position = cell_index + 1
            progress.update(cell_index - progress.n)

        try:
            papermill.execute_notebook(
                notebook_path(notebook),
                partial,
                parameters=dict(parameters),
                kernel_name="python3",
                cwd=project_root(),
                progress_bar=False,
                stdout_file=None if silent else _Terminal(),
                execution_timeout=timeout,
                store_widget_state=False,
                on_cell_start=mark,
                config=Config(
                    {
                        "KernelManager": {"transport_encryption": "auto"},
                        # a kernel that is shut down may say "KeyboardInterrupt", which alarms and means nothing
                        "NotebookClient": {"extra_arguments": ["--log-level=CRITICAL"]},
                    }
                ),
            )
        except PapermillExecutionError as error:
            raise NotebookError(run, notebook, error.cell_index + 1, f"{error.ename}: {error.evalue}") from None
        except CellTimeoutError:
            raise NotebookError(run, notebook, position, f"the cell took longer than {timeout} s") from None
        except DeadKernelError:
            raise NotebookError(run, notebook, position, "the kernel died (killed, or out of memory)") from None
        except (FileNotFoundError, PermissionError, KeyError, ValueError, RuntimeError) as error:
            if position:
                raise
            raise NotebookError(
                run,
                notebook,
                0,
                f"the kernel python3 does not start ({error}); mend it: {sys.executable} -m ipykernel install --sys-prefix",
            ) from None
        except OSError as error:
            raise WriteError(f"{partial} cannot be written ({reason(error)})") from None
        except KeyboardInterrupt:
            raise InterruptedNotebook(run, notebook, position, "interrupted") from None
        finally:
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
    move(partial, target)
