"""Near duplicates: groups that a split must not tear apart, and what their labels say about label noise.

Two images are near duplicates when their perceptual hashes (ImageHash's 64-bit phash: signs of low frequencies of the grey
picture) differ in few bits and their small colour thumbnails agree. The hash alone finds candidates quickly but mistakes
pictures of one composition for each other (drawings, product photos before a white wall); the thumbnails settle it.
"""

import itertools

import numpy as np
import pandas as pd
from PIL import Image

from mlkit.dataset import MultiLabelDataset
from mlkit.errors import ParameterError
from mlkit.labels import to_codes

DISTANCE = 6  # bits of 64; retouched, resized and slightly shifted copies of photographs lie within
DIFFERENCE = 0.35  # copies with a logo added or sharpened reach 0.33, different drawings of one kind begin at 0.5
_MOST_BITS = 16  # beyond, bands get so short that all pairs are candidates
_BITS = 64
_THUMBNAIL = 16  # side in pixels
_NOISE = 2.0  # grey levels; pictures flatter than that differ by what compression left
_BLOCK = 1 << 14  # pairs compared at a time


def duplicate_pairs(dataset: MultiLabelDataset, distance: int = DISTANCE) -> pd.DataFrame:
    """Pairs of near duplicates, most alike first: first, second, distance, difference.

    Args:
        dataset: its cached pixels are compared, so at its image size; 32 pixels are enough.
        distance: bits in which the hashes may differ, 0 to 16; fewer find less, more cost time and add little, since the
            thumbnails must agree as well.

    Returns:
        `difference` is the root mean square difference of the thumbnails over their mean contrast (standard deviation):
        0 for copies, about 1.4 for unrelated pictures. Of several copies, each is listed beside the first only.

    Raises:
        ParameterError: if `distance` is out of range.
    """
    if not 0 <= distance <= _MOST_BITS:
        raise ParameterError(
            f"distance is {distance}; it must lie between 0 and {_MOST_BITS} bits of {_BITS}, {DISTANCE} say"
        )
    prints = dataset.map_pixels(_fingerprints, "hashing")
    # exact copies (and blank pictures, which all look alike) first: n of them are n - 1 pairs, not n^2 / 2
    _, originals, inverse = np.unique(prints, axis=0, return_index=True, return_inverse=True)
    first_of = originals[inverse.ravel()]
    copies = np.flatnonzero(first_of != np.arange(len(prints)))
    originals = np.sort(originals)
    hashes = np.ascontiguousarray(prints[originals, :8]).view(np.uint64).ravel()
    pairs, bits = _hash_pairs(hashes, distance)
    pairs = originals[pairs]
    difference = _thumbnail_difference(prints[:, 8:], pairs)
    near = difference <= DIFFERENCE
    first = np.concatenate([first_of[copies], pairs[near, 0]])
    second = np.concatenate([copies, pairs[near, 1]])
    images = dataset.labels.index.to_numpy()
    table = pd.DataFrame(
        {
            "first": images[first],
            "second": images[second],
            "distance": np.concatenate([np.zeros(len(copies), np.int64), bits[near]]),
            "difference": np.concatenate([np.zeros(len(copies)), difference[near]]),
        }
    )
    return table.sort_values("difference", kind="stable", ignore_index=True)


def duplicate_groups(dataset: MultiLabelDataset, distance: int = DISTANCE) -> pd.Series:
    """Group of every image, for `split_images(groups=...)`: the name of the group's first image; its own where it is alone.

    Groups are the connected components of `duplicate_pairs`: the ends of a chain (frames of a film, say) may differ visibly,
    but no image on one side of a split has a near duplicate on the other. `distance` and errors as there.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = duplicate_pairs(dataset, distance)
    index = dataset.labels.index
    ends = index.get_indexer(pd.Index(pairs["first"])), index.get_indexer(pd.Index(pairs["second"]))
    links = coo_array((np.ones(len(pairs), np.int8), ends), shape=(len(index), len(index)))
    _, component = connected_components(links, directed=False)
    _, firsts = np.unique(component, return_index=True)
    return pd.Series(index.to_numpy()[firsts[component]], index=index, name="group", dtype=object)


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


def _hash_pairs(hashes: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (first < second) of hashes that differ in at most `distance` bits, and in how many.

    Cut into distance + 1 bands, two such hashes are equal in at least one of them, so that only images that share a band
    are compared (multi-index hashing, Norouzi, Punjani & Fleet 2012).
    """
    cuts = np.linspace(0, _BITS, distance + 2).astype(int)
    found = [np.empty(0, np.int64)]
    for low, high in itertools.pairwise(cuts):
        key = (hashes >> np.uint64(low)) & np.uint64((1 << (int(high) - int(low))) - 1)
        order = np.argsort(key, kind="stable")
        ordered, key = hashes[order], key[order]
        left = np.arange(len(order))
        step = 0
        while len(left):  # in each round, every hash meets the next one of its band
            step += 1
            left = left[: np.searchsorted(left, len(order) - step)]
            left = left[key[left] == key[left + step]]
            near = left[np.bitwise_count(ordered[left] ^ ordered[left + step]) <= distance]
            a, b = order[near], order[near + step]
            found.append(np.minimum(a, b) * len(hashes) + np.maximum(a, b))
    unique = np.unique(np.concatenate(found))
    pairs = np.stack(np.divmod(unique, max(1, len(hashes))), axis=1)
    return pairs, np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]).astype(np.int64)


def _thumbnail_difference(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Root mean square difference of two thumbnails over their root mean square contrast, for each pair."""
    result = np.empty(len(pairs))
    for start in range(0, len(pairs), _BLOCK):
        a, b = (thumbnails[side].astype(np.float32) for side in pairs[start : start + _BLOCK].T)
        contrast = np.sqrt((a.var(axis=1) + b.var(axis=1)) / 2)
        result[start : start + _BLOCK] = np.sqrt(np.square(a - b).mean(axis=1)) / np.maximum(contrast, _NOISE)
    return result
