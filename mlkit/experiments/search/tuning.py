"""One search: its queue of trials, who works on them, and where they are kept."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mlkit.errors import ClaimError, RunError, nearest
from mlkit.experiments.search.space import Space
from mlkit.experiments.search.storage import open_storage, storage_name
from mlkit.files import make_folder, shown, write_json
from mlkit.runs import Claim, Folder, Run, named_folder, outputs_root

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial, Trial

_FIRST: dict[str, Any] = {"contents": {}}  # what the searches of mlkit 0.1 did not write down
_STARTUP = 5  # trials that must be finished before one is pruned


@dataclass(frozen=True)
class Tuning:
    """One search.

    Attributes:
        name: of its folder, and what the names of its runs begin with.
        parameters: of notebook 02, those that do not vary; of those that do, where the search starts.
        space: what varies.
        data: fingerprint of the data, which all trials must have seen.
        seed: of the search; the trainings have their own.
        prune: stop trials that are worse than the median of the others at the same epoch.
        contents: of the other files that the parameters name, see `runs.contents`.
    """

    name: str
    parameters: dict[str, Any]
    space: Space
    data: str
    seed: int = 0
    prune: bool = True
    contents: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return outputs_root() / self.name

    def begin(self) -> None:
        """Make the folder and the study, or join those that are there already.

        Raises:
            RunError: if the name is none, or another search, or something else, is there.
            MlkitError: if the database cannot be used.
        """
        named_folder(self.name)
        asked = {name: getattr(self, name) for name in ("data", "contents", "seed", "prune")}
        asked["space"] = self.space.ranges
        made = {"parameters": self.parameters, **asked, "storage": storage_name()}
        make_folder(self.folder / "claims")
        with self.queue():  # another process may begin the same search at this moment
            self._check(made)
            study = self.optuna_study(create=True)
            # With the trials too, for machines that share a database and no folder; images may lie elsewhere there.
            if _FIRST | study.user_attrs.get("tuning", asked) != asked:
                raise RunError(f"{storage_name()} holds another search called {self.name!r}; choose another --name")
            study.set_user_attr("tuning", asked)
            write_json(self.folder / "tuning.json", made)

    def _check(self, made: dict[str, Any]) -> None:
        if (self.folder / "tuning.json").exists():
            before = _FIRST | Folder(self.folder).read_json("tuning.json")
            if changed := [key for key, value in made.items() if before.get(key) != value]:
                raise RunError(f"{shown(self.folder)} holds a search with other {', '.join(changed)}; choose another --name")
            return
        others = [path for path in self.folder.iterdir() if path.name != "claims"]
        if others := [*others, *outputs_root().glob(f"{self.name}-trial*")]:
            raise RunError(f"{shown(others[0])} is of something else; choose another --name, or delete it")

    @classmethod
    def open(cls, name: str) -> "Tuning":
        """A search that was begun.

        Raises:
            RunError: if there is none, or its trials are kept elsewhere.
        """
        folder = Folder(outputs_root() / name)
        if not name or not (folder / "tuning.json").exists():
            known = [file.parent.name for file in outputs_root().glob("*/tuning.json")]
            hint = nearest(name, known) if known else "; begin one with `mlkit tune`"
            raise RunError(f"there is no search {name!r} in {shown(outputs_root())}{hint}")
        made = _FIRST | folder.read_json("tuning.json")
        if lacking := {"storage", "space", "data", "seed", "prune", "parameters"} - made.keys():
            file = shown(folder / "tuning.json")
            raise RunError(f"{file} is not of a search ({min(lacking)} is missing); choose another name")
        if made["storage"] != storage_name():
            raise RunError(f"the trials of {name} are kept in {made['storage']}, not in {storage_name()}; give --storage")
        space, others = Space(made["space"]), [made[key] for key in ("data", "seed", "prune", "contents")]
        return cls(name, made["parameters"], space, *others)

    def run(self, trial: Any) -> Run:
        """The run of a trial, which is that of an earlier trial where it goes on with its training."""
        return Run(outputs_root() / trial.user_attrs.get("run", f"{self.name}-trial{trial.number:03d}"))

    def search(self, trials: int) -> None:
        """Queue as many trials as are missing to `trials` in all; those that failed, and repetitions, are not counted.

        The first has the values that the search starts from, as far as they lie in the space.
        """
        with self.queue():
            study = self.optuna_study()
            alive = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name != "FAIL"]
            there = [trial for trial in alive if not marks_of(trial)]
            for number in range(len(there), trials):
                study.enqueue_trial({} if number else self.space.start(self.parameters))

    def enqueue(self, settings: Iterable[Mapping[str, Any]], seeds: Sequence[int] = ()) -> None:
        """Queue settings of the parameters that vary, each with each of the seeds of the training, but none twice.

        With seeds they are for comparing, and never pruned. What failed is queued again, and goes on with its training.
        """
        with self.queue():
            study = self.optuna_study()
            there = study.get_trials(deepcopy=False)
            for values in settings:
                for marks in [{"seed": seed} for seed in seeds] or [{}]:
                    same = [trial for trial in there if (values_of(trial), marks_of(trial)) == (values, marks)]
                    if all(trial.state.name == "FAIL" for trial in same):
                        study.enqueue_trial(dict(values), marks | ({"run": self.run(same[-1]).name} if same else {}))

    def queued(self) -> list[int]:
        """Numbers of the trials that wait to be run."""
        return [trial.number for trial in self.optuna_study().get_trials(deepcopy=False) if trial.state.name == "WAITING"]

    def take(self, number: int | None = None) -> "tuple[Trial, Claim] | None":
        """The next queued trial, or that of a number, with its claim; None if none waits. No other process gets the same."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.samplers import TPESampler
        from optuna.trial import Trial, TrialState

        with self.queue():
            study, storage = self.optuna_study(), open_storage(self.folder)
            for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                if number not in (None, waiting.number):
                    continue
                # The storage decides who gets it: machines that share a database alone do not see this lock. `Study.ask`
                # would make a trial of its own where the last one was just taken.
                try:
                    if not storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING):
                        continue
                except UpdateFinishedTrialError:
                    continue
                # seeded by the number of the trial, so that it does not matter which process runs it
                study.sampler = TPESampler(seed=self.seed + waiting.number)
                trial, claim = Trial(study, waiting._trial_id), self.claim(waiting.number)
                trial.set_user_attr("host", platform.node())
                trial.set_user_attr("process", os.getpid())
                self.space.suggest(trial)
                return trial, claim
        return None

    def abandoned(self, host: str = "") -> "list[FrozenTrial]":
        """Trials that were left by processes of this machine which died, or all that run on another machine `host`.

        The claims of another machine may not be visible here, so naming one says that nothing works there any more.
        """
        left = []
        with self.queue():
            for trial in self.running(host or platform.node()):
                with suppress(ClaimError), self.claim(trial.number):
                    left.append(trial)
        return left

    def running(self, host: str = "") -> "list[FrozenTrial]":
        """Trials at work, or left behind, on a machine; on any without a name."""
        running = [trial for trial in self.optuna_study().get_trials(deepcopy=False) if trial.state.name == "RUNNING"]
        return [trial for trial in running if not host or trial.user_attrs.get("host", host) == host]

    def give_back(self, number: int) -> None:
        """Queue a trial again that was begun and not finished. Its training goes on from the last checkpoint."""
        from optuna.trial import TrialState

        with self.queue():
            study = self.optuna_study()
            there = study.get_trials(deepcopy=False)
            trial = there[number]
            if trial.state.name != "RUNNING":  # another process was faster
                return
            # queued before it is told: a process that dies in between loses nothing, and repeats nothing
            if not any(other.user_attrs.get("recovers") == number for other in there):
                marks = {**marks_of(trial), "run": self.run(trial).name, "recovers": number}
                study.enqueue_trial(values_of(trial), marks)
            study.tell(number, state=TrialState.FAIL)

    def last(self, number: int) -> "FrozenTrial":
        """A trial, or where a process died at it the one that goes on with it."""
        there = self.optuna_study().get_trials(deepcopy=False)
        while following := [trial.number for trial in there if trial.user_attrs.get("recovers") == number]:
            (number,) = following
        return there[number]

    def is_abandoned(self, number: int) -> bool:
        """Whether nobody works on a trial that runs."""
        with self.queue(), suppress(ClaimError), self.claim(number):
            return True
        return False

    def queue(self) -> FileLock:
        """Whoever holds this lock may take trials from the queue and put some in."""
        return FileLock(self.folder / "claims" / "queue.lock")

    def claim(self, number: int) -> Claim:
        """Whoever has this claim works on the trial. Raises ClaimError if that is another process."""
        return Claim(self.folder / "claims" / f"{number}.lock", f"trial {number} of {self.name}")

    def optuna_study(self, create: bool = False) -> "Study":
        """The study as Optuna knows it."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage, pruner = open_storage(self.folder), _pruner(self.prune)
        if create:
            return optuna.create_study(
                study_name=self.name, storage=storage, pruner=pruner, direction="maximize", load_if_exists=True
            )
        return optuna.load_study(study_name=self.name, storage=storage, pruner=pruner)


def values_of(trial: Any) -> dict[str, Any]:
    """The values that a trial has been queued with, and those that it has since."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def marks_of(trial: Any) -> dict[str, Any]:
    """What a trial has beside the values of the space: the seed of its training, in a repetition."""
    return {key: trial.user_attrs[key] for key in ("seed",) if key in trial.user_attrs}


def _pruner(prune: bool) -> "BasePruner":
    from optuna.pruners import MedianPruner, NopPruner

    # not after the first epoch, which says little
    return MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=2) if prune else NopPruner()
