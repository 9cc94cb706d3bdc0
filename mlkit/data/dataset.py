"""Images and labels together: what is usable, served in batches."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from mlkit.data.cache import PixelCache
from mlkit.data.labels import one_sided, to_codes
from mlkit.data.reading import AS_USUAL
from mlkit.progress import bar, listed

_CHUNK = 64  # images that a thread works on at a time


class MultiLabelDataset:
    """Usable images with their labels; item i is (pixels uint8 (3, H, W), targets int8 (attributes,) of 1, 0 and -1).

    All are arrays: looking at data takes no torch, which takes seconds to import. Whoever trains makes tensors of them.

    Attributes:
        labels: the label table of the usable images.
        given: the same without the answers of people, which are in `labels`: a split by these stays when answers come.
        report: rows that were left out: image, line, problem.
        digests: image -> digest of the file's content; equal digests are equal files.
        targets: int8 (images, attributes), -1 where unknown.
        suggested: float32 (images, attributes), what a model says of unknown cells, NaN elsewhere; None: nothing.
    """

    def __init__(
        self,
        labels: pd.DataFrame,
        report: pd.DataFrame,
        cache: PixelCache,
        given: pd.DataFrame | None = None,
        suggested: np.ndarray | None = None,
        opened: "Callable[[str], MultiLabelDataset] | None" = None,
    ) -> None:
        self.labels = labels
        self.given = labels if given is None else given
        self.report = report
        self.image_size = cache.size
        self.reading = cache.reading
        self.digests = pd.Series({image: cache.entries[image].digest for image in labels.index}, dtype=object)
        self.targets = to_codes(labels)
        self.suggested = suggested
        self._cache = cache
        self._opened = opened
        self._rows = np.array([cache.entries[image].row for image in labels.index])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is the way to open it again, which any process does that sees the files: data travel by path."""
        if self._opened is None:
            raise TypeError("a data set that was not opened from files cannot be sent to another process")
        return self._opened, (self.fingerprint,)

    def with_labels(self, labels: pd.DataFrame, given: pd.DataFrame | None = None) -> "MultiLabelDataset":
        """The images that `labels` names, with these labels and without suggestions; pixels are shared.

        All must be images of this data set.
        """
        return MultiLabelDataset(labels, self.report, self._cache, given)

    @property
    def attributes(self) -> list[str]:
        return list(self.labels.columns)

    @property
    def fingerprint(self) -> str:
        """Digest of all that a training can see of the data: names, labels, file contents."""
        parts = [*self.attributes, *self.labels.index, *self.digests, *([] if self.reading == AS_USUAL else [self.reading])]
        text = "\0".join(map(str, parts)).encode() + self.targets.tobytes()
        text += to_codes(self.given).tobytes() if self.given is not self.labels else b""
        text += b"" if self.suggested is None else self.suggested.tobytes()
        return hashlib.blake2b(text, digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        pixels, targets = self.batch(np.array([index]))
        return pixels[0].transpose(2, 0, 1), targets[0]

    def __str__(self) -> str:
        total, bad = len(self) + len(self.report), len(self.report)
        text = f"{len(self)} of {total} rows are used, {len(self.attributes)} attributes: {listed(self.attributes)}"
        text = "\n".join([text, *self.labels.attrs.get("notes", []), *one_sided(self.labels)])
        if bad:
            named = listed([f"{row.image} ({row.problem})" for row in self.report.itertuples()], 5)
            missing = int((self.report.problem == "no such file").sum())
            counts = [f"{n} {what}" for n, what in ((missing, "missing"), (bad - missing, "broken")) if n]
            text += f"\nleft out, {' and '.join(counts)}: {named}"
            text += f"\n{mend}" if (mend := self.report.attrs.get("mend")) else ""
        return "\n".join([text, *self._cache.notes])

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 (batch, H, W, 3) and targets int8 (batch, attributes) of several images in one read."""
        return self._cache.read(self._rows[indices]), self.targets[indices]

    def map_pixels(
        self, function: Callable[[np.ndarray], np.ndarray], desc: str, keep: str = "", threads: int | None = None
    ) -> np.ndarray:
        """`function` of all images' pixels, handed over as uint8 (batch, H, W, 3) in parallel threads, one a core.

        It returns one row per image; so does this, in the order of the images. What it returned is kept with the pixel cache
        under the name `keep`, if one is given, by each file's content.
        """
        digests = self.digests.to_numpy(str)
        known, kept = self._cache.kept(keep) if keep else (digests[:0], np.empty(0))
        todo = np.flatnonzero(~np.isin(digests, known))
        if len(todo):
            chunks = np.array_split(todo, max(1, -(-len(todo) // _CHUNK)))
            with ThreadPoolExecutor(threads or os.cpu_count()) as executor:
                results = executor.map(lambda chunk: function(self.batch(chunk)[0]), chunks)
                new = np.concatenate(list(bar(results, total=len(chunks), desc=desc, unit="batch")))
            known, kept = np.concatenate([known, digests[todo]]), np.concatenate([kept, new]) if len(kept) else new
            if keep:
                self._cache.keep(keep, known, kept)
        order = np.argsort(known, kind="stable")
        return kept[order[np.searchsorted(known, digests, sorter=order)]]


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
