"""Images and labels together: what is usable, split into training and validation, served in batches."""

import hashlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
from torch import Tensor
from torch.utils.data import Dataset

from mlkit.cache import PixelCache, build_cache
from mlkit.errors import LabelError
from mlkit.files import resolve, shown
from mlkit.labelfile import exclude_images, read_labels
from mlkit.labels import to_codes


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

    @classmethod
    def from_files(
        cls, images: str, labels: str, image_size: int = 224, minus_one: str = "error", strict: bool = False
    ) -> "MultiLabelDataset":
        """Read a label file and decode its images (once: the next call finds them in the pixel cache).

        Args:
            images: folder that the label file's paths start from.
            labels: label file, see `read_labels`, which also explains `minus_one`.
            image_size: side in pixels of the square that every image is resized to.
            strict: make a missing or broken image an error instead of leaving it out.

        Raises:
            LabelError: for a label file or an images folder that cannot be used.
        """
        table = read_labels(labels, minus_one)
        folder = resolve(images)
        if not folder.is_dir():
            raise LabelError(f"{shown(folder)}: no such images folder; check the path")
        cache = build_cache(folder, list(table.index), image_size)
        kept, report = exclude_images(table, cache.problems, strict)
        return cls(kept, report, cache)

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
        if bad:
            named = ", ".join(f"{row.image} ({row.problem})" for row in self.report.head(5).itertuples())
            missing = int((self.report.problem == "no such file").sum())
            counts = [f"{n} {what}" for n, what in ((missing, "missing"), (bad - missing, "broken")) if n]
            text += f"\nleft out, {' and '.join(counts)}: {named}" + (f" and {bad - 5} more" if bad > 5 else "")
        return text

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Pixels uint8 (batch, H, W, 3) and targets int8 (batch, attributes) of several images in one read."""
        return torch.from_numpy(self._cache.read(self._rows[indices])), self.targets[torch.from_numpy(indices)]

    def contradictions(self) -> pd.DataFrame:
        """Files with identical content whose known labels differ: one row per group and attribute in dispute."""
        rows = []
        for _, images in self.digests[self.digests.duplicated(keep=False)].groupby(self.digests):
            group = self.labels.loc[images.index]
            for attribute in self.attributes:
                if group[attribute].nunique() > 1:
                    said = ", ".join(f"{i}: {v}" for i, v in group[attribute].dropna().items())
                    rows.append({"attribute": attribute, "images": len(group), "labels": said})
        return pd.DataFrame(rows, columns=["attribute", "images", "labels"])


def split_images(
    labels: pd.DataFrame, validation: float = 0.2, seed: int = 0, groups: Mapping[str, str] | pd.Series | None = None
) -> pd.Series:
    """Assign every image to "train" or "validation", keeping each attribute's known positives and negatives in proportion.

    Iterative stratification (Sechidis et al. 2011, iterative-stratification) on the indicator columns [y = 1, y = 0]: an
    unknown cell counts for neither. Its sizes are near `validation`, not exact.

    Args:
        labels: label table.
        validation: share of images for validation, between 0 and 1.
        seed: same seed, same split.
        groups: image -> group; a group stays on one side (files with identical content, say). An image that is not
            named is a group of its own.

    Raises:
        LabelError: if there are too few images to split.
    """
    own = labels.index.to_series()
    group = own if groups is None else own.map(groups).astype(object)
    numbers, names = pd.factorize(group.where(group.notna(), own))
    if not 0 < validation < 1:
        raise LabelError(f"validation_fraction is {validation}; it must lie between 0 and 1, 0.2 say")
    if len(names) < 4:
        raise LabelError(f"{len(names)} different images are too few to train and validate on; label at least 4")
    if math.ceil(validation * len(names)) == len(names):
        raise LabelError(f"validation_fraction {validation} leaves no image of {len(names)} to train on; lower it")
    codes = to_codes(labels)
    # a group counts as positive (negative) for an attribute if any of its images is
    indicators = np.zeros((len(names), 2 * codes.shape[1]), np.int8)
    np.maximum.at(indicators, numbers, np.hstack([codes == 1, codes == 0]).astype(np.int8))
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=validation, random_state=seed)
    train, held_out = next(splitter.split(indicators, indicators))
    if not len(train) or not len(held_out):
        raise LabelError(f"validation_fraction {validation} leaves one side of {len(names)} images empty; change it")
    side = np.full(len(names), "train", dtype=object)
    side[held_out] = "validation"
    return pd.Series(side[numbers], index=labels.index, name="split")


def batches(indices: np.ndarray, size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Shuffled batches of one epoch, derived from (seed, epoch) alone, so that a resumed training sees the same.

    A last batch of a single image joins the one before: batch normalisation cannot work on one value.
    """
    shuffled = np.random.default_rng([seed, epoch]).permutation(indices)
    cuts = list(range(size, len(shuffled), size))
    if cuts and len(shuffled) - cuts[-1] == 1:
        cuts.pop()
    yield from np.split(shuffled, cuts)
