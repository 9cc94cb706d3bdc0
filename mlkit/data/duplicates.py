"""Near duplicates: groups that a split must not tear apart, and what their labels say about label noise.

Two images are near duplicates when their perceptual hashes (ImageHash's 64-bit phash: signs of low frequencies of the grey
picture) differ in few bits and their small colour thumbnails agree. The hash alone finds candidates quickly but mistakes
pictures of one composition for each other (drawings, product photos before a white wall); the thumbnails settle it.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
from PIL import Image

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.labels import to_codes
from mlkit.errors import ParameterError

DISTANCE = 6  # bits of 64; retouched, resized and slightly shifted copies of photographs lie within
DIFFERENCE = 0.35  # copies with a logo added or sharpened reach 0.33, different drawings of one kind begin at 0.5
_MOST_BITS = 16  # beyond, bands get so short that all pairs are candidates
_BITS = 64
_THUMBNAIL = 16  # side in pixels
FINGERPRINT = _BITS // 8 + 3 * _THUMBNAIL**2  # bytes of an image: hash and colour thumbnail
_NOISE = 2.0  # grey levels; pictures flatter than that differ by what compression left
_BLOCK = 128  # images compared with others at a time
_KEPT = "fingerprints-1"  # in the pixel cache; another number for another way to compute them


def duplicate_groups(dataset: MultiLabelDataset, distance: int = DISTANCE) -> pd.Series:
    """Group of every image, for `split_images(groups=...)`: the name of the group's first image; its own where it is alone.

    Groups are the connected components of near duplicates: the ends of a chain (frames of a film, say) may differ visibly,
    but no image on one side of a split has a near duplicate on the other.

    Args:
        dataset: its cached pixels are compared, so at its image size; 32 pixels are enough. Fingerprints are computed once
            and kept with the pixel cache.
        distance: bits in which the hashes may differ, 0 to 16; fewer find less, more cost time and add little, since the
            thumbnails must agree as well.

    Raises:
        ParameterError: if `distance` is out of range.
    """
    if not 0 <= distance <= _MOST_BITS:
        raise ParameterError(
            f"distance is {distance}; it must lie between 0 and {_MOST_BITS} bits of {_BITS}, {DISTANCE} say"
        )
    firsts = near_duplicates(dataset.map_pixels(_fingerprints, "hashing", keep=_KEPT), distance)
    index = dataset.labels.index
    return pd.Series(index.to_numpy()[firsts], index=index, name="group", dtype=object)


def near_duplicates(prints: np.ndarray, distance: int = DISTANCE) -> np.ndarray:
    """Position of the first image of every image's group.

    Cut into distance + 1 bands, two hashes that differ in at most `distance` bits are equal in at least one of them, so that
    only images that share a band are compared (multi-index hashing, Norouzi, Punjani & Fleet 2012), and of those only images
    that no chain joins yet: thousands of frames of one scene are joined by the first few.

    Args:
        prints: fingerprints, uint8 (images, bytes of the hash and of the thumbnail).
        distance: bits in which hashes may differ.
    """
    # exact copies (and blank pictures, which all look alike) first
    rows = np.ascontiguousarray(prints).view(np.dtype((np.void, prints.shape[1]))).ravel()
    _, originals, inverse = np.unique(rows, return_index=True, return_inverse=True)
    groups = _Groups(len(originals))
    hashes = np.ascontiguousarray(prints[originals, :8]).view(np.uint64).ravel()
    compared: list[np.uint64] = []  # bands
    cuts = np.linspace(0, _BITS, distance + 2).astype(int)
    for low, high in itertools.pairwise(cuts):
        band = np.uint64(((1 << int(high - low)) - 1) << int(low))
        for members in _buckets(hashes & band):
            _join(members, hashes, prints[originals[members], 8:], distance, compared, groups)
        compared.append(band)
    first = np.full(len(originals), len(prints))
    np.minimum.at(first, groups.of(np.arange(len(originals))), originals)
    result: np.ndarray = first[groups.of(inverse.ravel())]
    return result


def contradictions(labels: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Groups of duplicates whose known labels differ: one row per group and attribute in dispute.

    Args:
        labels: label table.
        groups: image -> group, of `duplicate_groups`; `MultiLabelDataset.digests` for identical files alone.

    Returns:
        Columns attribute, images (of the group), labels (those known, by image).
    """
    numbers, _, positives, negatives = _known_by_group(labels, groups)
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(len(positives) + 1))
    codes = to_codes(labels)
    rows = []
    for group, attribute in np.argwhere((positives > 0) & (negatives > 0)):
        members = order[starts[group] : starts[group + 1]]
        said = [f"{labels.index[i]}: {codes[i, attribute]}" for i in members if codes[i, attribute] >= 0]
        rows.append({"attribute": labels.columns[attribute], "images": len(members), "labels": ", ".join(said)})
    return pd.DataFrame(rows, columns=["attribute", "images", "labels"])


def disputed(labels: pd.DataFrame, groups: pd.Series) -> np.ndarray:
    """Boolean (images, attributes): known cells that a duplicate of the image contradicts; arguments as before."""
    numbers, _, positives, negatives = _known_by_group(labels, groups)
    result: np.ndarray = ((positives > 0) & (negatives > 0))[numbers] & (to_codes(labels) >= 0)
    return result


