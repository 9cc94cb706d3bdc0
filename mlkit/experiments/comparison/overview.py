"""The table of runs: what they differ in, what they reached, what they took. Read from the run folders, in a moment."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from mlkit.data.source import DATA
from mlkit.runs import Run, Stopped

FACTS = {  # name -> its type in the table; none may be that of a setting, which has a column where runs differ in it
    "mAP": "float64",
    "over": "Int64",
    "of": "Int64",
    "validation_mAP": "float64",
    "judged_on": "object",
    "seconds": "float64",
    "img_per_s": "float64",
    "parameters": "Int64",
    "ran_on": "object",
    "state": "object",
    "stopped": "object",
}
_TOLD = ("members",)  # told even of a single run: it is what tells an ensemble from a training
_WIDEST = 18  # characters of a parameter's value for the eye


def overview(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run, in the order given; what a run does not have is missing.

    Returns:
        Index run (`Run.title`); columns created (ISO, UTC); the parameters that differ, see `varying`; then `FACTS`: mAP on
        the images that judge (of which split: judged_on), over how many of its attributes that is (over, of), the others
        lack a class there, mAP of the kept epoch on the validation images, seconds and images/s of the training, number of
        parameters, the device and precision that it ran on, state (finished, unfinished, or stopped early with the reason),
        and stopped: why, see `runs.Stopped`, empty for a run that was not stopped.
    """
    configs = {run.title: run.config() for run in runs}
    created = pd.DataFrame({"created": {title: config["created"] for title, config in configs.items()}})
    facts = pd.DataFrame([_facts(run) for run in runs], index=list(configs), columns=list(FACTS)).astype(FACTS)
    return pd.concat([created, varying(configs), facts], axis=1).rename_axis("run")


def varying(configs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """What runs were made from as far as they differ: a row per run, NaN where it lacks the parameter.

    Args:
        configs: what each run's config.json holds.

    Returns:
        A column for every parameter, and `data`, the beginning of the data's fingerprint, of which there are several values
        among the runs that have it; those about the data last. A run of an older mlkit lacks the newer parameters; that
        alone is no difference worth a column.
    """
    made = {title: {**config["parameters"], "data": config["data"][:8]} for title, config in configs.items()}
    names = dict.fromkeys(name for parameters in made.values() for name in parameters)
    values = {name: {key(parameters[name]) for parameters in made.values() if name in parameters} for name in names}
    found = [name for name in names if len(values[name]) > 1 or name in _TOLD]
    found.sort(key=lambda name: name in (*DATA, "data"))
    rows = [[parameters.get(name, np.nan) for name in found] for parameters in made.values()]
    return pd.DataFrame(rows, index=list(made), columns=found, dtype=object)


def key(value: Any) -> str:
    """Text that is equal for equal values: lists can be keys so, and 1 is 1.0."""
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value, sort_keys=True)


def _facts(run: Run) -> dict[str, Any]:
    """`FACTS` of one run; runs of older versions, ensembles and unfinished runs lack some."""
    facts = run.read_json("metrics.json") if run.finished else {}
    stopped = Stopped.read(facts)
    return {
        "mAP": (facts.get("mean") or {}).get("AP"),
        "over": len(facts["attributes"]) - len(facts["left_out_of_mean"]) if "left_out_of_mean" in facts else None,
        "of": len(facts["attributes"]) if "attributes" in facts else None,
        "validation_mAP": _validation_mean_ap(run, facts),
        "judged_on": facts.get("judged_on"),
        **{name: facts.get(name) for name in ("seconds", "img_per_s", "parameters")},
        "ran_on": facts.get("ran_on", facts.get("device")),
        "state": "unfinished" if not run.finished else f"stopped early: {stopped}" if stopped else "finished",
        "stopped": stopped.reason if stopped else "",
    }


def _validation_mean_ap(run: Run, facts: Mapping[str, Any]) -> float:
    """Of the kept epoch; of the best so far while unfinished; by the predictions where there are no epochs (ensembles)."""
    if (run / "epochs.csv").exists():
        epochs = run.read_table("epochs.csv")
        kept = epochs[epochs.epoch == facts["best_epoch"]] if facts.get("best_epoch") else epochs
        return float(kept.mAP.max())
    if "training_prevalence" in facts and (run / "predictions.csv").exists():
        from mlkit.evaluation.metrics import macro  # scikit-learn takes a second, which most runs need not spend
        from mlkit.evaluation.predictions import Predictions

        return float(macro(Predictions.read(run, "validation").evaluate()).AP)
    return np.nan


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """An `overview` for the eye, as text: long values shortened, units written, columns that are empty for all left out."""
    facts = {
        "test mAP": [_number(value, ".3f") for value in table.mAP],
        "over": [
            f"{over} of {every}" if pd.notna(over) and over < every else ""
            for over, every in zip(table["over"], table["of"], strict=True)
        ],
        "val. mAP": [_number(value, ".3f") for value in table.validation_mAP],
        "judged on": ["" if pd.isna(split) else split for split in table.judged_on],
        "time": [_duration(seconds) for seconds in table.seconds],
        "img/s": [_number(value, ",.0f" if value >= 100 else ".3g") for value in table.img_per_s],
        "size": [_number(value / 1e6, ".1f", " M") for value in table.parameters.astype(float)],
        "ran on": ["" if pd.isna(text) else shorten(text) for text in table.ran_on],
        "state": [shorten(state, 3 * _WIDEST) for state in table.state],
    }
    if not table.judged_on.dropna().eq("test").all():
        facts = {"mAP" if name == "test mAP" else name: column for name, column in facts.items()}
    names = [name for name in table.columns if name not in ("created", *FACTS)]
    chosen = {name: [shorten(written(value)) for value in table[name]] for name in names}
    text = pd.DataFrame({"when": _moments(table.created)} | chosen | facts, index=table.index)
    return text[[name for name in text if any(text[name])]]


def written(value: Any) -> str:
    """A parameter's value as text; empty where there is none."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4g}"
    return "" if value is None else '""' if value == "" else str(value)


def shorten(text: str, width: int = _WIDEST) -> str:
    """Text of at most `width` characters: a path keeps its end, a sentence its beginning, a name (run-17) both ends."""
    if len(text) <= width:
        return text
    start = 0 if "/" in text else width - 1 if " " in text else width // 2
    return f"{text[:start]}…{text[len(text) - width + start + 1 :]}"


def _moments(created: pd.Series) -> list[str]:
    """Local times; without the year where all are of one."""
    moments = [datetime.fromisoformat(text).astimezone() for text in created]
    one_year = len({moment.year for moment in moments}) == 1
    return [f"{moment:%d %b %H:%M}" if one_year else f"{moment:%Y-%m-%d %H:%M}" for moment in moments]


def _number(value: float, form: str, unit: str = "") -> str:
    return "" if np.isnan(value) else f"{value:{form}}{unit}"


def _duration(seconds: float) -> str:
    if np.isnan(seconds):
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
