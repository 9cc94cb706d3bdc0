"""The ordered notebooks, headless: parameters checked, unchanged notebooks skipped, failures reported with the way on.

A small manifest in the run folder holds, per notebook, the digest of all that decides its result: its source, its
parameters, mlkit's code, the data, and what it builds on. A notebook whose digest is there already is not run again.
"""

import ast
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlkit.errors import MlkitError, ParameterError, RunError
from mlkit.files import make_folder, project_root, resolve, shown, write_json
from mlkit.parameters import check_parameters
from mlkit.progress import SWITCH, bar, say
from mlkit.runs import HELD, Run, named_folder, outputs_root

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
        partial = shown(run / f"{notebook}.partial.ipynb")
        super().__init__(f"notebook: {notebook}\ncell:     {cell} (see {partial})\nerror:    {' '.join(reason.split())}")


class InterruptedNotebook(NotebookError):
    """A notebook was interrupted by the person."""


def notebook_path(notebook: str) -> Path:
    return project_root() / "notebooks" / f"{notebook}.ipynb"


def known_parameters(notebook: str) -> dict[str, Any]:
    """Parameters of a notebook, name -> default, read from its tagged cell."""
    cells = json.loads(notebook_path(notebook).read_text(encoding="utf-8"))["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    return {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(source).body}  # type: ignore[attr-defined]


def select(only: str = "", start: str = "") -> list[str]:
    """The part of the chain that `--only` or `--from` names, by number (02) or name.

    Raises:
        ParameterError: if no notebook is called so.
    """
    for text in filter(None, (only, start)):
        if not any(_is(notebook, text) for notebook in CHAIN):
            raise ParameterError(f"no notebook {text!r} in the chain; known are {', '.join(CHAIN)}")
    if only:
        return [notebook for notebook in CHAIN if _is(notebook, only)]
    first = next((i for i, notebook in enumerate(CHAIN) if start and _is(notebook, start)), 0)
    return list(CHAIN[first:])


def given_parameters(name: str) -> dict[str, Any]:
    """Parameters that the run `name` was made with, by `run_notebooks` or otherwise; empty if there is no such run."""
    if not name:
        return {}
    run = Run(outputs_root() / name)
    given = _Manifest(run).parameters
    if given or not (run / "config.json").exists():
        return given
    made = run.config()["parameters"]
    return {key: made[key] for key in known_parameters(TRAINING) if key in made}


def run_notebooks(
    given: Mapping[str, Any],
    name: str = "",
    only: str = "",
    start: str = "",
    overwrite: bool = False,
    timeout: int | None = None,
) -> Run:
    """Execute the notebooks in order into `outputs/<name>/`.

    Args:
        given: parameters; each notebook takes those that it has.
        name: run folder; empty takes one after the data, and another number where that one holds something else.
        only, start: run one notebook, or from one on, again, even where nothing changed.
        overwrite: train again into a run folder that holds another run.
        timeout: seconds that one cell may take.

    Raises:
        ParameterError: before anything runs, for an unknown or mistyped parameter.
        RunError: if the run folder holds something else.
        NotebookError: if a notebook fails; what the notebooks before it made is kept.
    """
    known = {notebook: known_parameters(notebook) for notebook in CHAIN}
    everything = {key: value for parameters in known.values() for key, value in parameters.items()}
    given = check_parameters(given, {k: v for k, v in everything.items() if k not in _OWN})
    chosen, asked = select(only, start), bool(only or start)
    digests = _digests(known, given)
    trains = TRAINING in chosen
    run = _run_folder(name, digests, given, trains, overwrite or (asked and trains))
    if trains and run.members and not overwrite:
        raise RunError(f"{run} is an ensemble, there is nothing to train; give another --name, or --overwrite to replace it")
    with run.claimed():
        manifest = _Manifest(run)
        manifest.parameters = given
        for number, notebook in enumerate(chosen, 1):
            title = f"[{number}/{len(chosen)}] {notebook}"
            if manifest.get(notebook) == {"digest": digests[notebook], "done": True} and not asked and not overwrite:
                say(f"{title}: nothing changed, kept")
                continue
            parameters = {k: v for k, v in given.items() if k in known[notebook]}
            if "run" in known[notebook]:
                parameters["run"] = run.name
            if notebook == TRAINING:
                # An unfinished training with the same parameters goes on; anything else that is there was to be replaced.
                unfinished = manifest.get(notebook).get("digest") == digests[notebook] and not run.finished
                parameters["overwrite"] = (run / "config.json").exists() and not unfinished
            manifest.set(notebook, digests[notebook], done=False)
            say(title)
            started = time.monotonic()
            execute(notebook, run, parameters, timeout)
            manifest.set(notebook, digests[notebook], done=True)
            say(f"{title}: done in {time.monotonic() - started:.0f} s")
    return run


class _Manifest:
    """The parameters given to a run; per notebook, the digest of what it was made from, and whether it was finished."""

    def __init__(self, run: Run) -> None:
        self._path = run / "manifest.json"
        stored = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.parameters: dict[str, Any] = stored.get("parameters", {})
        self._notebooks: dict[str, dict[str, Any]] = stored.get("notebooks", {})

    def get(self, notebook: str) -> dict[str, Any]:
        return self._notebooks.get(notebook, {})

    def set(self, notebook: str, digest: str, done: bool) -> None:
        self._notebooks[notebook] = {"digest": digest, "done": done}
        write_json(self._path, {"parameters": self.parameters, "notebooks": self._notebooks})


def _run_folder(name: str, digests: dict[str, str], given: Mapping[str, Any], trains: bool, replace: bool) -> Run:
    """The folder to work in: one that is free or holds this very training, or what the caller agreed to replace.

    Where nothing is trained, a named run that was made without notebooks will do as well.
    """
    data = Path(str(given.get("labels") or known_parameters(TRAINING)["labels"]))
    base = name or data.parent.name or "run"
    number = 1
    while True:
        run = Run(named_folder(base if number == 1 else f"{base}-{number}"))
        trained = _Manifest(run).get(TRAINING)
        exists = (run / "config.json").exists()
        fits = trained.get("digest") == digests[TRAINING] or (name and exists and not trained and not trains)
        if fits or not (trained or exists) or (replace and (name or number == 1)):
            return run
        if name:
            raise RunError(
                f"{run} holds a run with other parameters, data or code; give another --name, or --overwrite to replace it"
            )
        number += 1


def _digests(known: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, str]:
    """Per notebook, the digest of all that decides its result."""
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))]
    values = {**known[TRAINING], **given}
    shared = _digest(*code, *_data_state(resolve(values["images"]), resolve(values["labels"])))
    digests: dict[str, str] = {}
    for notebook in CHAIN:
        parameters = {k: v for k, v in {**known[notebook], **given}.items() if k in known[notebook]}
        before = digests.get(TRAINING, "")  # later notebooks read what the training left
        cells = json.loads(notebook_path(notebook).read_text(encoding="utf-8"))["cells"]
        source = json.dumps([cell["source"] for cell in cells if cell["cell_type"] == "code"])
        image = _file_state(resolve(parameters["image"])) if parameters.get("image") else ""
        digests[notebook] = _digest(shared, before, source, json.dumps(parameters, sort_keys=True), image)
    return digests


def _data_state(images: Path, labels: Path) -> list[str]:
    from mlkit.sample import ensure_sample  # so that the first call and the second see the same files

    ensure_sample(str(labels))
    return [_file_state(labels), *sorted(_file_state(file) for file in images.rglob("*") if file.is_file())]


def _file_state(path: Path) -> str:
    stat = path.stat() if path.exists() else None
    return f"{path} {stat.st_size} {stat.st_mtime_ns}" if stat else f"{path} missing"


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(hashlib.blake2b(part.encode() if isinstance(part, str) else part).digest())
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
    cells = json.loads(notebook_path(notebook).read_text(encoding="utf-8"))["cells"]
    position = 0
    # this environment's kernel before the user's own
    own = {SWITCH: "off", "JUPYTER_PREFER_ENV_PATH": "1", HELD: f"{os.getpid()} {run.path}"}
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
        except KeyboardInterrupt:
            raise InterruptedNotebook(run, notebook, position, "interrupted") from None
        finally:
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
    os.replace(partial, target)
