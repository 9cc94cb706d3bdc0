"""Which parameter moved what: runs that differ in one parameter alone, and, with a warning, those that differ in more."""

from collections.abc import Hashable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from mlkit.data.source import DATA
from mlkit.experiments.comparison.overview import key, shorten, written
from mlkit.experiments.comparison.ranking import Comparison

_MANY = 6  # values of a number, above which its halves are compared instead of each value
_NAMED = 3  # confounders
COLUMNS = ["parameter", "from", "to", "pairs", "difference", "low", "high", "remark"]


def effects(compared: Comparison) -> pd.DataFrame:
    """Differences in mAP between the values of each parameter.

    A clean pair is two runs that differ in this parameter alone: same data, same seed, same all else. Each value is compared
    with the one that is in most pairs (of several, with the best run's); of a number with many values, the upper half with
    the lower. Values without a clean pair are compared by the means of all runs that have them; the other parameters that
    then differ as well are named.

    Returns:
        One row per comparison: parameter, from, to (values), pairs (sets of runs that are alike in all else; 0: no clean
        pair), difference (mean over them of `to - from`), low, high (over the images, for all clean comparisons together;
        NaN without a pair), remark.
    """
    keys = _keys(compared.varying)
    found: list[tuple[dict[str, Any], np.ndarray]] = []
    for name in keys.columns:
        if name not in ("seed", "data", *DATA):
            found += _of_parameter(name, compared.varying[name], keys)
    clean = sum(row["pairs"] > 0 for row, _ in found)
    rows = []
    for row, weights in found:
        difference, low, high = compared.contrast(weights, max(clean, 1))
        bounds = {"low": low, "high": high} if row["pairs"] else {"low": np.nan, "high": np.nan}
        rows.append(row | {"difference": difference} | bounds)
    return pd.DataFrame(rows, columns=COLUMNS)


def seed_deviation(compared: Comparison) -> tuple[float, int]:
    """Standard deviation of mAP between runs that differ in the seed alone, and how many runs tell it; NaN and 0 if none."""
    keys = _keys(compared.varying)
    if "seed" not in keys:
        return np.nan, 0
    values = pd.Series(compared.mean_ap, keys.index)
    groups = [values.loc[group] for group in _alike(keys, "seed") if keys.seed[group].nunique() > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return np.nan, 0
    squares = sum(((group - group.mean()) ** 2).sum() for group in groups)
    return float(np.sqrt(squares / freedom)), sum(map(len, groups))


def _keys(varying: pd.DataFrame) -> pd.DataFrame:
    """Parameters as text that is equal for equal values; where the data is does not matter, its fingerprint does."""
    return varying.drop(columns=[name for name in DATA if name in varying]).map(key)


def _alike(keys: pd.DataFrame, name: str) -> list[pd.Index]:
    """Runs that are equal in everything but the parameter, and have it."""
    there = keys[keys[name] != key(np.nan)]
    others = there.drop(columns=name).apply(tuple, axis=1) if keys.shape[1] > 1 else pd.Series("", there.index)
    return [group.index for _, group in there.groupby(others)]


def _of_parameter(name: str, values: pd.Series, keys: pd.DataFrame) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Rows of `effects` without their figures, and the weights of the runs that give these."""
    own, texts = _groups(values, keys[name])
    pairs: dict[tuple[str, str], list[np.ndarray]] = {}
    for alike in _alike(keys, name):
        for pair in combinations([text for text in texts if text in set(own[alike])], 2):
            pairs.setdefault(pair, []).append(_weights(own, alike, *pair))
    count = {text: sum(len(found) for pair, found in pairs.items() if text in pair) for text in texts}
    best_first = dict.fromkeys(text for text in own if text in texts)
    base = max(best_first, key=lambda text: count[text])
    linked = {text for pair in pairs if base in pair for text in pair}
    rows = []
    for pair, found in pairs.items():
        if base in pair or not set(pair) <= linked:
            first, second, sign = (*pair, 1) if base != pair[1] else (*pair[::-1], -1)
            rows.append((_row(name, texts[first], texts[second], len(found)), sign * np.mean(found, axis=0)))
    everyone = own.index[own.isin(texts)]
    for text in texts:
        if text != base and not count[text]:
            remark = _confounders(keys.drop(columns=name), own, base, text)
            rows.append((_row(name, texts[base], texts[text], 0, remark), _weights(own, everyone, base, text)))
    return rows


def _groups(values: pd.Series, keys: pd.Series) -> tuple[pd.Series, dict[str, str]]:
    """The runs' values of a parameter as keys, and key -> text in order; of a number with many values, its two halves."""
    value = {text: one for one, text in zip(values, keys, strict=True) if text != key(np.nan)}
    if len(value) <= _MANY or not all(_is_number(one) for one in value.values()):
        return keys, {text: shorten(written(value[text])) for text in sorted(value, key=lambda text: _rank(value[text]))}
    middle = sorted(value[text] for text in keys if text in value)[(keys.isin(list(value)).sum() - 1) // 2]
    middle = min(middle, sorted(value.values())[-2])  # so that the upper half is never empty
    halves = {text: "low" if one <= middle else "high" for text, one in value.items()}
    return keys.map(lambda text: halves.get(text, text)), {"low": f"≤ {middle:g}", "high": f"> {middle:g}"}


def _row(name: str, first: str, second: str, pairs: int, remark: str = "") -> dict[str, Any]:
    return {"parameter": name, "from": first, "to": second, "pairs": pairs, "remark": remark}


def _weights(own: pd.Series, among: pd.Index, low: str, high: str) -> np.ndarray:
    """(runs,) that give the mean of the runs of one value minus that of another, among some runs."""
    inside, texts = own.index.isin(among), own.to_numpy()
    first, second = ((inside & (texts == text)).astype(np.float64) for text in (low, high))
    weights: np.ndarray = second / second.sum() - first / first.sum()
    return weights


def _confounders(others: pd.DataFrame, own: pd.Series, low: str, high: str) -> str:
    """Names of the other parameters that are distributed otherwise among the runs of one value than among the other's."""
    sides = [others.loc[own.index[own == text]] for text in (low, high)]
    shares = [{name: side[name].value_counts(normalize=True).to_dict() for name in others.columns} for side in sides]
    names = [name for name in others.columns if not _equal(shares[0][name], shares[1][name])]
    if not names:
        return "no two runs are alike in all else"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"confounded with {', '.join(names[:_NAMED])}{more}"


def _equal(one: Mapping[Hashable, float], two: Mapping[Hashable, float]) -> bool:
    return one.keys() == two.keys() and all(np.isclose(one[value], two[value]) for value in one)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then the rest by text."""
    return (False, float(value), "") if _is_number(value) else (True, 0.0, written(value))