def noise_ceiling(labels: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """How well labels agree with themselves, per attribute: over all pairs of duplicates that both know it.

    Arguments as for `contradictions`.

    Returns:
        pairs; disagreeing; disagreement, their share; by_chance, the share if labels were drawn at random with the
        attribute's prevalence; accuracy_ceiling, the largest accuracy that any model can show on such labels:
        1 - e, where a label that is wrong with probability e, independently, makes a share
        2 e (1 - e) of the pairs disagree. NaN where there are no pairs. A group of n images gives n (n - 1) / 2 pairs,
        so that a few large groups can dominate.
    """
    _, _, positives, negatives = _known_by_group(labels, groups)
    known = positives + negatives
    pairs = (known * (known - 1) // 2).sum(axis=0)
    disagreeing = (positives * negatives).sum(axis=0)
    share = np.divide(disagreeing, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    total = known.sum(axis=0)
    prevalence = np.divide(positives.sum(axis=0), total, out=np.full(len(pairs), np.nan), where=total > 0)
    wrong = (1 - np.sqrt(np.maximum(1 - 2 * share, 0))) / 2
    return pd.DataFrame(
        {
            "pairs": pairs,
            "disagreeing": disagreeing,
            "disagreement": share,
            "by_chance": 2 * prevalence * (1 - prevalence),
            "accuracy_ceiling": 1 - wrong,
        },
        index=pd.Index(labels.columns, name="attribute"),
    )


def _known_by_group(labels: pd.DataFrame, groups: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Group number of each image, images per group; known positives and negatives, each (groups, attributes)."""
    named = labels.index.to_series().map(groups)
    numbers, _ = pd.factorize(named.where(named.notna(), labels.index.to_series()))
    codes = to_codes(labels)
    sizes = np.bincount(numbers)
    positives, negatives = np.zeros((2, len(sizes), codes.shape[1]), np.int64)
    np.add.at(positives, numbers, codes == 1)
    np.add.at(negatives, numbers, codes == 0)
    return numbers, sizes, positives, negatives


def _fingerprints(pixels: np.ndarray) -> np.ndarray:
    """uint8 (batch, 8 + thumbnail): hash and colour thumbnail of each image."""
    import imagehash

    rows = []
    for array in pixels:
        picture = Image.fromarray(array)
        bits = np.packbits(imagehash.phash(picture, hash_size=8).hash)
        small = np.asarray(picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX))
        rows.append(np.concatenate([bits, small.ravel()]))
    return np.stack(rows)


class _Groups:
    """Union-find: sets of numbers below `count` that are joined one pair after the other."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """The set of each number, by one of its members."""
        roots: np.ndarray = self._parent[numbers]
        while (roots != (above := self._parent[roots])).any():
            roots = above
        self._parent[numbers] = roots
        return roots

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Join the sets of first[i] and second[i], for every i."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        roots, ends = np.unique(np.stack([self.of(first), self.of(second)]), return_inverse=True)
        links = coo_array((np.ones(len(first), bool), ends.reshape(2, -1)), shape=(len(roots),) * 2)
        _, component = connected_components(links, directed=False)
        _, lowest = np.unique(component, return_index=True)
        self._parent[roots] = roots[lowest[component]]


def _buckets(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Positions of equal keys, for every key that there is more than once."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else np.empty(0, np.int64)
    sizes = np.diff(np.r_[starts, len(keys)])
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        yield order[start : start + size]


def _join(
    members: np.ndarray,
    hashes: np.ndarray,
    thumbnails: np.ndarray,
    distance: int,
    compared: list[np.uint64],
    groups: _Groups,
) -> None:
    """Join the near duplicates among `members`, whose thumbnails are given; pairs equal in a band of `compared` are done."""
    at, block = np.arange(len(members)), 1 if len(members) > _BLOCK else _BLOCK
    while True:
        roots = groups.of(members[at])
        _, number, sizes = np.unique(roots, return_inverse=True, return_counts=True)
        if len(sizes) < 2:
            return
        order = np.argsort(sizes[number], kind="stable")  # the smallest groups first: the largest is never left to the last
        at, roots = at[order], roots[order]
        differing = hashes[members[at[:block]], None] ^ hashes[members[at]]
        near = (np.bitwise_count(differing) <= distance) & (roots[:block, None] != roots)
        for band in compared:
            near &= (differing & band) != 0
        rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
        alike = near[np.ix_(rows, columns)] & _alike(thumbnails[at[rows]], thumbnails[at[columns]])
        first, second = np.nonzero(alike)
        if len(first):
            groups.join(members[at[rows[first]]], members[at[columns[second]]])
        at, block = at[block:], min(2 * block, _BLOCK)


def _alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which thumbnails agree, bool (first, second).

    That is: the root mean square of their difference is at most `DIFFERENCE` times their mean contrast (root mean square of
    the standard deviations), 0 for copies, about 1.4 times for unrelated pictures.
    """
    a, b = (side.astype(np.float32) - 128 for side in (first, second))  # whose products add up to exact integers
    product = (a @ b.T).astype(np.float64)
    power_a, power_b = (np.square(side).sum(axis=1, dtype=np.float64) for side in (a, b))
    difference = (power_a[:, None] + power_b - 2 * product) / a.shape[1]
    contrast = (a.var(axis=1, dtype=np.float64)[:, None] + b.var(axis=1, dtype=np.float64)) / 2
    alike: np.ndarray = difference <= DIFFERENCE**2 * np.maximum(contrast, _NOISE**2)
    return alike
