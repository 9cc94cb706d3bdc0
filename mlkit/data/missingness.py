"""Does `NA` depend on something? Tests of each attribute's unknown cells against all else that is known of the images.

Where labels are missing at random, the known cells speak for all images. Where they are missing more often on dark photos,
or where another attribute is present, a score on the known cells is one of the easier (or harder) part. Whether a cell is
unknown because of its own value cannot be tested: nobody knows it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.labels import to_codes

COLUMNS = ["attribute", "depends_on", "test", "images", "effect", "detail", "p", "p_holm"]
_FEW = 5  # expected cells below which chi-square is not to be trusted
_BLOCK = 1 << 20  # numbers computed at a time


def image_properties(dataset: MultiLabelDataset) -> pd.DataFrame:
    """Per image, from the cached pixels: brightness, contrast, colourfulness, sharpness.

    Brightness and contrast are mean and standard deviation of the grey levels, 0..255. Colourfulness is that of Hasler and
    Suesstrunk (2003); sharpness the logarithm of the variance of the Laplacian.
    """
    values = dataset.map_pixels(_properties, "measuring images")
    names = ["brightness", "contrast", "colourfulness", "sharpness"]
    return pd.DataFrame(values, index=dataset.labels.index, columns=names)


def missingness(labels: pd.DataFrame, properties: pd.DataFrame | None = None) -> pd.DataFrame:
    """All tests of whether an attribute's `NA` goes with something, the smallest p-value first.

    Args:
        labels: label table.
        properties: numbers per image, of `image_properties` say; none by default.

    Returns:
        One row per test. attribute: whose NA is tested. depends_on: another attribute's value ("bag"), its NA ("NA of bag",
        each pair once) or a property. test: chi-square, Fisher's exact test where few cells are expected, or Mann-Whitney.
        images: how many entered. effect, from -1 to 1, positive where NA goes with yes, with NA, or with larger values:
        phi coefficient, or rank-biserial correlation. detail: the same for people. p; p_holm: corrected for all tests of the
        table (Holm 1979), so that with nothing to find, any of them falls below 0.05 with a chance of at most 5 %.
    """
    parts = [*_against_attributes(labels), *([] if properties is None else [_against_properties(labels, properties)])]
    table = pd.concat([part for part in parts if len(part)] or parts[:1]).sort_values("p", kind="stable", ignore_index=True)
    corrected = np.maximum.accumulate(table["p"].to_numpy(np.float64) * np.arange(len(table), 0, -1))
    table["p_holm"] = np.minimum(corrected, 1)
    return table


def not_at_random(dataset: MultiLabelDataset, level: float = 0.05) -> list[str]:
    """Attributes whose unknown cells go with something, by any test of `missingness` (p_holm at most `level`)."""
    table = missingness(dataset.labels, image_properties(dataset))
    found = set(table.attribute[table.p_holm <= level])
    return [name for name in dataset.attributes if name in found]


def _against_attributes(labels: pd.DataFrame) -> list[pd.DataFrame]:
    """Tests of all pairs of attributes at once: some hundred attributes make a hundred thousand."""
    codes, names = to_codes(labels), labels.columns.to_numpy(object)
    unknown, yes, no = ((codes == value).astype(np.float64) for value in (-1, 1, 0))
    # counts of images for all pairs of attributes, exact in float64
    with_yes, with_no, with_unknown = (np.rint(unknown.T @ other).astype(int) for other in (yes, no, unknown))
    all_yes, all_no, all_unknown = (part.sum(axis=0).astype(int) for part in (yes, no, unknown))
    first, second = np.nonzero(~np.eye(len(names), dtype=bool))
    left, right = np.triu_indices(len(names), 1)
    values = [with_yes[first, second], with_no[first, second], all_yes[second], all_no[second]]
    both = with_unknown[left, right]
    unknowns = [both, all_unknown[left] - both, all_unknown[right], len(codes) - all_unknown[right]]
    return [
        _table_tests(names[first], names[second].astype(str), values, ("where yes", "where no")),
        _table_tests(names[left], [f"NA of {name}" for name in names[right]], unknowns, ("where NA", "where known")),
    ]


def _table_tests(
    attributes: np.ndarray, depends_on: Sequence[str] | np.ndarray, counts: Sequence[np.ndarray], where: tuple[str, str]
) -> pd.DataFrame:
    """Tests of unknown cells among images in two parts; none where a margin is empty, so that nothing could be seen.

    Args:
        attributes: of each test, whose cells are unknown.
        depends_on: of each test.
        counts: unknown cells in the first part and in the second, images in the first and in the second; an array each.
        where: names of the parts.
    """
    from scipy import stats

    a, b, first, second = counts
    total, row = first + second, a + b  # of the table [[a, b], [first - a, second - b]]
    tested = (row > 0) & (row < total) & (first > 0) & (second > 0)
    a, b, first, second, total, row = (part[tested] for part in (a, b, first, second, total, row))
    smallest = np.minimum(row, total - row) * np.minimum(first, second) / np.maximum(total, 1)
    margins = row.astype(np.float64) * (total - row) * first * second
    cross = a.astype(np.float64) * (second - b) - b.astype(np.float64) * (first - a)
    p = stats.chi2.sf(total * cross**2 / margins, 1)
    few = smallest < _FEW
    p[few] = _fisher(a[few], row[few], first[few], total[few])
    shares = zip(a / first, b / second, strict=True)
    columns = {
        "attribute": attributes[tested],
        "depends_on": np.asarray(depends_on, object)[tested],
        "test": np.where(few, "Fisher", "chi-square"),
        "images": total,
        "effect": cross / np.sqrt(margins),
        "detail": [f"{one:.1%} NA {where[0]}, {other:.1%} NA {where[1]}" for one, other in shares],
        "p": p,
    }
    return pd.DataFrame(columns, columns=COLUMNS)


def _fisher(a: np.ndarray, row: np.ndarray, column: np.ndarray, total: np.ndarray) -> np.ndarray:
    """p-values of Fisher's exact test, two-sided, of many 2 x 2 tables: corner, sums of its row and column, sum of all."""
    from scipy.special import gammaln

    def log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
        return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))

    tables, inverse = np.unique(np.stack([a, row, column, total], axis=1), axis=0, return_inverse=True)
    result = np.empty(len(tables))
    span = np.minimum(tables[:, 1], tables[:, 2]) + 1
    order = np.argsort(span)  # tables of a like span together, so that little is computed in vain
    for part in np.array_split(order, max(1, int(span.sum()) // _BLOCK)):
        a, row, column, total = tables[part].T[:, :, None]
        corner = np.arange(span[part].max(initial=1))
        possible = (corner <= np.minimum(row, column)) & (corner >= row + column - total)
        corner = np.where(possible, corner, a)
        log_p = log_choose(column, corner) + log_choose(total - column, row - corner) - log_choose(total, row)
        as_extreme = possible & (log_p <= np.take_along_axis(log_p, a, axis=1) + 1e-7)
        result[part] = np.minimum(np.where(as_extreme, np.exp(log_p), 0).sum(axis=1), 1)
    return result[inverse.ravel()]


def _against_properties(labels: pd.DataFrame, properties: pd.DataFrame) -> pd.DataFrame:
    from scipy import stats

    unknown = to_codes(labels) < 0
    values = properties.loc[labels.index]
    rows = []
    for i, attribute in enumerate(labels.columns):
        part = unknown[:, i]
        if part.all() or not part.any():
            continue
        missing, known = values.to_numpy()[part], values.to_numpy()[~part]
        tests = stats.mannwhitneyu(missing, known)
        effects = 2 * tests.statistic / (len(missing) * len(known)) - 1
        medians = np.median(missing, axis=0), np.median(known, axis=0)
        for name, effect, p, where_na, where_known in zip(values.columns, effects, tests.pvalue, *medians, strict=True):
            detail = f"median {where_na:.3g} where NA, {where_known:.3g} where known"
            rows.append([attribute, str(name), "Mann-Whitney", len(part), effect, detail, p])
    return pd.DataFrame(rows, columns=COLUMNS[:-1]).reindex(columns=COLUMNS)


def _properties(pixels: np.ndarray) -> np.ndarray:
    """float64 (batch, 4) of uint8 (batch, H, W, 3)."""
    red, green, blue = np.moveaxis(pixels.astype(np.float32), 3, 0)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    axes = (1, 2)
    spread = np.sqrt(red_green.var(axis=axes) + yellow_blue.var(axis=axes))
    colourfulness = spread + 0.3 * np.hypot(red_green.mean(axis=axes), yellow_blue.mean(axis=axes))
    inner = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    sharpness = np.log1p(laplacian.var(axis=axes)) if inner.size else np.zeros(len(pixels))
    columns = [grey.mean(axis=axes), grey.std(axis=axes), colourfulness, sharpness]
    return np.stack(columns, axis=1).astype(np.float64)
