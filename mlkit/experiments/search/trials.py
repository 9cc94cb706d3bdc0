"""The trials of a search as tables, and what they teach."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from mlkit.errors import ParameterError
from mlkit.experiments.search.tuning import Tuning, marks_of, values_of
from mlkit.files import write_csv, write_text

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_FEWEST = 4  # trials that say something about importance


def trials(tuning: Tuning) -> pd.DataFrame:
    """All trials; also written to trials.csv.

    Returns:
        Index trial (number); columns state, mAP (best validation mAP), test_mAP, the parameters that vary, seed, epochs,
        seconds, run, host, error.
    """
    rows = {trial.number: _row(tuning, trial) for trial in tuning.optuna_study().get_trials(deepcopy=False)}
    varying = [name for name in tuning.space.ranges if name != "seed"]
    columns = ["state", "mAP", "test_mAP", *varying, "seed", "epochs", "seconds", "run", "host", "error"]
    table = pd.DataFrame(list(rows.values()), pd.Index(list(rows), name="trial"), columns).astype({"epochs": "Int64"})
    write_csv(tuning.folder / "trials.csv", table)
    return table


def _row(tuning: Tuning, trial: "FrozenTrial") -> dict[str, Any]:
    """A line of `trials`."""
    run, values = tuning.run(trial), values_of(trial)
    ended = trial.state.name in ("COMPLETE", "PRUNED")
    facts: dict[str, Any] = run.read_json("metrics.json") if ended and run.finished else {}
    return {
        **values,
        "state": trial.state.name.lower(),
        "mAP": max(trial.intermediate_values.values(), default=None),
        "test_mAP": facts["mean"]["AP"] if facts.get("judged_on") == "test" else None,
        "seed": {**tuning.parameters, **values, **marks_of(trial)}.get("seed", 0),
        "epochs": facts.get("epochs"),
        "seconds": facts.get("seconds"),
        "run": run.name if ended else "",
        **{name: trial.user_attrs.get(name, "") for name in ("host", "error")},
    }


def ranking(table: pd.DataFrame, tuning: Tuning) -> pd.DataFrame:
    """The settings that were tried to the end, best first; those with several seeds before those with one.

    The best of many with one seed is so partly by luck, and would push aside what has been tried more thoroughly.

    Args:
        table: of `trials`.
        tuning: the search.

    Returns:
        The parameters that vary, then mAP (validation, mean over the seeds), seeds (how many), trial (the first of them).
    """
    names = [name for name in tuning.space.ranges if name != "seed"]
    whole = table[table.state == "complete"].reset_index()
    groups = whole.groupby(names or ["state"], sort=False, dropna=False)
    means = groups.agg(mAP=("mAP", "mean"), seeds=("seed", "nunique"), trial=("trial", "first")).reset_index()
    means["repeated"] = means.seeds > 1
    means = means.sort_values(["repeated", "mAP"], ascending=False, kind="stable", ignore_index=True)
    return means[[*names, "mAP", "seeds", "trial"]]


def best(tuning: Tuning) -> dict[str, Any]:
    """The values of the best settings, see `ranking`.

    Raises:
        ParameterError: if no trial was finished.
    """
    return _values(tuning, _ranked(tuning))[0]


def promising(tuning: Tuning, count: int) -> list[dict[str, Any]]:
    """The values of the settings with the highest mean validation mAP, whether they were repeated or not.

    Raises:
        ParameterError: if no trial was finished.
    """
    return _values(tuning, _ranked(tuning).sort_values("mAP", ascending=False, kind="stable").head(count))


def write_best(tuning: Tuning) -> Path:
    """Write best.yaml, all parameters with those that vary at their best, for `mlkit run -f`."""
    path = tuning.folder / "best.yaml"
    text = yaml.safe_dump(tuning.parameters | best(tuning), sort_keys=False, allow_unicode=True)
    write_text(path, f"# The best settings of the search {tuning.name}.\n{text}")
    return path


def _ranked(tuning: Tuning) -> pd.DataFrame:
    table = ranking(trials(tuning), tuning)
    if table.empty:
        raise ParameterError(f"{tuning.name} has no finished trial yet; search first, with --trials")
    return table


def _values(tuning: Tuning, table: pd.DataFrame) -> list[dict[str, Any]]:
    made = tuning.optuna_study().get_trials(deepcopy=False)
    chosen = [values_of(made[number]) for number in table.trial]
    return [{name: value for name, value in values.items() if name != "seed"} for values in chosen]


def importance(tuning: Tuning) -> pd.Series:
    """Share of each parameter in the variance of the validation mAP, by fANOVA (Hutter et al. 2014); they sum to 1.

    A trial that was stopped early counts with what it had reached: leaving it out would hide the very values that are bad.
    Empty where there are too few trials.
    """
    from optuna import create_study
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    ended = [
        create_trial(params=trial.params, distributions=trial.distributions, value=max(trial.intermediate_values.values()))
        for trial in tuning.optuna_study().get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED")
    ]
    if len(ended) < _FEWEST:
        return pd.Series(dtype=float)
    study = create_study(direction="maximize")
    study.add_trials(ended)
    return pd.Series(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)), dtype=float)
