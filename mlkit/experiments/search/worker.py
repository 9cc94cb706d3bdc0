"""Processes that run the trials of a search."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlkit.data.cache import cores
from mlkit.errors import ClaimError, FailureError, MlkitError
from mlkit.experiments.search.storage import STORAGE, storage_name
from mlkit.experiments.search.tuning import Tuning, marks_of
from mlkit.fanout import Piece, open_cluster, run_pieces
from mlkit.files import project_root
from mlkit.notebooks import TRAINING, InterruptedNotebook, execute
from mlkit.progress import SWITCH, bar, say
from mlkit.runs import Claim, Run, Stopped
from mlkit.training.recipe import notebook_parameters

if TYPE_CHECKING:
    from distributed import Client
    from optuna.trial import FrozenTrial, Trial

_MOST_FAILURES = 3  # in a row: then it is not the settings of one trial


def run_workers(tuning: Tuning, workers: int = 1, dask: str = "") -> None:
    """Run queued trials in processes of their own until none waits. More processes may join, here or on other machines.

    Args:
        tuning: the search.
        workers: number of processes of this machine.
        dask: who runs the trials in their place, see `open_cluster`.

    Raises:
        MlkitError: if a process failed or was killed, once the others have ended; or for SQLite and several workers.
    """
    with open_cluster(dask) as client:
        if client is not None:
            _run_pieces(tuning, client)
            return
    check_workers(workers)
    waiting, before = len(tuning.queued()), {trial.number for trial in tuning.abandoned()}
    workers = min(workers, waiting)
    processes = [_start(tuning, number, workers) for number in range(workers)]
    with bar(total=waiting, desc="search", unit="trial", smoothing=0.1) as progress:
        last = _follow(processes, lambda: progress.update(waiting - len(tuning.queued()) - progress.n))
    failed = [(process, line) for process, line in zip(processes, last, strict=True) if process.returncode]
    if left := [trial.number for trial in tuning.abandoned() if trial.number not in before]:
        numbers = ", ".join(map(str, left))
        raise FailureError(
            f"a worker of {tuning.name} was killed (exit code {failed[0][0].returncode if failed else 'unknown'}) at trial "
            f"{numbers}; to go on with it: mlkit tune --name {tuning.name} --recover"
        )
    if failed:
        raise FailureError(f"a worker of {tuning.name} failed: {failed[0][1].strip().removeprefix('mlkit: ')}")


def _run_pieces(tuning: Tuning, client: "Client") -> None:
    """Run the queued trials on a cluster."""
    check_workers(2)
    pieces = [Piece(f"trial {number}", (tuning.name, number)) for number in tuning.queued()]
    failures = 0
    with bar(total=len(pieces), desc="search", unit="trial", smoothing=0.1) as progress:
        for piece in run_pieces(client, _run_piece, pieces, [STORAGE]):
            progress.update()
            trial = tuning.last(piece.arguments[1])
            error = trial.user_attrs.get("error", "")
            said = error or f"validation mAP {max(trial.intermediate_values.values(), default=nan):.3f}"
            say(f"trial {trial.number}: {_text(trial)}: {trial.state.name.lower()}, {said}")
            failures = failures + 1 if error else 0
            if failures == _MOST_FAILURES:
                raise FailureError(f"{failures} trials in a row failed, the last: {error}")


def _run_piece(name: str, number: int) -> None:
    """Run a queued trial, or go on with it where a worker was killed; nothing if another process runs it."""
    tuning = Tuning.open(name)
    if (begun := tuning.last(number)).state.name == "RUNNING" and tuning.is_abandoned(begun.number):
        tuning.give_back(begun.number)
    if claimed := tuning.take(tuning.last(number).number):
        trial, claim = claimed
        with claim:
            _run(tuning, trial)


def _start(tuning: Tuning, number: int, workers: int) -> "subprocess.Popen[str]":
    """Worker `number` of several, as a process."""
    environment = os.environ | {SWITCH: "off", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(
        [sys.executable, "-m", "mlkit", "tune", "--name", tuning.name, "--worker"],
        cwd=project_root(),
        env=environment | _share(number, workers),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        # apart, so that an interruption reaches them through this process, once; the second is Windows' word for it
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def _follow(processes: Sequence["subprocess.Popen[str]"], told: Callable[[], object]) -> list[str]:
    """Pass on what processes print until they end, `told` after each line; returns the last line of each."""

    def follow(process: "subprocess.Popen[str]") -> str:
        line = ""
        assert process.stdout is not None
        for line in process.stdout:
            say(line.rstrip("\n"))
            told()
        process.wait()
        return line

    with ThreadPoolExecutor(max(1, len(processes))) as executor:
        try:
            followed = [executor.submit(follow, process) for process in processes]
            while wait(followed, timeout=1).not_done:  # in short turns: in Windows nothing interrupts a wait without end
                pass
            return [one.result() for one in followed]
        except KeyboardInterrupt:
            for process in processes:
                process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))  # each gives its trial back
            raise


def check_workers(workers: int) -> None:
    """Raise MlkitError for several workers on a SQLite database."""
    if workers > 1 and storage_name().startswith("sqlite"):
        raise MlkitError(f"--workers is {workers}. {_SQLITE}")


def work(tuning: Tuning) -> None:
    """Run queued trials in this process, one after the other, until none waits.

    Raises:
        MlkitError: if several in a row fail, or another process works on a search that is kept in SQLite.
        KeyboardInterrupt: once the trial is given back.
    """
    with ExitStack() as stack:
        if storage_name().startswith("sqlite"):
            try:
                stack.enter_context(Claim(tuning.folder / "claims" / "sqlite.lock", tuning.name))
            except ClaimError as error:
                raise MlkitError(f"{error}. {_SQLITE}") from None
        failures = 0
        while claimed := tuning.take():
            trial, claim = claimed
            with claim:
                failures = 0 if _run(tuning, trial) else failures + 1
            if failures == _MOST_FAILURES:
                raise FailureError(f"{failures} trials in a row failed, the last: {trial.user_attrs['error']}")


def _run(tuning: Tuning, trial: "Trial") -> bool:
    """Execute a trial and tell the study how it went; false if it failed."""
    from optuna.trial import TrialState

    study, number, run = trial.study, trial.number, tuning.run(trial)
    own = {"run": run.name, "trial": f"{tuning.name}/{number}"}
    say(f"trial {number}: {_text(trial)}")
    try:
        if not run.finished:  # it is, where a worker was killed at the very end
            with run.claimed():
                values = {**tuning.parameters, **trial.params, **marks_of(trial)}
                execute(TRAINING, run, notebook_parameters(values) | own, silent=True)
        facts, epochs, worth = _result(tuning, run)
    except InterruptedNotebook as interrupted:
        tuning.give_back(number)
        raise interrupted.stop from None
    except MlkitError as error:  # a notebook that failed, or what it left
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=TrialState.FAIL)
        say(f"trial {number} failed\n{error}")
        return False
    told = study.get_trials(deepcopy=False)[number].intermediate_values
    for epoch, value in epochs.set_index("epoch").mAP.items():
        if epoch not in told:  # the training had ended before this process took it over
            trial.report(value, int(str(epoch)))
    stopped = Stopped.read(facts)
    if stopped and stopped.reason == "pruned":
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, worth)
    say(f"trial {number}: validation mAP {worth:.3f}, {facts['seconds']:.0f} s{f', {stopped}' if stopped else ''}")
    return True


def _result(tuning: Tuning, run: Run) -> tuple[dict[str, Any], pd.DataFrame, float]:
    """metrics.json and epochs.csv of a trial's run, and its validation mAP. Raises MlkitError if that cannot be compared."""
    if run.config()["data"] != tuning.data:
        raise MlkitError(f"labels or images have changed since the search began; {run} cannot be compared with its others")
    facts, epochs = run.read_json("metrics.json"), run.read_table("epochs.csv")
    worth = float(epochs.mAP.max())
    if not np.isfinite(worth):
        raise MlkitError(f"the validation mAP of {run} is undefined: no attribute has both classes there; validate on more")
    return facts, epochs, worth


def _text(trial: "Trial | FrozenTrial") -> str:
    values: dict[str, Any] = {**trial.params, **marks_of(trial)}
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _share(number: int, workers: int) -> dict[str, str]:
    """Environment in which worker `number` takes its share of the machine: cores, and a GPU where there are several."""
    import torch

    share = {}
    if workers > 1 and "OMP_NUM_THREADS" not in os.environ:
        share["OMP_NUM_THREADS"] = str(max(1, cores() // workers))  # processes that fight for cores are many times slower
    if torch.cuda.device_count() > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        share["CUDA_VISIBLE_DEVICES"] = str(number % torch.cuda.device_count())
    return share


_SQLITE = (
    "A SQLite database is for a single worker: with several, trials run twice. Leave out --storage (the journal file serves "
    "any number of workers), or give the address of a database server"
)
