"""What was executed in a run folder, and from what: so, what need not be executed again, and which folder will do."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mlkit.errors import RunError
from mlkit.files import read_json, write_json
from mlkit.notebooks.chain import CHAIN, TRAINING
from mlkit.runs import Run, named_folder


class Manifest:
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

    def trained(self, digest: str) -> bool:
        """Whether the finished training that is there was begun from this, by a process that was killed after it."""
        return self.began(digest) and self._notebooks[TRAINING].get("run") != self._run.id

    def forget(self, notebooks: Collection[str]) -> None:
        """Let notebooks be executed again, since what they read has changed."""
        self._notebooks = {name: stored for name, stored in self._notebooks.items() if name not in notebooks}
        if self._path.exists():
            self._write()

    def set(self, notebook: str, digest: str, done: bool) -> None:
        """Note that a notebook was executed, or, with the finished run that there is before, is being executed."""
        run = self._run.id if done or self._run.finished else ""
        self._notebooks[notebook] = {"digest": digest, "done": done, "run": run}
        self._write()

    def _write(self) -> None:
        write_json(self._path, {"parameters": self.parameters, "notebooks": self._notebooks})


@dataclass(frozen=True)
class Wanted:
    """What is to be done in a run folder.

    Attributes:
        digest: of the training.
        settings: of the training, those given.
        trains: whether the training is to be executed.
        asked: whether notebooks are executed even where nothing changed.
        overwrite: whether the run that is there may be replaced.
    """

    digest: str
    settings: Mapping[str, Any]
    trains: bool
    asked: bool
    overwrite: bool

    def folder(self, name: str, default: str) -> Run:
        """The folder to work in: one that is free or holds this very training, or that is to be overwritten.

        Args:
            name: of the folder; empty takes `default`, and another number where that one holds something else.
            default: its name.

        Raises:
            RunError: if the named folder holds something else.
        """
        base, number = name or default, 1
        while True:
            run = Run(named_folder(base if number == 1 else f"{base}-{number}"))
            why = self._obstacle(run) if run.id and not (self.overwrite and self.trains) else ""
            if not why:
                return run
            if name or (self.asked and Manifest(run).holds(TRAINING, self.digest)):
                raise RunError(f"{run} holds {why}")
            number += 1

    def _obstacle(self, run: Run) -> str:
        """What a run folder holds that cannot be gone on with, and the ways out; empty if it can be."""
        manifest, ways = Manifest(run), "give another --name, or --overwrite to replace it"
        if run.members:
            return f"an ensemble, there is nothing to train; {ways}" if self.trains else ""
        if not self.trains:
            made = run.config()["parameters"]
            other = ", ".join(key for key, value in self.settings.items() if made.get(key, value) != value)
            return f"a run with other {other}, which decide its training; leave them out, or {ways}" if other else ""
        if not run.finished:
            return "" if manifest.began(self.digest) else f"an unfinished run with other parameters, data or code; {ways}"
        if manifest.trained(self.digest):
            return ""
        if not manifest.holds(TRAINING, self.digest):
            way = f"{ways}, or --from 03 to go on from it"
            return f"a run with other parameters, data or code, or not made by `mlkit run`; {way}"
        return "this very training, finished; --from 03 goes on from it, --overwrite trains again" if self.asked else ""
