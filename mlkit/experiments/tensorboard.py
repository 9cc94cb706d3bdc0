"""TensorBoard on the histories of runs.

Its event files are derived from the CSV files of the run folders, follow them while one looks, and are deleted at the end:
there is no second source of truth, and a training knows nothing of TensorBoard.
"""

import fnmatch
import json
import logging
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard import program
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from mlkit.errors import MlkitError, RunError
from mlkit.progress import bar
from mlkit.runs import Run, list_runs, outputs_root

_SECONDS = 3.0  # between two looks at the run folders
_POINTS = 10_000  # of a curve on the page; from a longer one TensorBoard draws so many at random
_TRAINING = {"loss": "training/loss", "lr": "training/lr", "img_per_s": "training/img_per_s"}
_VALIDATION = {"validation_loss": "validation/loss", "mAP": "validation/mAP"}
# The page is on this machine, where a proxy of the environment does not lead.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def serve(patterns: Sequence[str] = (), port: int | None = None) -> None:
    """Show the histories of runs in a browser, and what is added to them meanwhile, until interrupted.

    Args:
        patterns: names of runs, patterns (`mine-*`) or paths; without any, all runs, and those that are begun later.
        port: of the page on this machine; 0 takes any, None the first free one from 6006.

    Raises:
        RunError: if a name is no run, or nothing matches a pattern.
        MlkitError: if the port cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="mlkit-tensorboard-", ignore_cleanup_errors=True) as folder:
        event_files = EventFiles(Path(folder), patterns)
        event_files.update()
        logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every run that begins anew
        server = program.TensorBoard()
        server.configure(
            argv=["tensorboard"],
            logdir=folder,
            port=port,
            reload_interval=_SECONDS,
            load_fast="false",  # the other way is a second process, and calls itself experimental on the screen
            samples_per_plugin={"scalars": _POINTS},
        )
        try:
            address = server.launch()
        except program.TensorBoardServerException as error:
            raise MlkitError(f"{error.msg}; choose another --port, or leave it out for the first free one") from None
        # flushed: into a log file at once
        print(f"TensorBoard: {address} (runs so far: {len(event_files)}; Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(_SECONDS)
            with _OPENER.open(f"{address}data/runs") as answer:
                event_files.update(served=json.load(answer))


class EventFiles:
    """A folder of TensorBoard event files that follows run folders, which it only reads.

    Args:
        folder: where to write, a subfolder for each run.
        patterns: see `serve`.

    Raises:
        RunError: if a name is no run, or nothing matches a pattern.
    """

    def __init__(self, folder: Path, patterns: Sequence[str] = ()) -> None:
        self._folder = folder
        self._patterns = patterns
        self._written: dict[str, _History] = {}
        names = [run.name for run in list_runs()]
        self._paths = [Run.open(p) for p in patterns if not any(fnmatch.fnmatchcase(name, p) for name in names)]

    def __len__(self) -> int:
        """Number of runs that have a history."""
        return len(self._written)

    def update(self, served: Collection[str] = ()) -> None:
        """Append what the runs have written since the last call.

        A run whose rows are not those of before and more, since it was overwritten or went on from an earlier epoch, is
        removed here, and begins anew in a later call.

        Args:
            served: runs that TensorBoard shows. A removed one waits until it is gone there too: TensorBoard does not notice
                when a folder is made again at once, and would keep the old curves.
        """
        runs = self._runs()
        for name in self._written.keys() - runs:
            self._remove(name)
        for name, run in bar(runs.items(), desc="reading runs", unit="run", delay=1):
            before = self._written.get(name)
            if (before is None and name in served) or (before is not None and before.stamp == _stamp(run)):
                continue
            history = _read(run)
            if before is not None and (history is None or not before.rows.equals(history.rows.iloc[: len(before.rows)])):
                self._remove(name)
            elif history is not None:
                self._append(name, history, before)
                self._written[name] = history

    def _runs(self) -> dict[str, Run]:
        """The runs to show, by their names on the page: those below `outputs` by their own, others by their paths."""
        patterns = self._patterns or ["*"]
        runs = {run.name: run for run in list_runs() if any(fnmatch.fnmatchcase(run.name, p) for p in patterns)}
        for run in self._paths:
            inside = run.path.parent == outputs_root()
            runs[run.name if inside else run.path.relative_to(run.path.anchor).as_posix()] = run
        return runs

    def _append(self, name: str, history: "_History", before: "_History | None") -> None:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "events.out.tfevents.mlkit", "ab") as file:
            writer = RecordWriter(file)
            for event in history.events(name, before):
                writer.write(event.SerializeToString())

    def _remove(self, name: str) -> None:
        shutil.rmtree(self._folder / name)
        del self._written[name]


@dataclass(frozen=True)
class _History:
    """What is known of a training.

    Attributes:
        stamp: of the files that it was read from.
        parameters: of the training, plain values.
        times: (iterations,), when each was done, in seconds since 1970.
        rows: index iteration; a column for each curve, that of an epoch has a value at its last iteration only.
        worth: mean AP of the kept model; None while the run is unfinished, or where it is undefined.
    """

    stamp: tuple[Any, ...]
    parameters: dict[str, Any]
    times: np.ndarray
    rows: pd.DataFrame
    worth: float | None

    def events(self, name: str, before: "_History | None") -> Iterator[Event]:
        """What has been added since `before`, the earlier part of this history; with None, all."""
        if before is None:
            yield Event(wall_time=self.times[0], file_version="brain.Event:2")
            hparams = {key: v if isinstance(v, bool | int | float) else str(v) for key, v in self.parameters.items()}
            # by its name, or runs of equal parameters would be one line of the table
            yield Event(wall_time=self.times[0], summary=hparams_pb(hparams, name, self.times[0]))
        done = 0 if before is None else len(before.rows)
        tags = [str(tag) for tag in self.rows]
        for iteration, at, row in zip(self.rows.index[done:], self.times[done:], self.rows.to_numpy()[done:], strict=True):
            # a training loss that is no number must be seen; elsewhere it only says that the curve has no point there
            points = {t: v for t, v in zip(tags, row, strict=True) if t in _TRAINING.values() or not np.isnan(v)}
            yield _event(at, iteration, points)
        if self.worth is not None and (before is None or self.worth != before.worth):
            yield _event(self.times[-1], self.rows.index[-1], {"final/mAP": self.worth})


def _read(run: Run) -> _History | None:
    """The history of a run; None where it has none yet, or is being overwritten at this moment."""
    stamp = _stamp(run)  # before the reading, so that what is written meanwhile is read next time
    try:
        config = run.config()
        epochs = run.read_table("epochs.csv").set_index("iteration")  # written after history.csv, which may know more
        history = run.read_table("history.csv").set_index("iteration").loc[: epochs.index[-1]]
        worth = run.read_json("metrics.json")["mean"]["AP"] if run.finished else None
    except (RunError, FileNotFoundError):
        return None
    attributes = [name for name in map(str, epochs) if name.startswith("AP ")]
    curves = _VALIDATION | {name: f"AP/{name.removeprefix('AP ')}" for name in attributes}
    rows = history[list(_TRAINING)].rename(columns=_TRAINING).join(epochs[list(curves)].rename(columns=curves))
    begun = datetime.fromisoformat(config["created"]).timestamp()
    seconds = np.interp(history.index, [0, *epochs.index], [0, *epochs.seconds.cumsum()])
    return _History(stamp, config["parameters"], begun + seconds, rows.astype(float), worth)


def _stamp(run: Run) -> tuple[Any, ...]:
    """Changes whenever one of the files does that a history is read from."""
    stamp: list[Any] = []
    for file in ("history.csv", "epochs.csv", "metrics.json"):
        try:
            stat = (run / file).stat()
        except FileNotFoundError:
            stamp.append(None)
        else:
            stamp.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(stamp)


def _event(at: float, iteration: int, values: dict[str, float]) -> Event:
    """Points of several curves, at a time in seconds since 1970."""
    points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return Event(wall_time=at, step=iteration, summary=Summary(value=points))
