"""Inside the training of a trial: what each epoch is worth goes to the study, which may stop the trial."""

from typing import Any

from mlkit.experiments.search.tuning import Tuning, marks_of


class Reporter:
    """Tells the study the validation mAP of each epoch, and asks whether to stop.

    Args:
        trial: name of the search and number of the trial, "tune/7".

    Raises:
        RunError: if there is no such search.
    """

    def __init__(self, trial: str) -> None:
        from optuna.trial import Trial

        name, _, number = trial.rpartition("/")
        study = Tuning.open(name).optuna_study()
        # Optuna has no public way to go on with a trial that another process began
        self._trial = Trial(study, study.get_trials(deepcopy=False)[int(number)]._trial_id)
        self._reported = 0

    def __call__(self, epochs: list[dict[str, Any]]) -> bool:
        """Report the epochs that are new; true if the trial is to stop. Repetitions with a seed always go to the end."""
        for row in epochs[self._reported :]:
            self._trial.report(row["mAP"], row["epoch"])
        self._reported = len(epochs)
        return not marks_of(self._trial) and self._trial.should_prune()


def reporter(trial: str) -> Reporter | None:
    """The watcher of a trial's training, see `train.train`; None for ""."""
    return Reporter(trial) if trial else None
