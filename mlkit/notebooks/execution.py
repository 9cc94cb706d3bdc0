"""One notebook, executed by papermill; what can go wrong with it, for people."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlkit.errors import MlkitError, Terminated, WriteError
from mlkit.files import environment, make_folder, move, project_root, reason, shown
from mlkit.parameters import notebook_cells, notebook_path
from mlkit.progress import SWITCH, bar, say
from mlkit.runs import HELD, Run


class NotebookError(MlkitError):
    """A notebook failed; the text names it, the cell and the error. Execution can go on from `notebook` in `run`."""

    def __init__(self, run: Run, notebook: str, cell: int, reason: str) -> None:
        self.run = run
        self.notebook = notebook
        self.replaces = False  # whether the run that was to be overwritten is still there
        partial = shown(run / f"{notebook}.partial.ipynb")
        super().__init__(f"notebook: {notebook}\ncell:     {cell} (see {partial})\nerror:    {' '.join(reason.split())}")


class InterruptedNotebook(NotebookError):
    """A notebook was interrupted from outside.

    Attributes:
        stop: by what.
    """

    def __init__(self, run: Run, notebook: str, cell: int, stop: KeyboardInterrupt) -> None:
        super().__init__(run, notebook, cell, "ended by the system" if isinstance(stop, Terminated) else "interrupted")
        self.stop = stop


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
        WriteError: if it cannot be written.
    """
    with light_formats():
        import papermill  # costs a second, and only this function needs it
    from traitlets.config import Config

    target, partial = run / f"{notebook}.ipynb", run / f"{notebook}.partial.ipynb"
    make_folder(run.path)
    # a kernel that is shut down may say "KeyboardInterrupt", which alarms and means nothing
    quiet = {"extra_arguments": ["--log-level=CRITICAL"]}
    # an interrupted training saves before it ends; after half of these seconds the kernel is told again, at the end killed
    kernel = {"transport_encryption": "auto", "shutdown_wait_time": 120.0}
    # this environment's kernel, whatever else is installed or on JUPYTER_PATH
    own = {SWITCH: "off", "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")), HELD: str(run.path)}
    with environment(**own), bar(total=len(notebook_cells(notebook)), desc=notebook, unit="cell") as progress:
        position = _Position(progress)
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
                on_cell_start=position.move,
                config=Config({"KernelManager": kernel, "NotebookClient": quiet}),
            )
        except KeyboardInterrupt as stop:
            raise InterruptedNotebook(run, notebook, position.cell, stop) from None
        except Exception as error:
            if why := _why(error, position.cell, timeout):
                raise NotebookError(run, notebook, position.cell, why) from None
            if isinstance(error, OSError):
                raise WriteError(f"{partial} cannot be written ({reason(error)})") from None
            raise
    move(partial, target)


@contextmanager
def light_formats() -> Iterator[None]:
    """What reads notebooks is imported in 2 s less meanwhile.

    They would go into jsonschema's grammar of international addresses, which no notebook has, and without which it does.
    """
    module = "rfc3987_syntax"
    loaded = sys.modules.setdefault(module, None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        if loaded is None:
            del sys.modules[module]


class _Terminal:
    """Passes what a notebook prints on to the terminal, line by line, as it comes."""

    def write(self, text: str) -> None:
        for line in text.rstrip("\n").split("\n"):
            say(f"      {line}")

    def flush(self) -> None: ...


class _Position:
    """The cell at work, counted from 1, on a progress bar; 0 while the kernel starts."""

    def __init__(self, progress: Any) -> None:
        self.cell, self._progress = 0, progress

    def move(self, cell_index: int, **_: Any) -> None:
        self.cell = cell_index + 1
        self._progress.update(cell_index - self._progress.n)


def _why(error: Exception, cell: int, timeout: int | None) -> str:
    """Why a notebook failed, by what papermill raises; empty where that says nothing of the notebook."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    match error:
        case PapermillExecutionError():
            return f"{error.ename}: {error.evalue}"
        case CellTimeoutError():
            return f"the cell took longer than {timeout} s"
        case DeadKernelError():
            return "the kernel died (killed, or out of memory)"
        case FileNotFoundError() | PermissionError() | KeyError() | ValueError() | RuntimeError() if not cell:
            mend = f"{sys.executable} -m ipykernel install --sys-prefix"
            return f"the kernel python3 does not start ({error}); mend it: {mend}; it also needs this machine's 127.0.0.1"
    return ""
