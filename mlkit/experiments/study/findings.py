"""What the results of a study say: differences between methods, and one sentence of advice."""

import numpy as np
import pandas as pd
from scipy import stats

BASELINE = "masked_bce"
FULL = "none"  # the mechanism that hides nothing


def t_interval(values: pd.Series | np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values and its interval by Student's t; without a width (NaN) below two values."""
    values = np.asarray(values, float)
    mean = float(values.mean()) if len(values) else np.nan
    if len(values) < 2:
        return mean, np.nan, np.nan
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def differences(results: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Differences in mAP between each method and `BASELINE`, paired: same hidden cells, same split, same seed.

    What makes one split or one hiding harder than another is hard for both methods and cancels.

    Args:
        results: of `study.run_study`.
        level: of the intervals, by Student's t over the seeds. They take the images as given: they say how a difference
            moves with the split, the hidden cells and the training, not how it moves on other data.

    Returns:
        Index (mechanism, fraction, method); columns difference, low, high, seeds, and won: share of the seeds in which the
        method has the higher mAP. Intervals are NaN with a single seed.
    """
    rows = []
    for (mechanism, fraction, method), values in _paired(results).groupby(["mechanism", "fraction", "method"], sort=False):
        center, low, high = t_interval(values.difference, level)
        row = {"difference": center, "low": low, "high": high, "seeds": len(values), "won": (values.difference > 0).mean()}
        rows.append({"mechanism": mechanism, "fraction": fraction, "method": method, **row})
    columns = ["mechanism", "fraction", "method", "difference", "low", "high", "seeds", "won"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:3])


def overall(results: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Differences as in `differences`, averaged over mechanisms and fractions.

    The fractions of one seed share split and test images and are no independent evidence: they are averaged first, and the
    interval is over the seeds. A seed counts once all its trainings are there.

    Args:
        results: of `study.run_study`.
        level: of all intervals together: that none of them misses its true value (Bonferroni). The best of seven methods
            looks good by chance alone.

    Returns:
        Index method, best first; columns difference, low, high, seeds, won.
    """
    paired = _paired(results)
    table = paired.pivot_table(index="seed", columns=["method", "mechanism", "fraction"], values="difference").dropna()
    methods = list(dict.fromkeys(paired.method))
    rows = []
    for method in methods:
        means = table[method].mean(axis=1) if len(table) else pd.Series(dtype=float)
        center, low, high = t_interval(means, 1 - (1 - level) / len(methods))
        won = (table[method] > 0).to_numpy().mean() if len(table) else np.nan
        rows.append({"difference": center, "low": low, "high": high, "seeds": len(means), "won": won})
    columns = ["difference", "low", "high", "seeds", "won"]
    index = pd.Index(methods, name="method")
    return pd.DataFrame(rows, index=index, columns=columns).sort_values("difference", ascending=False)


def advice(results: pd.DataFrame) -> str:
    """One sentence: which method to take on data like these, or that no difference was found."""
    table = overall(results)
    seeds = int(table.seeds.max()) if len(table) else 0
    if seeds < 2:
        return f"No advice: a difference needs at least 2 whole seeds to be told from chance, and there are {seeds}."
    worse = list(table.index[table.high < 0])
    warning = f"; avoid {', '.join(worse)}, clearly below it" if worse else ""
    name, best = table.index[0], table.iloc[0]
    interval = f"95 % interval {best.low:+.3f} to {best.high:+.3f} over {seeds} seeds, all comparisons together"
    if not best.low > 0:
        return (
            f"No method was found better than {BASELINE}: the highest, {name}, differs by {best.difference:+.3f} mAP on "
            f"average ({interval}), so keep {BASELINE}, the simplest, or try more seeds{warning}."
        )
    by_fraction = _paired(results).query("method == @name").groupby("fraction").difference.mean()
    steps = ", ".join(f"{value:+.3f} with {fraction:.0%} known" for fraction, value in by_fraction.items())
    return f"Take {name}: {best.difference:+.3f} mAP against {BASELINE} on average ({interval}; {steps}){warning}."


def _paired(results: pd.DataFrame) -> pd.DataFrame:
    """One row per training of another method than `BASELINE`, with its difference to the baseline's in the same cell."""
    keys = ["mechanism", "fraction", "seed"]
    hidden = results[results.mechanism != FULL]
    base = hidden[hidden.method == BASELINE][[*keys, "mAP"]].rename(columns={"mAP": "base"})
    joined = hidden[hidden.method != BASELINE].merge(base, on=keys)
    return joined.assign(difference=joined.mAP - joined.base)[["method", *keys, "difference"]]
