"""What a search comes to: whether the best trial gained on the first one, and the answer in sentences."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.predictions import Predictions, compare, in_common
from mlkit.runs import Run

ENDED = ("complete", "pruned")


def gain(table: pd.DataFrame, number: int) -> tuple[pd.Series | None, str]:
    """What a trial gains on the first one, on the images that judge both; they chose nothing.

    Args:
        table: of `trials.trials`.
        number: of the trial.

    Returns:
        difference, low and high of the mean AP, None where there is nothing to compare; and a line that says on what.
    """
    if number == 0 or table.state[0] != "complete":
        return None, "the first trial is still the best, or was not finished: nothing to compare"
    runs = (Predictions.read(Run.open(table.run[trial])) for trial in (number, 0))
    first, second, note = in_common(*runs)
    found: Any = compare(first, second).loc[("AP", MEAN)]  # a row; its type is not told
    return found, f"trial {number} against trial 0. {note}\ndifference of the mAP {_interval(found)}"


def answer(
    table: pd.DataFrame, ranked: pd.DataFrame, best: Mapping[str, Any], gained: pd.Series | None, shares: pd.Series
) -> str:
    """What a search found, in sentences: the best trial, its values, whether the gain is real, what mattered most.

    Args:
        table: of `trials.trials`.
        ranked: of `trials.ranking`.
        best: values of the best settings.
        gained: of `gain`.
        shares: of `trials.importance`.
    """
    top = ranked.iloc[0]
    number = int(top.trial)
    start = f", where the search began with {table.mAP[0]:.3f}" if number and pd.notna(table.mAP[0]) else ""
    lines = [f"Of {len(table)} trials, trial {number} is best: validation mAP {top.mAP:.3f}{start}."]
    lines.append(", ".join(f"{name} = {_written(value)}" for name, value in best.items()))
    if gained is not None:
        what = "a gain" if gained.low > 0 else "a loss" if gained.high < 0 else "no difference that they can show"
        lines.append(f"On the test images that is {what}: {_interval(gained)}.")
    if len(shares):
        lines.append(f"As far as {table.state.isin(ENDED).sum()} trials can tell, {shares.idxmax()} mattered most.")
    return "\n".join(lines)


def _interval(found: pd.Series) -> str:
    return f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _written(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
