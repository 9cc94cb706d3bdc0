"""What the curves of a simulation say: what an order saves and gains, with intervals."""

import numpy as np
import pandas as pd

from mlkit.experiments.simulation.config import YARDSTICK
from mlkit.experiments.study.findings import t_interval

SETTING = ["mechanism", "hidden", "error"]
_POINTS = 101  # of a curve, from nothing to all that was spent


def curves(results: pd.DataFrame, over: str = "answers") -> pd.DataFrame:
    """mAP of every campaign at the same answers, or seconds: interpolated, and level where nothing was left to ask.

    Args:
        results: of `simulate`.
        over: "answers" or "seconds".

    Returns:
        Index mechanism, hidden, error, by, order, seed; columns from 0 to what every campaign of the yardstick spent.
    """
    keys = [*SETTING, "by", "order", "seed"]
    most = results[results.order == YARDSTICK].groupby(keys)[over].max().min()
    points = np.linspace(0, most, _POINTS)
    groups = results.groupby(keys, sort=False)
    rows = {key: np.interp(points, group[over], group.mAP) for key, group in groups}
    index = pd.MultiIndex.from_tuples(rows, names=keys)
    return pd.DataFrame(np.array(list(rows.values())), index, pd.Index(points, name=over))


def differences(
    results: pd.DataFrame, to: str = YARDSTICK, to_by: str = "", over: str = "answers", level: float = 0.95
) -> pd.DataFrame:
    """Differences between each order and one of them, paired: same hidden cells, same person, same split, same seed.

    Args:
        results: of `simulate`.
        to: the order that the others are compared with.
        to_by: how that one asked; empty: as the other did.
        over: what is spent, "answers" or "seconds".
        level: of the intervals, by Student's t over the seeds. They take the images as given: they say how a difference
            moves with the split and the hidden cells, not how it moves on other data.

    Returns:
        Index mechanism, hidden, error, by, order. Columns area, low, high: difference of the mean mAP along the curve; end,
        end_low, end_high: after all is spent; half, half_low, half_high: mAP of the order after half is spent less that of
        the other after all; spent: share of what the other spent after which the order's mean curve has reached the other's
        last mAP (NaN: never); seeds.
    """
    table = curves(results, over)
    rows = {}
    for key, own in table.groupby([*SETTING, "by", "order"], sort=False):
        *setting, by, _ = key
        other = pd.DataFrame(table.xs((*setting, to_by or by, to), level=[*SETTING, "by", "order"]))
        first, second = _paired(own, other)
        row: dict[str, float] = {}
        pairs = {
            "area": (_area(first), _area(second)),
            "end": (first[:, -1], second[:, -1]),
            "half": (first[:, _POINTS // 2], second[:, -1]),
        }
        for name, (mine, theirs) in pairs.items():
            bounds = t_interval(mine - theirs, level)
            prefix = "" if name == "area" else f"{name}_"
            row |= dict(zip((name, f"{prefix}low", f"{prefix}high"), bounds, strict=True))
        reached = first.mean(axis=0) >= second[:, -1].mean()
        row["spent"] = reached.argmax() / (_POINTS - 1) if reached.any() else np.nan
        rows[key] = row | {"seeds": len(first)}
    index = pd.MultiIndex.from_tuples(rows, names=[*SETTING, "by", "order"])
    return pd.DataFrame(list(rows.values()), index)


def overall(results: pd.DataFrame, to: str = YARDSTICK, by: str = "cell", level: float = 0.95) -> pd.DataFrame:
    """Differences in area as in `differences`, averaged over all settings of a seed first: they share split and images.

    Args:
        results: of `simulate`.
        to: the order that the others are compared with.
        by: how was asked.
        level: of all intervals together (Bonferroni): the best of several orders looks good by chance alone.

    Returns:
        Index order, best first; columns area, low, high, seeds.
    """
    table = curves(results).xs(by, level="by")
    area = pd.Series(_area(table.to_numpy()), table.index).unstack("order")
    means = area.sub(area[to], axis=0).groupby("seed").mean().drop(columns=to)
    rows = {order: t_interval(means[order].dropna(), 1 - (1 - level) / means.shape[1]) for order in means}
    found = pd.DataFrame.from_dict(rows, orient="index", columns=["area", "low", "high"]).rename_axis("order")
    return found.assign(seeds=len(means)).sort_values("area", ascending=False)


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The curves of the seeds that both have."""
    sides = [table.set_axis(table.index.get_level_values("seed")) for table in (first, second)]
    seeds = sides[0].index.intersection(sides[1].index)
    return sides[0].loc[seeds].to_numpy(), sides[1].loc[seeds].to_numpy()


def _area(values: np.ndarray) -> np.ndarray:
    """Mean of each curve (curves, points), by the trapezoidal rule."""
    return np.asarray(np.trapezoid(values, axis=1) / (values.shape[1] - 1))
