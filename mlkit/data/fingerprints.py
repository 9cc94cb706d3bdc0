"""Fingerprints of images, and the search for near duplicates among them.

A fingerprint is a perceptual hash (ImageHash's 64-bit phash: signs of low frequencies of the grey picture) and a small
colour thumbnail. Near duplicates differ in few bits of the hash, and their thumbnails agree. The hash alone finds candidates
quickly but mistakes pictures of one composition for each other (drawings, product photos before a white wall); the
thumbnails settle it.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

DISTANCE = 6  # bits of 64; retouched, resized and slightly shifted copies of photographs lie within
DIFFERENCE = 0.35  # copies with a logo added or sharpened reach 0.33, different drawings of one kind begin at 0.5
BITS = 64
_THUMBNAIL = 16  # side in pixels
FINGERPRINT = BITS // 8 + 3 * _THUMBNAIL**2  # bytes of an image: hash and colour thumbnail
_NOISE = 2.0  # grey levels; pictures flatter than that differ by what compression left
_BLOCK = 128  # images compared with others at a time; groups of candidates that are larger are joined one after the other
_PAIRS = 4096  # whose thumbnails are compared at a time
_SORTING = 16  # what it costs an image to be sorted, in what it costs to compare its hash with another


def fingerprints(pixels: np.ndarray) -> np.ndarray:
    """uint8 (batch, 8 + thumbnail): hash and colour thumbnail of each image."""
    import imagehash

    rows = []
    for array in pixels:
        picture = Image.fromarray(array)
        bits = np.packbits(imagehash.phash(picture, hash_size=8).hash)
        small = np.asarray(picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX))
        rows.append(np.concatenate([bits, small.ravel()]))
    return np.stack(rows)


def near_duplicates(prints: np.ndarray, distance: int = DISTANCE) -> np.ndarray:
    """Position of the first image of every image's group.

    Cut into distance + n bands, two hashes that differ in at most `distance` bits are equal in at least n of them, so that
    only images that share n bands are compared (multi-index hashing, Norouzi, Punjani & Fleet 2012), and of those only
    images that no chain joins yet: thousands of frames of one scene are joined by the first few. The more images there are,
    the more bands they must share: the time grows as the images do, not as their pairs.

    Args:
        prints: fingerprints, uint8 (images, bytes of the hash and of the thumbnail).
        distance: bits in which hashes may differ.
    """
    # exact copies (and blank pictures, which all look alike) first
    rows = np.ascontiguousarray(prints).view(np.dtype((np.void, prints.shape[1]))).ravel()
    _, originals, inverse = np.unique(rows, return_index=True, return_inverse=True)
    search = _Search(prints, originals, distance)
    for key in _keys(distance, len(originals)):
        search.among(key)
    first = np.full(len(originals), len(prints))
    np.minimum.at(first, search.groups.of(np.arange(len(originals))), originals)
    result: np.ndarray = first[search.groups.of(inverse.ravel())]
    return result


def _keys(distance: int, count: int) -> list[tuple[range, ...]]:
    """Bits by which `count` images are sought: hashes that differ in at most `distance` are equal in all bits of one key.

    For each, all images are sorted, and those compared that are equal in it. Longer ones let fewer be compared, but there
    are more of them; these cost least.
    """

    def cost(shared: int) -> float:
        equal = count / (1 << BITS * shared // (distance + shared))
        return math.comb(distance + shared, shared) * (_SORTING + equal)

    shared = min(range(1, 7), key=cost)
    cuts = np.linspace(0, BITS, distance + shared + 1).astype(int).tolist()
    return list(itertools.combinations(itertools.starmap(range, itertools.pairwise(cuts)), shared))


class _Search:
    """Groups of near duplicates, joined as they are found.

    Args:
        prints: fingerprints.
        originals: positions of those to compare, by which images are numbered from here on.
        distance: bits in which hashes may differ.
    """

    def __init__(self, prints: np.ndarray, originals: np.ndarray, distance: int) -> None:
        self.groups = _Groups(len(originals))
        self._thumbnails, self._originals, self._distance = prints[:, BITS // 8 :], originals, distance
        self._hashes = np.ascontiguousarray(prints[originals, : BITS // 8]).view(np.uint64).ravel()
        self._done: list[np.uint64] = []  # bits that were compared by

    def among(self, key: tuple[range, ...]) -> None:
        """Join the near duplicates that are equal in these bits of their hashes."""
        equal: np.ndarray = np.zeros(len(self._hashes), np.uint64)
        for band in key:
            equal = (equal << len(band)) | (self._hashes >> band.start) & ((1 << len(band)) - 1)
        # numbers of 16 bits are sorted in linear time
        equal = equal.astype(np.min_scalar_type((1 << sum(map(len, key))) - 1))
        order = np.argsort(equal, kind="stable")
        equal = equal[order]
        starts = np.flatnonzero(np.r_[True, equal[1:] != equal[:-1]][: len(equal)])
        sizes = np.diff(np.r_[starts, len(equal)])
        many = sizes > _BLOCK
        for first, second in _pairs(np.repeat(starts + np.where(many, 0, sizes), sizes)):
            self._join_pairs(order[first], order[second])
        for start, size in zip(starts[many], sizes[many], strict=True):
            self._join_all(order[start : start + size])
        self._done.append(np.uint64(sum(1 << bit for band in key for bit in band)))

    def _join_pairs(self, first: np.ndarray, second: np.ndarray) -> None:
        near = np.bitwise_count(self._hashes[first] ^ self._hashes[second]) <= self._distance
        first, second = first[near], second[near]
        apart = self.groups.of(first) != self.groups.of(second)
        first, second = first[apart], second[apart]
        for i in range(0, len(first), _PAIRS):
            one, two = first[i : i + _PAIRS], second[i : i + _PAIRS]
            alike = _alike(self._pictures(one)[:, None], self._pictures(two)[:, None])[:, 0, 0]
            self.groups.join(one[alike], two[alike])

    def _join_all(self, members: np.ndarray) -> None:
        """Each with all others; pairs that are equal in the bits of an earlier key are done."""
        at, block = members, 1
        while True:
            roots = self.groups.of(at)
            _, number, sizes = np.unique(roots, return_inverse=True, return_counts=True)
            if len(sizes) < 2:
                return
            order = np.argsort(
                sizes[number], kind="stable"
            )  # the smallest groups first: the largest is not left to the last
            at, roots = at[order], roots[order]
            differing = self._hashes[at[:block], None] ^ self._hashes[at]
            near = (np.bitwise_count(differing) <= self._distance) & (roots[:block, None] != roots)
            one, two = np.nonzero(near)
            differing = differing[one, two]
            for bits in self._done:
                near[one, two] &= (differing & bits) != 0
            one, two = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
            alike = near[np.ix_(one, two)] & _alike(self._pictures(at[one]), self._pictures(at[two]))
            first, second = np.nonzero(alike)
            self.groups.join(at[one[first]], at[two[second]])
            at, block = at[block:], min(2 * block, _BLOCK)

    def _pictures(self, numbers: np.ndarray) -> np.ndarray:
        """Their thumbnails."""
        thumbnails: np.ndarray = self._thumbnails[self._originals[numbers]]
        return thumbnails


def _pairs(ends: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of positions within runs, many at a time: neighbours, then those two apart ...; `ends` of their runs."""
    at = np.arange(len(ends))
    for apart in itertools.count(1):
        at = at[at + apart < ends[at]]
        if not len(at):
            return
        yield at, at + apart


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
        if not len(first):
            return
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        roots, ends = np.unique(np.stack([self.of(first), self.of(second)]), return_inverse=True)
        links = coo_array((np.ones(len(first), bool), ends.reshape(2, -1)), shape=(len(roots),) * 2)
        _, component = connected_components(links, directed=False)
        _, lowest = np.unique(component, return_index=True)
        self._parent[roots] = roots[lowest[component]]


def _alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which thumbnails agree, bool (..., first, second), of (..., first, bytes) and (..., second, bytes).

    That is: the root mean square of their difference is at most `DIFFERENCE` times their mean contrast (root mean square of
    the standard deviations), 0 for copies, about 1.4 times for unrelated pictures.
    """
    a, b = (side.astype(np.float32) - 128 for side in (first, second))  # whose products add up to exact integers
    product = (a @ b.swapaxes(-1, -2)).astype(np.float64)
    power_a, power_b = (np.square(side).sum(axis=-1, dtype=np.float64) for side in (a, b))
    difference = (power_a[..., None] + power_b[..., None, :] - 2 * product) / a.shape[-1]
    contrast = (a.var(axis=-1, dtype=np.float64)[..., None] + b.var(axis=-1, dtype=np.float64)[..., None, :]) / 2
    alike: np.ndarray = difference <= DIFFERENCE**2 * np.maximum(contrast, _NOISE**2)
    return alike
