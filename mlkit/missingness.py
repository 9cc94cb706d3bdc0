"""Does `NA` depend on something? Tests of each attribute's unknown cells against all else that is known of the images.

Where labels are missing at random, the known cells speak for all images. Where they are missing more often on dark photos,
or where another attribute is present, a score on the known cells is one of the easier (or harder) part. Whether a cell is
unknown because of its own value cannot be tested: nobody knows it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from mlkit.dataset import MultiLabelDataset
from mlkit.labels import to_codes

COLUMNS = ["attribute", "depends_on", "test", "images", "effect", "detail", "p", "p_holm"]
_FEW = 5  # expected cells below which chi-square is not to be trusted


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
    rows = [*_against_attributes(labels), *([] if properties is None else _against_properties(labels, properties))]
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values("p", kind="stable", ignore_index=True)
    corrected = np.maximum.accumulate(table["p"].to_numpy(np.float64) * np.arange(len(table), 0, -1))
    table["p_holm"] = np.minimum(corrected, 1)
    return table


def _against_attributes(labels: pd.DataFrame) -> Iterator[dict[str, Any]]:
    codes, names = to_codes(labels), list(labels.columns)
    unknown, yes, no = ((codes == value).astype(np.float64) for value in (-1, 1, 0))
    # counts of images for all pairs of attributes at once; exact in float64
    with_yes, with_no, with_unknown = (np.rint(unknown.T @ other).astype(int) for other in (yes, no, unknown))
    all_yes, all_no = yes.sum(axis=0).astype(int), no.sum(axis=0).astype(int)
    all_unknown, count = unknown.sum(axis=0).astype(int), len(codes)
    for i, attribute in enumerate(names):
        for j, other in enumerate(names):
            if i == j:
                continue
            yield from _table_test(
                attribute, str(other), [with_yes[i, j], with_no[i, j]], [all_yes[j], all_no[j]], ("where yes", "where no")
            )
            if i < j:
                both = with_unknown[i, j]
                yield from _table_test(
                    attribute,
                    f"NA of {other}",
                    [both, all_unknown[i] - both],
                    [all_unknown[j], count - all_unknown[j]],
                    ("where NA", "where known"),
                )


def _table_test(
    attribute: str, depends_on: str, unknown: list[int], images: list[int], where: tuple[str, str]
) -> Iterator[dict[str, Any]]:
    """Test of unknown cells among images in two parts; nothing where a margin is empty, so that nothing could be seen."""
    from scipy import stats

    table = np.array([unknown, np.subtract(images, unknown)])
    margins = np.outer(table.sum(axis=1), table.sum(axis=0))
    if not margins.all():
        return
    total = table.sum()
    if (margins / total).min() < _FEW:
        test, p = "Fisher", stats.fisher_exact(table).pvalue
    else:
        test, p = "chi-square", stats.chi2_contingency(table, correction=False).pvalue
    cross = float(table[0, 0]) * table[1, 1] - float(table[0, 1]) * table[1, 0]
    effect = cross / np.sqrt(np.prod([*table.sum(axis=0), *table.sum(axis=1)], dtype=np.float64))
    shares = [f"{u / n:.1%} NA {place}" for u, n, place in zip(unknown, images, where, strict=True)]
    yield _row(attribute, depends_on, test, total, effect, ", ".join(shares), p)


def _against_properties(labels: pd.DataFrame, properties: pd.DataFrame) -> Iterator[dict[str, Any]]:
    from scipy import stats

    unknown = to_codes(labels) < 0
    values = properties.loc[labels.index]
    for i, attribute in enumerate(labels.columns):
        part = unknown[:, i]
        if part.all() or not part.any():
            continue
        for name in values.columns:
            missing, known = values[name].to_numpy()[part], values[name].to_numpy()[~part]
            u, p = stats.mannwhitneyu(missing, known)
            effect = 2 * u / (len(missing) * len(known)) - 1
            detail = f"median {np.median(missing):.3g} where NA, {np.median(known):.3g} where known"
            yield _row(attribute, str(name), "Mann-Whitney", len(part), effect, detail, p)


def _row(attribute: str, depends_on: str, test: str, images: int, effect: float, detail: str, p: float) -> dict[str, Any]:
    values = (attribute, depends_on, test, int(images), float(effect), detail, float(p))
    return dict(zip(COLUMNS, values, strict=False))


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
