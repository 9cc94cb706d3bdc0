"""Images and labels together: what is usable, split into training and validation, served in batches."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mlkit.data.cache import PixelCache
from mlkit.data.labels import one_sided, to_codes
from mlkit.errors import LabelError
from mlkit.progress import bar

_CHUNK = 64  # images that a thread works on at a time


class MultiLabelDataset(Dataset[tuple[Tensor, Tensor]]):
    """Usable images with their labels; item i is (pixels uint8 (3, H, W), targets int8 (attributes,) of 1, 0 and -1).

    Attributes:
        labels: the label table of the usable images.
        report: rows that were left out: image, line, problem.
        digests: image -> digest of the file's content; equal digests are equal files.
        targets: int8 (images, attributes), -1 where unknown.
    """

    def __init__(self, labels: pd.DataFrame, report: pd.DataFrame, cache: PixelCache) -> None:
        self.labels = labels
        self.report = report
        self.image_size = cache.size
        self.digests = pd.Series({image: cache.entries[image].digest for image in labels.index}, dtype=object)
        self.targets = torch.from_numpy(to_codes(labels))
        self._cache = cache
        self._rows = np.array([cache.entries[image].row for image in labels.index])

    def with_labels(self, labels: pd.DataFrame) -> "MultiLabelDataset":
        """The images that `labels` names, with these labels; pixels are shared. All must be images of this data set."""
        return MultiLabelDataset(labels, self.report, self._cache)

    @property
    def attributes(self) -> list[str]:
        return list(self.labels.columns)

    @property
    def fingerprint(self) -> str:
        """Digest of all that a training can see of the data: names, labels, file contents."""
        parts = [*self.attributes, *self.labels.index, *self.digests]
        text = "\0".join(map(str, parts)).encode() + self.targets.numpy().tobytes()
        return hashlib.blake2b(text, digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, targets = self.batch(np.array([index]))
        return pixels[0].permute(2, 0, 1), targets[0]

    def __str__(self) -> str:
        total, bad = len(self) + len(self.report), len(self.report)
        text = f"{len(self)} of {total} rows are used, {len(self.attributes)} attributes: {', '.join(self.attributes)}"
        text = "\n".join([text, *self.labels.attrs.get("notes", []), *one_sided(self.labels)])
        if bad:
            named = ", ".join(f"{row.image} ({row.problem})" for row in self.report.head(5).itertuples())
            missing = int((self.report.problem == "no such file").sum())
            counts = [f"{n} {what}" for n, what in ((missing, "missing"), (bad - missing, "broken")) if n]
            text += f"\nleft out, {' and '.join(counts)}: {named}" + (f" and {bad - 5} more" if bad > 5 else "")
            text += f"\n{mend}" if (mend := self.report.attrs.get("mend")) else ""
        return text

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Pixels uint8 (batch, H, W, 3) and targets int8 (batch, attributes) of several images in one read."""
        return torch.from_numpy(self._cache.read(self._rows[indices])), self.targets[torch.from_numpy(indices)]

    def map_pixels(self, function: Callable[[np.ndarray], np.ndarray], desc: str, keep: str = "") -> np.ndarray:
        """`function` of all images' pixels, handed over as uint8 (batch, H, W, 3) in parallel threads.

        It returns one row per image; so does this, in the order of the images. What it returned is kept with the pixel cache
        under the name `keep`, if one is given, by each file's content.
        """
        digests = self.digests.to_numpy(str)
        known, kept = self._cache.kept(keep) if keep else (digests[:0], np.empty(0))
        todo = np.flatnonzero(~np.isin(digests, known))
        if len(todo):
            chunks = np.array_split(todo, max(1, -(-len(todo) // _CHUNK)))
            with ThreadPoolExecutor(os.cpu_count()) as executor:
                results = executor.map(lambda chunk: function(self.batch(chunk)[0].numpy()), chunks)
                new = np.concatenate(list(bar(results, total=len(chunks), desc=desc, unit="batch")))
            known, kept = np.concatenate([known, digests[todo]]), np.concatenate([kept, new]) if len(kept) else new
            if keep:
                self._cache.keep(keep, known, kept)
        order = np.argsort(known, kind="stable")
        return kept[order[np.searchsorted(known, digests, sorter=order)]]


def split_images(
    labels: pd.DataFrame,
    validation: float = 0.2,
    seed: int = 0,
    groups: Mapping[str, str] | pd.Series | None = None,
    test: float = 0.0,
    folds: int = 0,
    fold: int = 0,
) -> pd.Series:
    """Assign every image to "train", "validation" or "test", keeping each attribute's known cells in proportion.

    Iterative stratification (Sechidis et al. 2011, iterative-stratification) on the indicator columns [y = 1, y = 0]: an
    unknown cell counts for neither. Its sizes are near what is asked, not exact.

    Args:
        labels: label table.
        validation: share of images for validation, between 0 and 1.
        seed: same seed, same split.
        groups: image -> group; a group stays on one side (files with identical content, say). An image that is not
            named is a group of its own.
        test: share of images for the test, from 0.
        folds: k of k-fold cross-validation, whose fold number `fold` is the test set instead; 0 for none.
        fold: from 0 to folds - 1.

    Raises:
        LabelError: if there are too few images to split.
    """
    numbers, indicators = _indicators(labels, groups)
    count, share = len(indicators), 1 / folds if folds else test
    if not 0 < validation < 1 or not 0 <= share < 1 - validation:
        raise LabelError(
            f"validation_fraction is {validation} and the share for the test {share:.2f}; validation must lie between 0 and "
            "1, and both together below 1"
        )
    if count < max(4, folds):
        raise LabelError(f"{count} different images are too few to split; label at least {max(4, folds)}")
    side = np.full(count, "train", dtype=object)
    if folds:
        side[_folds(indicators, folds, seed) == fold] = "test"
    elif test:
        side[_held_out(indicators, test, seed)] = "test"
    rest = np.flatnonzero(side == "train")
    side[rest[_held_out(indicators[rest], validation / (1 - share), seed)]] = "validation"
    wanted = {"train", "validation"} | ({"test"} if share else set())
    if missing := wanted - set(side):
        raise LabelError(f"the split leaves no image of {count} for {', '.join(missing)}; change its fractions")
    split = pd.Series(side[numbers], index=labels.index, name="split")
    if (split == "train").sum() < 2:  # batch normalisation, and any learning, compares images
        raise LabelError(
            f"the split leaves 1 image of {len(split)} to train on, 2 are needed; label more, or lower its fractions"
        )
    return split


def fold_images(
    labels: pd.DataFrame, folds: int = 5, seed: int = 0, groups: Mapping[str, str] | pd.Series | None = None
) -> pd.Series:
    """Fold of every image, 0 to folds - 1, for cross-validation; stratified and grouped as `split_images` does.

    Raises:
        LabelError: if there are fewer groups than folds, or fewer than 2 folds.
    """
    numbers, indicators = _indicators(labels, groups)
    if not 2 <= folds <= len(indicators):
        raise LabelError(
            f"{len(indicators)} different images cannot make {folds} folds; ask for at least 2, at most that many"
        )
    return pd.Series(_folds(indicators, folds, seed)[numbers], index=labels.index, name="fold")


def _indicators(labels: pd.DataFrame, groups: Mapping[str, str] | pd.Series | None) -> tuple[np.ndarray, np.ndarray]:
    """Number of each image's group, and what is known of each group: columns [y = 1, y = 0].

    A group counts as positive (negative) for an attribute if any of its images is.
    """
    own = labels.index.to_series()
    group = own if groups is None else own.map(groups).astype(object)
    numbers, names = pd.factorize(group.where(group.notna(), own))
    codes = to_codes(labels)
    indicators = np.zeros((len(names), 2 * codes.shape[1]), np.int8)
    np.maximum.at(indicators, numbers, np.hstack([codes == 1, codes == 0]).astype(np.int8))
    return numbers, indicators


def _folds(indicators: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Stratified fold of every row."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    splitter = MultilabelStratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold = np.zeros(len(indicators), np.int64)
    for number, (_, held_out) in enumerate(splitter.split(indicators, indicators)):
        fold[held_out] = number
    return fold


def _held_out(indicators: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Positions of a stratified share of the rows."""
    if math.ceil(share * len(indicators)) >= len(indicators):
        raise LabelError(f"the split leaves no image of {len(indicators)} to train on; lower validation_fraction")
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    held_out: np.ndarray = next(splitter.split(indicators, indicators))[1]
    return held_out


def batches(
    indices: np.ndarray, size: int, seed: int, epoch: int, weights: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Shuffled batches of one epoch, derived from (seed, epoch) alone, so that a resumed training sees the same.

    A last batch of a single image joins the one before: batch normalisation cannot work on one value.

    Args:
        indices: of the images.
        size: images a batch.
        seed: of the training.
        epoch: its number.
        weights: (len(indices),), how often each image is drawn, in proportion; drawn with replacement, as many as there are
            images. None takes each once.
    """
    rng = np.random.default_rng([seed, epoch])
    chances = None if weights is None else weights / weights.sum()
    shuffled = rng.choice(indices, len(indices), replace=weights is not None, p=chances)
    cuts = list(range(size, len(shuffled), size))
    if cuts and len(shuffled) - cuts[-1] == 1:
        cuts.pop()
    yield from np.split(shuffled, cuts)
